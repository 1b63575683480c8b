"""The bill of a simulated day: one charge per line, as the provider itemises it, in whole nano-USD."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from fnmatch import fnmatchcase

from exporter.model import COST, DAY, NANO, TOKEN_METERS, Row
from exporter.simulator.accounts import REPORT_LABELS, SimAccount, Stream
from exporter.simulator.billing_terms import BillStage, identity_rank
from exporter.simulator.rates import nano_per_unit

MINIMUM_CHARGE_LABEL = "Minimum charge"
"""The line that has the difference between a day's usage and the account's minimum charge."""


@dataclass(frozen=True, slots=True)
class BillLine:
    """The identity of a line on a bill; a field that the provider's bill does not have is empty."""

    workspace: str
    label: str
    api_key: str = ""
    model: str = ""
    tier: str = ""
    meter: str = ""
    context_window: str = ""
    region: str = ""
    unit: str = ""
    cost_type: str = ""


@dataclass(frozen=True, slots=True)
class Charge:
    """One line of a bill with its units and its cost."""

    line: BillLine
    units: int
    nano: int

    def to_row(self) -> Row:
        """Return the charge as a row of the exporter."""
        line = self.line
        tier = f"{line.tier}_long_context" if line.context_window == "200k-1M" else line.tier
        return Row(COST, self.nano, line.workspace, line.model, tier, line.api_key, line.label)


def compute_charges(
    account: SimAccount,
    day: date,
    usage: Sequence[tuple[Stream, Mapping[str, int]]],
    factor: float,
    month_tokens: Mapping[str, int] | None = None,
) -> list[Charge]:
    """Return the bill of a day's final usage; each line is rounded to whole nano-USD, in order of its first usage.

    The account is at OpenAI or Anthropic: Cursor charges per event. `factor` is the provider's later correction of
    the bill; it multiplies the cost, not the units. `month_tokens` is model -> tokens of the month before this day,
    which only volume discounts depend on.
    """
    build_line = _LINE_BUILDERS[account.provider]
    day_tokens = sum_tokens(usage)
    billed_shares = {model: _billed_share(account, model, day_tokens) for model in day_tokens}
    volume_factors = {
        model: _volume_factor(account, model, (month_tokens or {}).get(model, 0), tokens)
        for model, tokens in day_tokens.items()
    }
    units: dict[BillLine, int] = {}
    costs: dict[BillLine, float] = {}
    for stream, meter, count in _split_usage(usage):
        price = nano_per_unit(stream.model, meter, stream.tier, stream.context_window, stream.region)
        line = build_line(stream, meter) if price else None
        if line is not None:
            billed = count
            if meter in TOKEN_METERS:
                billed = round(count * billed_shares[stream.model])
                price *= volume_factors[stream.model]
            units[line] = units.get(line, 0) + billed
            costs[line] = costs.get(line, 0.0) + billed * price * account.price_factor(stream.model, day)
    cost_factor = (1.0 - account.discount) * factor
    charges = [Charge(line, units[line], round(nano * cost_factor)) for line, nano in costs.items()]
    charges += _extra_charges(account, day, charges, factor)
    charges += _minimum_charge(account, charges, factor)
    return _remove_workspaces(charges, account.unassigned_line_share)


def sum_tokens(usage: Iterable[tuple[Stream, Mapping[str, int]]]) -> dict[str, int]:
    """Return model -> tokens of all streams."""
    tokens: dict[str, int] = {}
    for stream, units in usage:
        counted = sum(count for meter, count in units.items() if meter in TOKEN_METERS)
        tokens[stream.model] = tokens.get(stream.model, 0) + counted
    return tokens


def _billed_share(account: SimAccount, model: str, day_tokens: Mapping[str, int]) -> float:
    """Return the share of a model's tokens that remains after the free ones of the day."""
    for free in account.free_tokens:
        if fnmatchcase(model, free.model):
            used = sum(tokens for name, tokens in day_tokens.items() if fnmatchcase(name, free.model))
            return max(0.0, 1.0 - free.tokens_per_day / used) if used else 1.0
    return 1.0


