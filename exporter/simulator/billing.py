"""What a day is billed: one charge per line of the provider's own bill, in whole nano-USD."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date

from exporter.model import COST, NANO, TOKEN_METERS, Row
from exporter.simulator.accounts import REPORT_LABELS, SimAccount, Stream
from exporter.simulator.rates import nano_per_unit


@dataclass(frozen=True, slots=True)
class BillLine:
    """What makes a line of a bill a line of its own; a field that this provider's bill cannot tell is empty."""

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
    """One line of a bill with its units and its money."""

    line: BillLine
    units: int
    nano: int

    def to_row(self) -> Row:
        """Return the charge in the words of the exporter."""
        line = self.line
        tier = f"{line.tier}_long_context" if line.context_window == "200k-1M" else line.tier
        return Row(COST, self.nano, line.workspace, line.model, tier, line.api_key, line.label)


def compute_charges(
    account: SimAccount, day: date, usage: Iterable[tuple[Stream, Mapping[str, int]]], factor: float
) -> list[Charge]:
    """Return the bill of a day's final use, each line rounded to whole nano-USD, in order of its first use.

    The account is one at OpenAI or Anthropic: Cursor bills its events one by one. `factor` multiplies the
    money, not the units: the provider's later correction of the bill.
    """
    line_of = _LINE_BUILDERS[account.provider]
    units: dict[BillLine, int] = {}
    money: dict[BillLine, float] = {}
    for stream, meter, count in _split_usage(usage):
        price = nano_per_unit(stream.model, meter, stream.tier, stream.context_window, stream.region)
        line = line_of(stream, meter) if price else None
        if line is not None:
            units[line] = units.get(line, 0) + count
            money[line] = money.get(line, 0.0) + count * price * account.price_factor(stream.model, day)
    rest = (1.0 - account.discount) * factor
    charges = [Charge(line, units[line], round(nano * rest)) for line, nano in money.items()]
    return charges + _extra_charges(account, charges, factor)


def _split_usage(usage: Iterable[tuple[Stream, Mapping[str, int]]]) -> Iterator[tuple[Stream, str, int]]:
    """Yield what is billed at one price: a stream, a meter and its units; long context apart."""
    for stream, use in usage:
        for meter, count in use.items():
            long = int(count * stream.long_context_share) if meter in TOKEN_METERS else 0
            if long:
                yield replace(stream, context_window="200k-1M"), meter, long
            if count > long:
                yield stream, meter, count - long


def _extra_charges(account: SimAccount, charges: Iterable[Charge], factor: float) -> list[Charge]:
    spent: dict[str, int] = {}
    for charge in charges:
        spent[charge.line.workspace] = spent.get(charge.line.workspace, 0) + charge.nano
    money = [
        (extra, round(extra.usd_per_day * NANO * factor + extra.usage_cost_share * spent.get(extra.workspace, 0)))
        for extra in account.extra_charges
    ]
    return [
        Charge(BillLine(extra.workspace, extra.label, cost_type=extra.cost_type), 0, nano)
        for extra, nano in money
        if nano
    ]


def _openai_line(stream: Stream, meter: str) -> BillLine:
    line = BillLine(stream.workspace, "", stream.api_key, meter=meter)
    if meter in _OPENAI_UNITS:
        label, unit = _OPENAI_UNITS[meter]
        return replace(line, label=label, unit=unit)
    model = stream.billed_model or stream.model
    modality, piece = _OPENAI_TOKEN_TYPES[meter]
    mixed = any(name.startswith(("audio", "image")) for name, _ in stream.mix)
    name = f"{model} {modality}" if mixed else model
    tier = stream.tier if "tier" in REPORT_LABELS[stream.report] else ""
    prefix = "" if tier in {"", "standard"} else f"{tier} | "
    suffix = ", long context" if stream.context_window == "200k-1M" else ""
    label = f"{prefix}{name}, {piece}{suffix}"
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
    """Turn a Claude model's id into the name on the bill: claude-sonnet-4-5-20250929 -> Claude Sonnet 4.5."""
    words = re.sub(r"-20\d{6}$", "", model).split("-")
    names = [word.capitalize() for word in words if not word.isdigit()]
    return " ".join([*names, ".".join(word for word in words if word.isdigit())]).strip()


_LINE_BUILDERS = {"openai": _openai_line, "anthropic": _anthropic_line}
