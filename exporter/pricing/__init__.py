"""Pricing: usage and bills become nano-USD per hour. Everything but `valuer` is a pure function of its arguments.

Providers report usage within minutes and their bill per UTC day, hours or days later. A day is therefore valued twice:

1. An *open* day has no bill yet. Its cost is an estimate: units x rate, plus the unattributed costs that the newest
   bills lead to expect (`valuation`, `unattributed_costs`).
2. A *billed* day costs exactly its bill. Each row of the bill is *matched* to the usage that it pays for (`matching`)
   and *allocated* to the hours and API keys of that usage in proportion to units x rate (`valuation`). A row that pays
   for no usage, such as storage, a session fee or a credit, is an *unattributed cost*: a fee or a one-time charge is
   even over the day, any other follows the hours of its workspace's usage, before and after the bill alike.

A bill counts only when it is *complete* (`bill_completeness`): providers write some rows hours or days after others.

Allocating a bill also yields *evidence* (`bill_evidence`): per workspace and price key the units used and the amount
billed for them, and the unattributed costs. The evidence of the newest billed days is the source of the rates for open
days (`learned_rates`), so discounts, uplifts, price changes and models without a list price need no configuration.

The rate of a unit, first match wins:

1. a negotiated price from the configuration;
2. the learned rate: amount / units of the newest billed day, pooled with older days billed at the same price; where a
   part of each day is free (`free_allowances`), the slope of amount over units; where tokens beyond a monthly volume
   have another price (`volume_tiers`), the one below it;
3. the learned rate of the same model and meter in another tier, times the ratio of the two list prices;
4. the list price (`list_prices`, from genai-prices) times the ratio billed / list price of the model, else of the
   account;
5. none: tokens without a rate are reported as unpriced and cost nothing until their first bill.

Invariants, held by property tests:

- The hours of a billed day sum to its bill to the nano-USD, in total and, where every row states a workspace, per
  workspace. `apportion` guarantees it: shares always sum to the amount that is divided.
- The order of rows, within a report or a bill, changes nothing. Every result is built from sorted sums.
- Equal usage at equal prices is estimated at its bill, to a nano-USD per row of usage.
- Without credits no hour is negative, and a credit cancels its charge in the hours in which the charge is.
- A version of a bill that is not complete changes neither the cost of its day nor any rate.

Amounts are integers in nano-USD and rates are exact fractions: no float occurs, so no sum depends on rounding.
"""
