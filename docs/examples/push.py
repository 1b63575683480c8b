"""Pushes usage events to ai-spend-exporter: one JSON event per line of stdin, in batches, with retries.

AI_SPEND_URL (such as http://ai-spend-exporter:10042) and AI_SPEND_TOKEN must be set. Requires Python 3.9 and no
packages. Exits with 1 and the reason if an event was rejected.
"""

import json
import os
import sys
import time
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import uuid4

BATCH_SIZE = 300
RETRY_DELAYS = (1, 2, 4, 8, 16)
"""Seconds."""


def push(events):
    """Push events; return (event, reason) of the rejected ones. Raises OSError if a batch cannot be pushed."""
    # Events get their id before the first attempt: then a retry after a lost response is not counted twice.
    identified = [{"id": str(uuid4()), **event} for event in events]
    rejected = []
    for start in range(0, len(identified), BATCH_SIZE):
        batch = identified[start : start + BATCH_SIZE]
        result = _push_batch(batch)
        rejected += [(batch[rejection["index"]], rejection["reason"]) for rejection in result["rejected"]]
    return rejected


def _push_batch(batch):
    for delay in RETRY_DELAYS:
        try:
            return _send(batch)
        except HTTPError as error:
            if error.code not in (429, 502, 503, 504):
                raise OSError(f"{error.code}: {error.read().decode()}") from None
        except (OSError, HTTPException):
            pass
        time.sleep(delay)
    return _send(batch)


def _send(batch):
    request = Request(
        os.environ["AI_SPEND_URL"] + "/api/v1/ai/usage/events/batch",
        json.dumps({"events": batch}).encode(),
        {"Authorization": "Bearer " + os.environ["AI_SPEND_TOKEN"], "Content-Type": "application/json"},
    )
    with urlopen(request, timeout=10) as response:
        return json.load(response)


def main():
    """Push the events of stdin."""
    try:
        rejected = push(json.loads(line) for line in sys.stdin if line.strip())
    except (OSError, ValueError) as error:
        sys.exit(f"not pushed: {error}")
    for event, reason in rejected:
        print(f"{event['id']}: {reason}", file=sys.stderr)
    return 1 if rejected else 0


if __name__ == "__main__":
    sys.exit(main())
