"""A small world for each situation in which an estimate can be wrong: an account, some days, and the maximum error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from exporter.model import DAY
from exporter.simulator.accounts import CHAT, ExtraCharge, Mix, PriceChange, SimAccount, Stream

MONDAY = datetime(2026, 11, 2, tzinfo=UTC)
STABLE_MIX_ERROR, SHIFTING_MIX_ERROR = 0.001, 0.01
"""Maximum errors of an estimate: where the mix is the same from day to day, and where it is not."""

_CLAUDE_MIX: Mix = (("uncached_input", 900.0), ("cache_read", 9800.0), ("cache_write_5m", 1300.0), ("output", 520.0))
_CLAUDE_1H_CACHE_MIX: Mix = (*_CLAUDE_MIX, ("cache_write_1h", 2600.0))
_CLAUDE_LONG_CONTEXT_MIX: Mix = (("uncached_input", 260_000.0), ("cache_read", 40_000.0), ("output", 2100.0))
_BATCH_MIX: Mix = (("uncached_input", 2300.0), ("output", 260.0))
_GPT, _MINI, _TERRA = "gpt-5.4-2026-03-05", "gpt-5.4-mini-2026-03-17", "gpt-5.6-terra"
_OPUS, _SONNET, _HAIKU = "claude-opus-5", "claude-sonnet-5", "claude-haiku-4-5-20251001"
_BUSY_EARLY = (2.0, 0.4, 1.6, 0.3, 1.5, 3.0, 1.0)
_BUSY_LATE = (0.4, 2.0, 0.5, 1.8, 0.6, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One situation; days are counted from 0, the first day of use."""

    name: str
    description: str
    """The situation, for the table."""
    account: SimAccount
    max_error: float
    """The largest error of an estimate that is made after the first bill."""
    days: int = 5
    first_day: datetime = MONDAY
    excluded_days: frozenset[int] = frozenset()
    """Days with a change that no bill can show yet: no accuracy is claimed for them."""
    restatements: Mapping[int, tuple[int, float]] = field(default_factory=dict)
    """In the morning after a day: the earlier day whose bill is changed then, and by which factor."""

    def day(self, number: int) -> datetime:
        """Return the midnight with which a day begins."""
        return self.first_day + number * DAY


def _claude_stream(model: str, tier: str = "standard", mix: Mix = _CLAUDE_MIX, **more: Any) -> Stream:
    return Stream("wrkspc_a", model, tier, report="messages", **{"daily_requests": 3000.0, "mix": mix, **more})


def _gpt_stream(model: str, tier: str = "standard", mix: Mix = CHAT, **more: Any) -> Stream:
    return Stream("proj_a", model, tier, **{"daily_requests": 3000.0, "mix": mix, **more})


def _account(provider: Literal["openai", "anthropic"], *streams: Stream, **more: Any) -> SimAccount:
    key = {"openai": "sk-admin-scenario", "anthropic": "sk-ant-admin01-scenario"}[provider]
    workspaces = {stream.workspace: "A" for stream in streams}
    return SimAccount("acme", provider, "platform", key, "Acme", streams, workspaces, **more)


_TWO_CLAUDES = (_claude_stream(_SONNET), _claude_stream(_HAIKU))
_TWO_GPTS = (_gpt_stream(_GPT), _gpt_stream(_MINI))
_OWN_PROJECT = replace(_gpt_stream(_MINI), workspace="proj_b")


