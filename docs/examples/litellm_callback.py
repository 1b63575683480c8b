"""A LiteLLM callback that pushes the usage and cost of each call to ai-spend-exporter, but no prompt and no reply.

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

BATCH_SIZE = 300
RETRY_DELAY = 2
"""Seconds."""
EXIT_TIMEOUT = 5
"""Seconds that an exiting process waits until queued events are sent."""


class Spend(CustomLogger):
    """Queues the usage of calls; a thread sends it, so that no call waits for the exporter."""

    def __init__(self):
        super().__init__()
        self._events = queue.Queue(maxsize=10_000)
        threading.Thread(target=self._send, daemon=True).start()
        atexit.register(self._finish)

    def log_success_event(self, kwargs, response_obj, start_time, end_time):
        """Queue a call; if LiteLLM logs it twice, as it may with streams, it is counted once."""
        try:
            event = usage(kwargs)
            if event is not None:
                self._events.put_nowait(json.dumps(event, allow_nan=False))
        except queue.Full:
            logger.error("the queue for ai-spend-exporter is full: the usage of a call is lost")
        except Exception as error:  # whatever LiteLLM passes, the gateway must continue
            logger.error("the usage of a call is lost: %r", error)

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        """Queue an asynchronous call."""
        self.log_success_event(kwargs, response_obj, start_time, end_time)

    def _send(self):
        while True:
            batch = [self._events.get()]
            while len(batch) < BATCH_SIZE and not self._events.empty():
                batch.append(self._events.get())
            while not send_batch(batch):
                time.sleep(RETRY_DELAY)
            for _ in batch:
                self._events.task_done()

    def _finish(self):
        end = time.monotonic() + EXIT_TIMEOUT
        while self._events.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.05)


def usage(kwargs):
    """Return the event for LiteLLM's standard logging payload of a call; None if no provider was called."""
    payload = kwargs.get("standard_logging_object")
    if not payload or not payload.get("model") or payload.get("cache_hit"):
        return None
    provider = payload.get("custom_llm_provider") or "unknown"
    metadata = payload.get("metadata") or {}
    usage_object = metadata.get("usage_object") or {}
    details = usage_object.get("prompt_tokens_details") or {}
    cache_write_tokens = details.get("cache_creation_tokens") or usage_object.get("cache_creation_input_tokens")
    return {
        "id": payload["id"],
        "timestamp": payload["startTime"],
        "provider": provider,
        "model": payload["model"].removeprefix(f"{provider}/"),
        "promptTokens": payload.get("prompt_tokens") or 0,
        "completionTokens": payload.get("completion_tokens") or 0,
        "cacheReadTokens": details.get("cached_tokens") or 0,
        "cacheWriteTokens": cache_write_tokens or 0,
        "costUsd": kwargs.get("response_cost"),  # None if LiteLLM has no price; the payload has 0 then
        "workspace": metadata.get("user_api_key_team_alias") or metadata.get("user_api_key_team_id") or "",
        "apiKey": metadata.get("user_api_key_alias") or "",
    }


def send_batch(batch):
    """Send events; return False if they must be sent again. That is safe: each has its id."""
    try:
        request = Request(
            os.environ["AI_SPEND_URL"] + "/api/v1/ai/usage/events/batch",
            f'{{"events": [{", ".join(batch)}]}}'.encode(),
            {"Authorization": "Bearer " + os.environ["AI_SPEND_TOKEN"], "Content-Type": "application/json"},
        )
        with urlopen(request, timeout=10) as response:
            for rejected in json.load(response)["rejected"]:
                logger.error("not counted: %s: %s", rejected["reason"], batch[rejected["index"]])
    except HTTPError as error:
        logger.error("ai-spend-exporter returned %s for %s events", error.code, len(batch))
        return error.code in (400, 413, 422)
    except Exception as error:  # the thread must continue
        logger.error("ai-spend-exporter did not respond, retrying: %r", error)
        return False
    return True


spend = Spend()
