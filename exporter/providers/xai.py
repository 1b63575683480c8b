"""xAI: cost by the hour, model and API key of a team, and its prepaid balance, read with a management key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import ClassVar, NamedTuple
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from exporter.errors import Malformed
from exporter.model import NANO
from exporter.providers.base import (
    COST,
    DAY,
    HOUR,
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
    list_field,
    money_field,
    object_field,
    required_field,
    time_field,
)
from exporter.windows import floor

_KEY_ADVICE = "Create a management key with read access to billing: console.x.ai > Settings > Management Keys."
_TEAM_ADVICE = "Set options.team_id to the team of the key: console.x.ai > Settings > Team."
_USAGE = Report(
    name="usage",
    kind="usage",
    width=HOUR,
    poll_interval=HOUR,
    overlap=6 * HOUR,
    settle_period=3 * DAY,
    lag=HOUR,
    history=90 * DAY,
)
_TIME_FORMAT = "%Y-%m-%d %H:%M:%S"


class _Spelling(NamedTuple):
    """Names in a request that the documentation leaves open."""

    time_unit: str
    api_key: str


_SPELLINGS = (
    _Spelling("TIME_UNIT_HOUR", "api_key_id"),
    _Spelling("hour", "api_key_id"),
    _Spelling("TIME_UNIT_HOUR", "apiKeyId"),
    _Spelling("hour", "apiKeyId"),
)


class XaiOptions(BaseModel):
    """The account's `options` in the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    team_id: str = Field(min_length=1)
    """The team's id: console.x.ai > Settings > Team."""


