"""OpenRouter: tokens and requests by the hour, the bill by the day, and the credits, read with a management key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict

from exporter.errors import KeyRejected, Malformed
from exporter.providers.base import (
    COST,
    DAY,
    HOUR,
    NANO,
    REQUESTS,
    Balance,
    Bucket,
    ClientConfig,
    Console,
    KeyKind,
    KeyRejectionRule,
    Report,
    Row,
)
from exporter.providers.http import Client, Json
from exporter.providers.parsing import (
    Ambiguities,
    RawBucket,
    bool_field,
    build_buckets,
    int_field,
    list_field,
    money_field,
    object_field,
    required_field,
    str_field,
    time_field,
)
from exporter.windows import floor

_KEY_ADVICE = "Create a management key: openrouter.ai/settings/management-keys."
_ANALYTICS = Report(
    name="analytics",
    kind="usage",
    width=HOUR,
    poll_interval=timedelta(minutes=15),
    overlap=6 * HOUR,
    settle_period=3 * DAY,
    lag=HOUR,
    history=30 * DAY,
)
_ACTIVITY = Report(
    name="activity",
    kind="bill",
    width=DAY,
    poll_interval=HOUR,
    overlap=2 * DAY,
    settle_period=30 * DAY,
    lag=2 * HOUR,
    history=30 * DAY,
)
_MAX_ROWS = 1000
"""The documented default: whether more may be requested is not documented."""
_TIME_FIELDS = ("date", "time", "timestamp", "hour", "bucket", "period", "time_bucket", "created_at")
"""Names that the hour of a row may have: the documentation does not say which it is."""


class _Names(NamedTuple):
    """The legal names of metrics and dimensions; the documentation lists few of them, so they are read from the API."""

    metrics: Mapping[str, str]
    """Ours -> the API's."""
    dimensions: Mapping[str, str]
    """Ours -> the API's; without those that the API does not have."""


_METRIC_NAMES = {
    "requests": ("request_count", "requests"),
    "prompt": ("tokens_prompt", "prompt_tokens", "input_tokens", "native_tokens_prompt"),
    "cached": ("tokens_cached", "cached_tokens", "cached_prompt_tokens", "native_tokens_cached"),
    "completion": ("tokens_completion", "completion_tokens", "output_tokens", "native_tokens_completion"),
}
_DIMENSION_NAMES = {
    "model": ("model_permaslug", "model"),
    "workspace": ("workspace", "workspace_id"),
    "provider": ("provider", "provider_name"),
    "api_key": ("api_key_id", "api_key"),
}
_REQUIRED_NAMES = frozenset({"requests", "prompt", "completion", "model"})