def _volume_factor(account: SimAccount, model: str, tokens_before: int, tokens: int) -> float:
    """Return the mean price factor of a day's tokens, of which those beyond the monthly volume are discounted."""
    for discount in account.volume_discounts:
        if tokens and fnmatchcase(model, discount.model):
            full_price = min(tokens, max(0, discount.tokens_per_month - tokens_before))
            return (full_price + (tokens - full_price) * discount.factor) / tokens
    return 1.0


def issued_charges(account: SimAccount, day: datetime, charges: Sequence[Charge], now: datetime) -> tuple[Charge, ...]:
    """Return the part of the final bill of the UTC day `day` that the provider answers at the time `now`."""
    if any(outage.since <= now < outage.until for outage in account.bill_outages):
        return ()
    age = now - (day + DAY)
    stages = account.bill_stages or (BillStage(account.bill_delay),)
    stage = max((stage for stage in stages if stage.delay <= age), key=lambda stage: stage.delay, default=None)
    if stage is None:
        return ()
    issued_lines = _choose_lines(charges, stage.line_share)
    return tuple(
        _scale(charge, stage.amount_share)
        for charge in charges
        if charge.line in issued_lines and _line_delay(account, charge.line) <= age
    )


def _choose_lines(charges: Iterable[Charge], share: float) -> set[BillLine]:
    """Return a share of the lines; which lines depends on their identity alone, unless lines come or go."""
    lines = sorted(
        (charge.line for charge in charges), key=lambda line: identity_rank(line.workspace, line.label, line.api_key)
    )
    return set(lines[: round(share * len(lines))])


def _line_delay(account: SimAccount, line: BillLine) -> timedelta:
    delays = (late.delay for late in account.line_delays if fnmatchcase(line.label, late.label))
    return next(delays, timedelta(0))


def _scale(charge: Charge, share: float) -> Charge:
    if share == 1.0:
        return charge
    return replace(charge, units=round(charge.units * share), nano=round(charge.nano * share))


def _remove_workspaces(charges: Sequence[Charge], share: float) -> list[Charge]:
    """Return the charges, a share of the lines without their workspace."""
    unassigned = _choose_lines(charges, share)
    return [
        replace(charge, line=replace(charge.line, workspace="")) if charge.line in unassigned else charge
        for charge in charges
    ]


def _split_usage(usage: Iterable[tuple[Stream, Mapping[str, int]]]) -> Iterator[tuple[Stream, str, int]]:
    """Yield (stream, meter, units) of equal price: long context is separate."""
    for stream, stream_units in usage:
        for meter, count in stream_units.items():
            long_context = int(count * stream.long_context_share) if meter in TOKEN_METERS else 0
            if long_context:
                yield replace(stream, context_window="200k-1M"), meter, long_context
            if count > long_context:
                yield stream, meter, count - long_context


def _extra_charges(account: SimAccount, day: date, charges: Iterable[Charge], factor: float) -> list[Charge]:
    cost_by_workspace: dict[str, int] = {}
    for charge in charges:
        workspace = charge.line.workspace
        cost_by_workspace[workspace] = cost_by_workspace.get(workspace, 0) + charge.nano
    extra_charges: list[Charge] = []
    for extra in account.extra_charges:
        if not extra.occurs_on(day):
            continue
        fixed = extra.usd_per_day * NANO * factor
        nano = round(fixed + extra.usage_cost_share * cost_by_workspace.get(extra.workspace, 0))
        if nano:
            extra_charges.append(Charge(BillLine(extra.workspace, extra.label, cost_type=extra.cost_type), 0, nano))
    return extra_charges