class Xai:
    """One xAI team. The API reports money, but neither tokens nor requests."""

    reports: ClassVar[tuple[Report, ...]] = (_USAGE,)
    base_url: ClassVar[str] = "https://management-api.x.ai"
    console: ClassVar[Console] = Console("https://console.x.ai/team/default/usage")
    options_model: ClassVar[type[BaseModel]] = XaiOptions
    key_kinds: ClassVar[tuple[KeyKind, ...]] = (
        KeyKind("xai-token-", "management key"),
        # Not rejected by its prefix: which prefixes management keys have is not documented.
        KeyKind("xai-", "key"),
    )
    key_rejection_rules: ClassVar[tuple[KeyRejectionRule, ...]] = (
        KeyRejectionRule(
            None, "management key", "wrong_key_kind", f"An inference key cannot read billing. {_KEY_ADVICE}"
        ),
        KeyRejectionRule(401, "expired", "key_rejected", f"The key has expired. {_KEY_ADVICE}"),
        KeyRejectionRule(401, "revoked", "key_rejected", f"The key was revoked. {_KEY_ADVICE}"),
        KeyRejectionRule(
            401,
            "",
            "key_rejected",
            f"The key is unknown or one for inference. {_KEY_ADVICE}",
        ),
        KeyRejectionRule(
            403, "", "missing_scope", f"The key may not read the billing of this team. {_KEY_ADVICE} {_TEAM_ADVICE}"
        ),
        KeyRejectionRule(404, "team", "missing_scope", f"The team does not exist, or is another. {_TEAM_ADVICE}"),
    )

    def __init__(self, client_config: ClientConfig, options: XaiOptions) -> None:
        headers = {"Authorization": f"Bearer {client_config.key.reveal()}"}
        self._client = Client(client_config, headers, self.key_rejection_rules)
        self._by_api_key = client_config.by_api_key
        self._team_id = options.team_id
        self._path = f"/v1/billing/teams/{quote(options.team_id, safe='')}"
        self._spelling: _Spelling | None = None
        self._key_names: dict[str, str] = {}
        self.ambiguities = Ambiguities()

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:
        """Yield every hour of [since, until), oldest first, after the last answer has arrived. Raises ProviderError."""
        return build_buckets(report, since, until, self._read_buckets(since, until))

    def names(self) -> Mapping[str, str]:
        """Return the names of the API keys that were used, as the usage report has them. Makes no request."""
        return dict(self._key_names)

    def balance(self) -> Sequence[Balance]:
        """Return the prepaid credits; empty for a team that never bought any. Raises ProviderError."""
        answer = self._read_balance()
        total = object_field(answer, "total")
        # Zero values are left out of JSON that is made from protocol buffers.
        cents = money_field(total, "val", NANO // 100) if total.get("val") is not None else 0
        if not cents and not answer.get("changes"):
            return ()
        return (Balance("prepaid", -cents),)  # credits are negative: they reduce the next invoice

    def verify(self) -> str:
        """Read the balance and return the team. Raises ProviderError."""
        self._read_balance()
        return f"ok, team {self._team_id}"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _read_balance(self) -> Json:
        return self._client.get(f"{self._path}/prepaid/balance")

    def _read_buckets(self, since: datetime, until: datetime) -> Iterator[RawBucket]:
        hours: dict[datetime, list[Row]] = {}
        for series in self._read_series(since, until):
            labels = self._parse_labels(series)
            for point in list_field(series, "dataPoints"):
                value = _parse_usd(point)
                if value:
                    hours.setdefault(time_field(point, "timestamp"), []).append(labels._replace(value=value))
        for hour, rows in hours.items():
            yield RawBucket(hour, hour + HOUR, rows)

    def _read_series(self, since: datetime, until: datetime) -> Iterator[Json]:
        """Yield the time series of [since, until); a range whose answer is cut is read in two. Raises ProviderError."""
        answer = self._query(since, until)
        if not bool_field(answer, "limitReached"):
            yield from list_field(answer, "timeSeries")
            return
        middle = floor(since + (until - since) / 2, HOUR)
        if middle <= since:
            raise Malformed("the answer is cut, even that of a single hour", "limitReached")
        yield from self._read_series(since, middle)
        yield from self._read_series(middle, until)

    def _query(self, since: datetime, until: datetime) -> Json:
        if self._spelling is not None:
            return self._client.post(f"{self._path}/usage", self._request_body(self._spelling, since, until))
        rejection: Malformed | None = None
        for spelling in _SPELLINGS if self._by_api_key else _SPELLINGS[:2]:
            try:
                answer = self._client.post(f"{self._path}/usage", self._request_body(spelling, since, until))
            except Malformed as error:
                # Only a request that is rejected as such may be written differently.
                if "answered 400" not in str(error):
                    raise
                rejection = rejection or error
                continue
            self._spelling = spelling
            if spelling != _SPELLINGS[0]:
                self.ambiguities.add(f"the usage report takes timeUnit {spelling.time_unit}, key {spelling.api_key}")
            return answer
        assert rejection is not None  # noqa: S101 - each spelling returned or was rejected
        raise rejection

    def _request_body(self, spelling: _Spelling, since: datetime, until: datetime) -> Json:
        # The end is included, in whole seconds.
        end = max(since, until - timedelta(seconds=1))
        time_range = {
            "startTime": since.strftime(_TIME_FORMAT),
            "endTime": end.strftime(_TIME_FORMAT),
            "timezone": "Etc/GMT",
        }
        return {
            "analyticsRequest": {
                "timeRange": time_range,
                "timeUnit": spelling.time_unit,
                "values": [{"name": "usd", "aggregation": "AGGREGATION_SUM"}],
                "groupBy": ["description", *([spelling.api_key] if self._by_api_key else [])],
                "filters": [],
            }
        }

    def _parse_labels(self, series: Json) -> Row:
        """Return a row without a value: the model is the first word of the description, which is the item."""
        group = required_field(series, "group", list)
        names = series.get("groupLabels") or group
        if not all(isinstance(label, str) for label in group) or len(group) < 1 + self._by_api_key:
            raise Malformed("the field group is not a list of texts, one for each grouping", "group")
        description = group[0]
        api_key = group[1] if self._by_api_key else ""
        if api_key and isinstance(names, list) and len(names) == len(group) and isinstance(names[1], str):
            self._key_names[api_key] = names[1]
        return Row(COST, 0, model=_parse_model(description), api_key=api_key, item=description)


def _parse_model(description: str) -> str:
    """Return the model of a description such as `grok-4-fast prompt text tokens`; empty for one of no model."""
    first = description.partition(" ")[0]
    return first if "-" in first else ""


def _parse_usd(point: Json) -> int:
    values = required_field(point, "values", list)
    if len(values) != 1:
        raise Malformed("a data point has not the one value that was requested", "values")
    return money_field({"values": values[0]}, "values", NANO)
