"""A LiteLLM callback that tells ai-spend-exporter what each call used and cost; no prompt and no reply is ever sent.

Put it beside LiteLLM's config.yaml, name it there (`litellm_settings: {callbacks: litellm_callback.spend}`), and set
AI_SPEND_URL (such as http://ai-spend-exporter:10042) and AI_SPEND_TOKEN.
"""

import atexit
import json
import logging
import os
import queue
import threading
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from litellm.integrations.custom_logger import CustomLogger

logger = logging.getLogger("ai-spend")

BATCH = 300
PAUSE = 2
"""Seconds between attempts."""
LAST = 5
"""Seconds that a process which ends waits for what is still to be sent."""


class Spend(CustomLogger):
    """Queues what was used; a thread of its own sends it, so that no call ever waits for the exporter."""

    def __init__(self):
        super().__init__()
        self._events = queue.Queue(maxsize=10_000)
        threading.Thread(target=self._send, daemon=True).start()
        atexit.register(self._finish)

    def log_success_event(self, kwargs, response_obj, start_time, end_time):
        """Take note of a call; one that is told twice, as streams may be, is counted once."""
        try:
            event = usage(kwargs)
            if event is not None:
                self._events.put_nowait(json.dumps(event, allow_nan=False))
        except queue.Full:
            logger.error("ai-spend-exporter has not answered for long: the use of a call is lost")
        except Exception as error:  # whatever LiteLLM tells, the gateway goes on
            logger.error("the use of a call is lost: %r", error)

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        """Take note of a call that was awaited."""
        self.log_success_event(kwargs, response_obj, start_time, end_time)

    def _send(self):
        while True:
            batch = [self._events.get()]
            while len(batch) < BATCH and not self._events.empty():
                batch.append(self._events.get())
            while not settled(batch):
                time.sleep(PAUSE)
            for _ in batch:
                self._events.task_done()

    def _finish(self):
        end = time.monotonic() + LAST
        while self._events.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.05)


def usage(kwargs):
    """Return what LiteLLM's standard logging payload tells of a call, as an event; None where nobody was asked."""
    told = kwargs.get("standard_logging_object")
    if not told or not told.get("model") or told.get("cache_hit"):
        return None
    provider, who = told.get("custom_llm_provider") or "unknown", told.get("metadata") or {}
    counted = who.get("usage_object") or {}
    details = counted.get("prompt_tokens_details") or {}
    return {
        "id": told["id"],
        "timestamp": told["startTime"],
        "provider": provider,
        "model": told["model"].removeprefix(f"{provider}/"),
        "promptTokens": told.get("prompt_tokens") or 0,
        "completionTokens": told.get("completion_tokens") or 0,
        "cacheReadTokens": details.get("cached_tokens") or 0,
        "cacheWriteTokens": details.get("cache_creation_tokens") or counted.get("cache_creation_input_tokens") or 0,
        "costUsd": kwargs.get("response_cost"),  # the payload says 0 where LiteLLM knows no price, this says None
        "workspace": who.get("user_api_key_team_alias") or who.get("user_api_key_team_id") or "",
        "apiKey": who.get("user_api_key_alias") or "",
    }


def settled(batch):
    """Send events; tell whether there is nothing left to try. To send them again is safe: each has its id."""
    try:
        request = Request(
            os.environ["AI_SPEND_URL"] + "/api/v1/ai/usage/events/batch",
            f'{{"events": [{", ".join(batch)}]}}'.encode(),
            {"Authorization": "Bearer " + os.environ["AI_SPEND_TOKEN"], "Content-Type": "application/json"},
        )
        with urlopen(request, timeout=10) as answer:
            for one in json.load(answer)["rejected"]:
                logger.error("not counted: %s: %s", one["reason"], batch[one["index"]])
    except HTTPError as error:
        logger.error("ai-spend-exporter answers %s to %s events", error.code, len(batch))
        return error.code in (400, 413, 422)
    except Exception as error:  # the thread goes on
        logger.error("ai-spend-exporter has not answered, trying again: %r", error)
        return False
    return True


spend = Spend()