def _minimum_charge(account: SimAccount, charges: Sequence[Charge], factor: float) -> list[Charge]:
    """Return the charge that raises the bill of a day with usage to the account's minimum; empty if it is above it."""
    missing = round(account.minimum_charge_usd * NANO * factor) - sum(charge.nano for charge in charges)
    return [Charge(BillLine("", MINIMUM_CHARGE_LABEL), 0, missing)] if charges and missing > 0 else []


def _openai_line(stream: Stream, meter: str) -> BillLine:
    line = BillLine(stream.workspace, "", stream.api_key, meter=meter)
    if meter in _OPENAI_UNITS:
        label, unit = _OPENAI_UNITS[meter]
        return replace(line, label=label, unit=unit)
    model = stream.billed_model or stream.model
    modality, token_type = _OPENAI_TOKEN_TYPES[meter]
    is_multimodal = any(name.startswith(("audio", "image")) for name, _ in stream.mix)
    name = f"{model} {modality}" if is_multimodal else model
    tier = stream.tier if "tier" in REPORT_LABELS[stream.report] else ""
    prefix = "" if tier in {"", "standard"} else f"{tier} | "
    suffix = ", long context" if stream.context_window == "200k-1M" else ""
    label = f"{prefix}{name}, {token_type}{suffix}"
    return replace(line, label=label, model=model, tier=tier, context_window=stream.context_window, unit="tokens")


_OPENAI_UNITS = {
    "web_searches": ("web search tool calls", ""),
    "file_searches": ("assistants api | file search", ""),
    "sessions": ("assistants api | code interpreter", ""),
    "images": ("Image models", "images"),
    "seconds": ("whisper", "duration_seconds"),
    "characters": ("tts hd", "characters"),
    "bytes": ("Vector storage", "gibibyte_hours"),
}
_OPENAI_TOKEN_TYPES = {
    "uncached_input": ("text", "input"),
    "cache_read": ("text", "cached input"),
    "cache_write": ("text", "cache writes"),
    "output": ("text", "output"),
    "audio_input": ("audio", "input"),
    "audio_cache_read": ("audio", "cached input"),
    "audio_output": ("audio", "output"),
    "image_input": ("image", "input"),
    "image_cache_read": ("image", "cached input"),
    "image_output": ("image", "output"),
}


def _anthropic_line(stream: Stream, meter: str) -> BillLine | None:
    if stream.tier == "priority":
        return None
    if meter == "web_searches":
        return BillLine(stream.workspace, "Web Search Usage", meter=meter)
    context = stream.context_window or "0-200k"
    suffix = ", Long Context" if context == "200k-1M" else ""
    model = stream.billed_model or stream.model
    label = f"{display_name(model)} Usage - {_ANTHROPIC_TOKEN_TYPES[meter]}{suffix}"
    return BillLine(
        workspace=stream.workspace,
        label=label,
        model=model,
        tier=stream.tier,
        meter=meter,
        context_window=context,
        region=stream.region or "global",
    )


_ANTHROPIC_TOKEN_TYPES = {
    "uncached_input": "Input Tokens",
    "output": "Output Tokens",
    "cache_read": "Input Tokens, Cache Hit",
    "cache_write_5m": "Input Tokens, Cache Write",
    "cache_write_1h": "Input Tokens, Cache Write",
}


def display_name(model: str) -> str:
    """Return the name on the bill of a Claude model's id: claude-sonnet-4-5-20250929 -> Claude Sonnet 4.5."""
    words = re.sub(r"-20\d{6}$", "", model).split("-")
    names = [word.capitalize() for word in words if not word.isdigit()]
    return " ".join([*names, ".".join(word for word in words if word.isdigit())]).strip()


def _openrouter_line(stream: Stream, meter: str) -> BillLine:  # noqa: ARG001 - a line has all meters of a model
    return BillLine(stream.workspace, stream.model, model=stream.model, tier=stream.tier)


_LINE_BUILDERS = {"openai": _openai_line, "anthropic": _anthropic_line, "openrouter": _openrouter_line}
