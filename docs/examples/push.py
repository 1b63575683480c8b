"""Tells ai-spend-exporter what was used: one JSON event per line of stdin, pushed in batches until they are kept.

AI_SPEND_URL (such as http://ai-spend-exporter:10042) and AI_SPEND_TOKEN have to be set. Needs Python 3.9, and nothing
else. Ends with 1 where an event was refused, and says why.
"""

import json
import os
import sys
import time
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import uuid4

BATCH = 300
PAUSES = (1, 2, 4, 8, 16)
"""Seconds between attempts."""


def push(events):
    """Return (event, reason) of those that are not counted. Raises OSError where the exporter takes none."""
    # An id before the first attempt: the next one, after an answer that was lost, is not counted twice.
    named = [{"id": str(uuid4()), **event} for event in events]
    refused = []
    for start in range(0, len(named), BATCH):
        batch = named[start : start + BATCH]
        refused += [(batch[one["index"]], one["reason"]) for one in _answer(batch)["rejected"]]
    return refused


def _answer(batch):
    for pause in PAUSES:
        try:
            return _asked(batch)
        except HTTPError as error:
            if error.code not in (429, 502, 503, 504):
                raise OSError(f"{error.code}: {error.read().decode()}") from None
        except (OSError, HTTPException):
            pass
        time.sleep(pause)
    return _asked(batch)


def _asked(batch):
    request = Request(
        os.environ["AI_SPEND_URL"] + "/api/v1/ai/usage/events/batch",
        json.dumps({"events": batch}).encode(),
        {"Authorization": "Bearer " + os.environ["AI_SPEND_TOKEN"], "Content-Type": "application/json"},
    )
    with urlopen(request, timeout=10) as answer:
        return json.load(answer)


def main():
    """Push what stdin says."""
    try:
        refused = push(json.loads(line) for line in sys.stdin if line.strip())
    except (OSError, ValueError) as error:
        sys.exit(f"not pushed: {error}")
    for event, reason in refused:
        print(f"{event['id']}: {reason}", file=sys.stderr)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
