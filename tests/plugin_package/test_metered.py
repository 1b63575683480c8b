"""Metered AI passes the contract of ai-spend-exporter."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import ClassVar

import pytest

from exporter.providers import load_providers, provider_options_model
from exporter.providers.base import COST, DAY, REQUESTS, Row
from exporter.providers.testing import ContractApi, FakeApi, ProviderContract, ReceivedRequest, Reply

METERED = load_providers()["metered"]
WORKSPACES = {"w1": "Support", "w2": "Search", "w3": "Research"}
MODELS = ("small", "medium", "large", "vision")
INPUT_TOKENS, OUTPUT_TOKENS, CALLS = 1000, 200, 10
PRICE_NANO = 1_234_567


def usage_entries(day: date) -> list[dict[str, object]]:
    """Return a day's usage as the API reports it."""
    counts = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS, "requests": CALLS}
    return [
        {"date": day.isoformat(), "workspace": workspace, "model": model, **counts}
        for workspace in WORKSPACES
        for model in MODELS
    ]


def cost_entries(day: date) -> list[dict[str, object]]:
    """Return a day's bill as the API reports it."""
    entries = []
    for entry in usage_entries(day):
        item = f"{entry['model']} usage"
        entries.append({"date": entry["date"], "workspace": entry["workspace"], "item": item, "usd": "0.001234567"})
    return entries


def respond(request: ReceivedRequest) -> Reply:
    """Answer a request as Metered AI does."""
    path = request.path.removeprefix("/v1/organizations/acme")
    if path == "":
        return Reply({"id": "acme", "name": "Acme"})
    if path == "/workspaces":
        entries: list[dict[str, object]] = [{"id": id_, "name": name} for id_, name in WORKSPACES.items()]
    elif path in ("/usage", "/costs"):
        start, end = (date.fromisoformat(request.query[name][0]) for name in ("start_date", "end_date"))
        days = [start + timedelta(days=number) for number in range((end - start).days + 1)]
        entries_of_day = usage_entries if path == "/usage" else cost_entries
        entries = [entry for day in days for entry in entries_of_day(day)]
    else:
        return Reply({"error": "not found"}, 404)
    offset, limit = int(request.query["offset"][0]), int(request.query["limit"][0])
    return Reply({"data": entries[offset : offset + limit], "total": len(entries)})


def expected_usage(since: datetime, until: datetime) -> Iterator[tuple[datetime, Row]]:
    """Yield tokens and requests by workspace and model of every day."""
    values = {"uncached_input": INPUT_TOKENS, "output": OUTPUT_TOKENS, REQUESTS: CALLS}
    while since < until:
        for workspace in WORKSPACES:
            for model in MODELS:
                for meter, value in values.items():
                    yield since, Row(meter, value, workspace, model)
        since += DAY


def expected_bill(_day: datetime) -> Iterator[Row]:
    """Yield one line by workspace and model."""
    for workspace in WORKSPACES:
        for model in MODELS:
            yield Row(COST, PRICE_NANO, workspace, item=f"{model} usage")


class TestMetered(ProviderContract):
    """An organization with three workspaces and four models."""

    provider_type = METERED
    options = provider_options_model(METERED).model_validate({"organization": "acme"})
    key_rejections: ClassVar = {
        "revoked": frozenset({"key_rejected"}),
        "missing_scope": frozenset({"missing_scope"}),
    }

    @pytest.fixture
    def api(self) -> Iterator[ContractApi]:
        """Run Metered AI on loopback."""
        rejections = {
            "revoked": Reply({"error": "invalid key"}, 401),
            "missing_scope": Reply({"error": "forbidden"}, 403),
        }
        with FakeApi(respond, rejections=rejections, expected_usage=expected_usage, expected_bill=expected_bill) as api:
            yield api