def _price_scenarios() -> list[Scenario]:
    return [
        Scenario(
            "list price",
            "everything is billed at list prices",
            _account("openai", *_TWO_GPTS, _gpt_stream(_MINI, "batch", _BATCH_MIX, load_profile="nightly")),
            STABLE_MIX_ERROR,
            days=4,
        ),
        Scenario(
            "discount",
            "17 % less than list, which no configuration states",
            _account("anthropic", *_TWO_CLAUDES, discount=0.17),
            STABLE_MIX_ERROR,
            days=8,
        ),
        Scenario(
            "price change",
            "all models 20 % dearer from the fifth day on, a single model by another 50 %",
            _account(
                "openai",
                *_TWO_GPTS,
                discount=0.1,
                price_changes=(
                    PriceChange((MONDAY + 4 * DAY).date(), 1.2),
                    PriceChange((MONDAY + 4 * DAY).date(), 1.5, "gpt-5.4-mini*"),
                ),
            ),
            STABLE_MIX_ERROR,
            days=8,
            excluded_days=frozenset({4}),
        ),
        Scenario(
            "new model",
            "a model without a list price, used from the fourth day on",
            _account(
                "anthropic",
                *_TWO_CLAUDES,
                _claude_stream("claude-nova-1", since=(MONDAY + 3 * DAY).date()),
                discount=0.1,
            ),
            STABLE_MIX_ERROR,
            days=7,
            excluded_days=frozenset({3}),
        ),
        Scenario(
            "unlisted model",
            "most of the money is a model's without a list price, from the first day on",
            _account(
                "openai", _gpt_stream("gpt-nova"), _gpt_stream(_MINI, daily_requests=500.0), amount_format="string"
            ),
            STABLE_MIX_ERROR,
        ),
    ]


def _dimension_scenarios() -> list[Scenario]:
    return [
        Scenario(
            "batch and 1 h cache",
            "half-price batches and cache writes of both lifetimes, 12 % off",
            _account(
                "anthropic",
                _claude_stream(_OPUS, mix=_CLAUDE_1H_CACHE_MIX),
                _claude_stream(_OPUS, "batch", _CLAUDE_1H_CACHE_MIX, load_profile="nightly"),
                _claude_stream(_SONNET, "batch", _BATCH_MIX, load_profile="nightly"),
                discount=0.12,
            ),
            STABLE_MIX_ERROR,
        ),
        Scenario(
            "first batch",
            "a tier used for the first time on the fourth day, 17 % off",
            _account(
                "openai",
                _gpt_stream(_MINI),
                _gpt_stream(_MINI, "batch", load_profile="nightly", since=(MONDAY + 3 * DAY).date()),
                _gpt_stream(_GPT),
                discount=0.17,
            ),
            STABLE_MIX_ERROR,
        ),
        Scenario(
            "long context, reported",
            "requests of more than 200,000 tokens, which Anthropic's usage reports as such",
            _account(
                "anthropic",
                _claude_stream("claude-sonnet-4-5-20250929"),
                _claude_stream(
                    "claude-sonnet-4-5-20250929",
                    mix=_CLAUDE_LONG_CONTEXT_MIX,
                    daily_requests=60.0,
                    context_window="200k-1M",
                ),
                discount=0.1,
            ),
            STABLE_MIX_ERROR,
        ),
        Scenario(
            "long context, unreported",
            "30 % of a model's tokens are billed as long context, which OpenAI's usage does not report",
            _account("openai", _gpt_stream(_GPT, long_context_share=0.3), _gpt_stream(_MINI), discount=0.1),
            STABLE_MIX_ERROR,
        ),
        Scenario(
            "long context, changing",
            "the unreported part, some 3 % of the tokens, changes a little from day to day",
            _account(
                "openai",
                _gpt_stream(_GPT, daily_requests=2820.0),
                _gpt_stream(
                    _GPT,
                    daily_requests=180.0,
                    long_context_share=0.5,
                    weekday_factors=(1.0, 1.05, 0.97, 1.06, 1.0, 0.95, 1.05),
                ),
                discount=0.1,
            ),
            SHIFTING_MIX_ERROR,
        ),
        Scenario(
            "region, unreported",
            "a fifth of the use is billed with a regional uplift, a share that changes from day to day",
            _account(
                "anthropic",
                _claude_stream(_SONNET, daily_requests=2400.0),
                _claude_stream(
                    _SONNET, daily_requests=600.0, region="us", weekday_factors=(1.0, 1.2, 0.9, 1.1, 1.0, 0.9, 1.1)
                ),
            ),
            SHIFTING_MIX_ERROR,
        ),
        Scenario(
            "names differ",
            "the bill writes models with a date where usage does not, and the other way round",
            _account(
                "openai",
                _gpt_stream(_GPT, billed_model="gpt-5.4"),
                _gpt_stream(_MINI, billed_model="gpt-5.4-mini"),
                _gpt_stream(_TERRA, billed_model="gpt-5.6-terra-2026-07-09"),
                discount=0.17,
            ),
            STABLE_MIX_ERROR,
        ),
        Scenario(
            "priority tier",
            "Anthropic's priority tokens are in the usage and never on the bill",
            _account(
                "anthropic", *_TWO_CLAUDES, _claude_stream(_OPUS, "priority", daily_requests=1500.0), discount=0.05
            ),
            STABLE_MIX_ERROR,
        ),
    ]


