"""What a line of OpenAI's bill pays for: its line item is free text, read as far as it follows the known patterns."""

from __future__ import annotations

import re

from exporter.errors import Malformed
from exporter.model import COST, NANO, Row
from exporter.providers.http import Json
from exporter.providers.parsing import money, part, text

_MODALITIES = ("text", "audio", "image")
INPUT = ("uncached_input", "audio_input", "image_input")
CACHED = ("cache_read", "audio_cache_read", "image_cache_read")
OUTPUT = ("output", "audio_output", "image_output")
_PIECES = {"input": INPUT, "cached input": CACHED, "cache writes": ("cache_write",) * 3, "output": OUTPUT}
_TOKEN_LINE = re.compile(
    rf"(?:(?P<tier>\w+) \| )?(?P<model>[^,|]+?)(?: (?P<modality>{'|'.join(_MODALITIES)}))?"
    rf", (?P<piece>{'|'.join(_PIECES)})(?P<long>, long context)?"
)
_OTHER_LINES = {
    "image models": "images",
    "web search": "web_searches",
    "file search": "file_searches",
    "code interpreter": "sessions",
    "vector storage": "bytes",
    "whisper": "seconds",
    "tts": "characters",
}


def bill_row(result: Json) -> Row:
    """Return one result of the costs report as nano-USD, its line item kept word for word. Raises Malformed."""
    amount, item = part(result, "amount"), text(result, "line_item")
    if text(amount, "currency").lower() != "usd":
        raise Malformed("an amount is in another currency than USD", "currency")
    meter, model, tier = _paid_for(item)
    return Row(meter, money(amount, "value", NANO), text(result, "project_id"), model, tier, item=item)


def _paid_for(item: str) -> tuple[str, str, str]:
    """Read meter, model and tier out of a line item, which is free text: what is not understood pays for `cost`."""
    line = _TOKEN_LINE.fullmatch(item)
    if line is None:
        return next((meter for words, meter in _OTHER_LINES.items() if words in item.lower()), COST), "", ""
    tier = line["tier"] or ""
    tier = f"{tier or 'standard'}_long_context" if line["long"] else tier
    return _PIECES[line["piece"]][_MODALITIES.index(line["modality"] or "text")], line["model"], tier