class OpenRouterOptions(BaseModel):
    """The account's `options` in the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    byok: bool = False
    """Count what upstream providers charge for requests with your own keys; not where they have accounts here too."""


class OpenRouter:
    """One OpenRouter organization or user."""

    reports: ClassVar[tuple[Report, ...]] = (_ANALYTICS, _ACTIVITY)
    base_url: ClassVar[str] = "https://openrouter.ai/api/v1"
    console: ClassVar[Console] = Console("https://openrouter.ai/activity", "BYOK requests are on the upstream bill.")
    options_model: ClassVar[type[BaseModel]] = OpenRouterOptions
    # Keys for requests have the same prefix: only an answer tells them apart.
    key_kinds: ClassVar[tuple[KeyKind, ...]] = (KeyKind("sk-or-", "key"),)
    key_rejection_rules: ClassVar[tuple[KeyRejectionRule, ...]] = (
        KeyRejectionRule(
            403, "management key", "wrong_key_kind", f"A key for requests cannot read usage. {_KEY_ADVICE}"
        ),
        KeyRejectionRule(401, "expired", "key_rejected", f"The key has expired. {_KEY_ADVICE}"),
        KeyRejectionRule(401, "revoked", "key_rejected", f"The key was revoked. {_KEY_ADVICE}"),
        KeyRejectionRule(401, "", "key_rejected", f"The key is unknown or was deleted. {_KEY_ADVICE}"),
        KeyRejectionRule(403, "", "missing_scope", f"The key may not read usage. {_KEY_ADVICE}"),
    )

    def __init__(self, client_config: ClientConfig, options: OpenRouterOptions) -> None:
        headers = {"Authorization": f"Bearer {client_config.key.reveal()}"}
        self._client = Client(client_config, headers, self.key_rejection_rules)
        self._by_api_key = client_config.by_api_key
        self._counts_byok = options.byok
        self._names: _Names | None = None
        self._workspaces: Mapping[str, str] | None = None
        self._max_range = 31 * DAY
        self.ambiguities = Ambiguities()

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:
        """Yield every slot of [since, until), oldest first, after the last answer has arrived. Raises ProviderError."""
        read = self._read_days if report is _ACTIVITY else self._read_hours
        return build_buckets(report, since, until, read(since, until))

    def names(self) -> Mapping[str, str]:
        """Return the names of workspaces. Raises ProviderError."""
        workspaces = list_field(self._client.get("/workspaces"), "data")
        self._workspaces = {str_field(workspace, "id"): str_field(workspace, "name") for workspace in workspaces}
        return self._workspaces

    def balance(self) -> Sequence[Balance]:
        """Return the credits that are left; empty where none were ever bought. Raises ProviderError."""
        answer = object_field(self._client.get("/credits"), "data")
        bought, used = (money_field(answer, name, NANO) for name in ("total_credits", "total_usage"))
        return (Balance("prepaid", bought - used),) if bought else ()

    def verify(self) -> str:
        """Return whether the key is a management key. Raises ProviderError."""
        key = object_field(self._client.get("/key"), "data")
        # The field was renamed together with the keys.
        if not bool_field(key, "is_management_key") and not bool_field(key, "is_provisioning_key"):
            message = "the key is not a management key"
            raise KeyRejected("wrong_key_kind", message, f"A key for requests cannot read usage. {_KEY_ADVICE}")
        return f"ok, management key {str_field(key, 'label') or 'without a label'}"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # Hours

    def _read_hours(self, since: datetime, until: datetime) -> Iterator[RawBucket]:
        if self._workspaces is None:
            self.names()
        names = self._names or self._read_names()
        hours: dict[datetime, list[Row]] = {}
        while since < until:
            end = min(since + self._max_range, until)
            answer = object_field(self._query(names, since, end), "data")
            if bool_field(object_field(answer, "metadata"), "truncated"):
                # Rows are missing, and it is not known which: nothing of the answer is used.
                if end - since <= HOUR:
                    raise Malformed("the answer is truncated, even that of a single hour", "truncated")
                self._max_range = max(HOUR, floor(since + (end - since) / 2, HOUR) - since)
                continue
            for row in list_field(answer, "data"):
                hour = self._parse_hour(row)
                # Whether the end of the range is included is not documented.
                if since <= hour < end:
                    hours.setdefault(hour, []).extend(self._parse_usage(row, names))
            since = end
        for hour, rows in hours.items():
            yield RawBucket(hour, hour + HOUR, rows)

    def _query(self, names: _Names, since: datetime, until: datetime) -> Json:
        dimensions = [name for ours, name in names.dimensions.items() if ours != "api_key" or self._by_api_key]
        body = {
            "metrics": list(names.metrics.values()),
            "dimensions": dimensions,
            "granularity": "hour",
            "time_range": {"start": f"{since:%Y-%m-%dT%H:%M:%SZ}", "end": f"{until:%Y-%m-%dT%H:%M:%SZ}"},
            "limit": _MAX_ROWS,
        }
        try:
            return self._client.post("/analytics/query", body)
        except Malformed:
            self._names = None  # a name may not be legal any more: the next poll reads the names again
            raise

    def _read_names(self) -> _Names:
        meta = object_field(self._client.get("/analytics/meta"), "data")
        # A rate cannot be added up.
        metrics = [metric for metric in list_field(meta, "metrics") if not bool_field(metric, "is_rate")]
        found_metrics = self._choose_names(_METRIC_NAMES, (str_field(metric, "name") for metric in metrics))
        dimensions = (str_field(dimension, "name") for dimension in list_field(meta, "dimensions"))
        found_dimensions = self._choose_names(_DIMENSION_NAMES, dimensions)
        self._names = _Names(found_metrics, found_dimensions)
        return self._names

    def _choose_names(self, candidates: Mapping[str, Sequence[str]], legal: Iterable[str]) -> Mapping[str, str]:
        known = set(legal)
        chosen: dict[str, str] = {}
        for ours, spellings in candidates.items():
            name = next((name for name in spellings if name in known), None)
            if name is not None:
                chosen[ours] = name
                if name != spellings[0]:
                    self.ambiguities.add(f"analytics calls {ours} {name}")
            elif ours in _REQUIRED_NAMES:
                raise Malformed(f"analytics has none of {', '.join(spellings)}", ours)
        return chosen

    def _parse_hour(self, row: Json) -> datetime:
        name = next((name for name in _TIME_FIELDS if row.get(name) is not None), None)
        if name is None:
            raise Malformed("a row of analytics has no time", "time")
        if name != _TIME_FIELDS[0]:
            self.ambiguities.add(f"the hour of a row of analytics is in the field {name}")
        return time_field(row, name)

    def _parse_usage(self, row: Json, names: _Names) -> Iterator[Row]:
        counts = {ours: int_field(row, name, 0) for ours, name in names.metrics.items()}
        labels = {ours: str_field(row, name) for ours, name in names.dimensions.items() if name in row}
        # Cached tokens are a part of the prompt; answers from a cache may have more of them.
        cached = min(counts.get("cached", 0), counts["prompt"])
        values = {
            "uncached_input": counts["prompt"] - cached,
            "cache_read": cached,
            "output": counts["completion"],
            REQUESTS: counts["requests"],
        }
        for meter, value in values.items():
            if value:
                workspace = self._workspace_id(labels.get("workspace", ""))
                yield Row(
                    meter, value, workspace, labels["model"], labels.get("provider", ""), labels.get("api_key", "")
                )

    def _workspace_id(self, label: str) -> str:
        """Return the id of a workspace: analytics shows names where the bill has ids."""
        workspaces = self._workspaces or {}
        if label in workspaces:
            return label
        return next((id_ for id_, name in workspaces.items() if name == label), label)

    # Days

    def _read_days(self, since: datetime, until: datetime) -> Iterator[RawBucket]:
        # The running day is not there.
        closed_until = floor(until, DAY)
        if closed_until <= since:
            return
        params = [("group_by", "workspace")]
        if closed_until - since == DAY:
            params.append(("date", f"{since:%Y-%m-%d}"))
        days: dict[datetime, list[Row]] = {}
        for entry in list_field(self._client.get("/activity", params), "data"):
            days.setdefault(floor(time_field(entry, "date"), DAY), []).extend(self._parse_costs(entry))
        for day, rows in days.items():
            if day >= closed_until:
                continue  # should the API ever return a part of the running day, it would look like its bill
            yield RawBucket(day, day + DAY, rows)

    def _parse_costs(self, entry: Json) -> Iterator[Row]:
        required_field(entry, "date", str)
        model = str_field(entry, "model_permaslug") or str_field(entry, "model")
        labels = Row(COST, 0, str_field(entry, "workspace_id"), model, str_field(entry, "provider_name"), item=model)
        yield labels._replace(value=money_field(entry, "usage", NANO))
        if self._counts_byok and entry.get("byok_usage_inference") is not None:
            value = money_field(entry, "byok_usage_inference", NANO)
            if value:
                yield labels._replace(value=value, item=f"{model} (BYOK)")
