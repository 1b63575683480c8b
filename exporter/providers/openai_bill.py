"""Parse the line items of OpenAI's costs report: free text, of which the known patterns are understood."""

from __future__ import annotations

import re
from typing import NamedTuple

from exporter.errors import Malformed
from exporter.model import COST, NANO, Row
from exporter.providers.http import Json
from exporter.providers.parsing import money_field, object_field, str_field

_MODALITIES = ("text", "audio", "image")
INPUT_METERS = ("uncached_input", "audio_input", "image_input")
CACHE_READ_METERS = ("cache_read", "audio_cache_read", "image_cache_read")
OUTPUT_METERS = ("output", "audio_output", "image_output")
_TOKEN_TYPE_METERS = {
    "input": INPUT_METERS,
    "cached input": CACHE_READ_METERS,
    "cache writes": ("cache_write",) * 3,
    "output": OUTPUT_METERS,
}
_TOKEN_LINE_ITEM = re.compile(
    rf"(?:(?P<tier>\w+) \| )?(?P<model>[^,|]+?)(?: (?P<modality>{'|'.join(_MODALITIES)}))?"
    rf", (?P<token_type>{'|'.join(_TOKEN_TYPE_METERS)})(?P<long>, long context)?"
)
_OTHER_LINE_ITEMS = {
    "image models": "images",
    "web search": "web_searches",
    "file search": "file_searches",
    "code interpreter": "sessions",
    "vector storage": "bytes",
    "whisper": "seconds",
    "tts": "characters",
}


class _LineItem(NamedTuple):
    """What a line of the bill pays for."""

    meter: str
    model: str = ""
    tier: str = ""


def parse_bill_row(result: Json) -> Row:
    """Return one result of the costs report as a row in nano-USD; `item` is the line item. Raises Malformed."""
    amount, item = object_field(result, "amount"), str_field(result, "line_item")
    if str_field(amount, "currency").lower() != "usd":
        raise Malformed("an amount is in a currency other than USD", "currency")
    line = _parse_line_item(item)
    value = money_field(amount, "value", NANO)
    return Row(line.meter, value, str_field(result, "project_id"), line.model, line.tier, item=item)


def _parse_line_item(item: str) -> _LineItem:
    """Return what a line item pays for; a text of an unknown pattern pays for the meter `cost`."""
    match = _TOKEN_LINE_ITEM.fullmatch(item)
    if match is None:
        lowercase = item.lower()
        for words, meter in _OTHER_LINE_ITEMS.items():
            if words in lowercase:
                return _LineItem(meter)
        return _LineItem(COST)
    tier = match["tier"] or ""
    if match["long"]:
        tier = f"{tier or 'standard'}_long_context"
    modality = _MODALITIES.index(match["modality"] or "text")
    return _LineItem(_TOKEN_TYPE_METERS[match["token_type"]][modality], match["model"], tier)
