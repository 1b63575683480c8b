"""What a line of OpenAI's bill pays for: its line item is free text, read as far as it follows the known patterns."""

from __future__ import annotations

import re

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
    rf", (?P<piece>{'|'.join(_TOKEN_TYPE_METERS)})(?P<long>, long context)?"
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


def parse_bill_row(result: Json) -> Row:
    """Return one result of the costs report as nano-USD, its line item kept word for word. Raises Malformed."""
    amount, item = object_field(result, "amount"), str_field(result, "line_item")
    if str_field(amount, "currency").lower() != "usd":
        raise Malformed("an amount is in another currency than USD", "currency")
    meter, model, tier = _parse_line_item(item)
    return Row(meter, money_field(amount, "value", NANO), str_field(result, "project_id"), model, tier, item=item)


def _parse_line_item(item: str) -> tuple[str, str, str]:
    """Read meter, model and tier out of a line item, which is free text: what is not understood pays for `cost`."""
    line = _TOKEN_LINE_ITEM.fullmatch(item)
    if line is None:
        return next((meter for words, meter in _OTHER_LINE_ITEMS.items() if words in item.lower()), COST), "", ""
    tier = line["tier"] or ""
    tier = f"{tier or 'standard'}_long_context" if line["long"] else tier
    return _TOKEN_TYPE_METERS[line["piece"]][_MODALITIES.index(line["modality"] or "text")], line["model"], tier