def _bill_scenarios() -> list[Scenario]:
    return [
        Scenario(
            "late bill",
            "every bill appears two days after its day",
            _account("openai", *_TWO_GPTS, discount=0.17, bill_delay=2 * DAY),
            STABLE_MIX_ERROR,
            days=8,
        ),
        Scenario(
            "restated bill",
            "bills of closed days are changed afterwards, one up and one down",
            _account("anthropic", *_TWO_CLAUDES, discount=0.05),
            STABLE_MIX_ERROR,
            days=7,
            restatements={3: (1, 1.1), 5: (3, 0.8)},
        ),
        Scenario(
            "session money",
            "session runtime and code execution on the bill, in step with the use",
            _account(
                "anthropic",
                *_TWO_CLAUDES,
                discount=0.17,
                extra_charges=(
                    ExtraCharge("wrkspc_a", "Session Runtime Usage", usage_cost_share=0.08, cost_type="session_usage"),
                    ExtraCharge("wrkspc_a", "Code Execution Usage", usage_cost_share=0.03, cost_type="code_execution"),
                ),
            ),
            STABLE_MIX_ERROR,
            days=8,
        ),
        Scenario(
            "storage alone",
            "a project that only keeps files: the same money every day and no usage at all",
            _account(
                "openai", *_TWO_GPTS, extra_charges=(ExtraCharge("proj_archive", "Vector storage", usd_per_day=4.0),)
            ),
            STABLE_MIX_ERROR,
            days=7,
        ),
        Scenario(
            "storage in use",
            "the same money for storage every day in a project whose use varies, on working days",
            _account(
                "openai",
                _gpt_stream(_GPT),
                _OWN_PROJECT,
                extra_charges=(ExtraCharge("proj_b", "Vector storage", usd_per_day=1.5),),
            ),
            SHIFTING_MIX_ERROR,
            days=5,
        ),
    ]


def _calendar_scenarios() -> list[Scenario]:
    return [
        Scenario(
            "month change",
            "October becomes November",
            _account("openai", *_TWO_GPTS, discount=0.17, amount_format="string"),
            STABLE_MIX_ERROR,
            days=6,
            first_day=datetime(2026, 10, 29, tzinfo=UTC),
        ),
        Scenario(
            "days off",
            "nobody works at the weekend",
            _account(
                "anthropic",
                *(replace(stream, weekday_factors=(1.0,) * 5 + (0.0, 0.0)) for stream in _TWO_CLAUDES),
                discount=0.17,
                bill_delay=timedelta(hours=7),
            ),
            STABLE_MIX_ERROR,
            first_day=MONDAY + 2 * DAY,
            days=7,
        ),
        Scenario(
            "mix shift",
            "shares of models and tiers change from day to day, 17 % off",
            _account(
                "openai",
                _gpt_stream(_GPT, weekday_factors=_BUSY_EARLY),
                _gpt_stream(_MINI, daily_requests=9000.0, weekday_factors=_BUSY_LATE),
                _gpt_stream(_TERRA, "flex", _BATCH_MIX, daily_requests=6000.0, weekday_factors=_BUSY_LATE[::-1]),
                _gpt_stream(
                    _GPT,
                    "batch",
                    _BATCH_MIX,
                    daily_requests=6000.0,
                    load_profile="nightly",
                    weekday_factors=_BUSY_EARLY[::-1],
                ),
                discount=0.17,
            ),
            SHIFTING_MIX_ERROR,
            days=8,
        ),
    ]


SCENARIOS = {
    scenario.name: scenario
    for scenario in (*_price_scenarios(), *_dimension_scenarios(), *_bill_scenarios(), *_calendar_scenarios())
}
