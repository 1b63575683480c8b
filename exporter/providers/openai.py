"""OpenAI: usage per hour by project and model, and cost per day by project and line item, of an organization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import ClassVar, NamedTuple
from urllib.parse import quote

import msgspec

from exporter.model import RowLabels, clean_text
from exporter.providers.base import (
    DAY,
    HOUR,
    REQUESTS,
    Bucket,
    ClientConfig,
    Console,
    KeyKind,
    KeyRejectionRule,
    NoOptions,
    Report,
    Row,
)
from exporter.providers.bucket_pages import (
    BucketLayout,
    Count,
    ParseResults,
    ResultFormat,
    object_parser,
    read_bucket_pages,
)
from exporter.providers.http import Client, Json
from exporter.providers.openai_bill import CACHE_READ_METERS, INPUT_METERS, OUTPUT_METERS, parse_bill_row
from exporter.providers.parsing import (
    RawBucket,
    StoredBuckets,
    bool_field,
    build_buckets,
    count_slots,
    int_field,
    list_field,
    page_items,
    require_unique,
    str_field,
)

_ADMIN_KEY_ADVICE = (
    "Create an admin key: platform.openai.com > Settings > Organization > Admin keys (organization owners only)."
)
_CHATGPT_KEY_NOTE = "An Admin key of the ChatGPT admin console belongs to another product and does not work here."


class _UsageEndpoint(NamedTuple):
    """How one usage report is requested and read."""

    group_by: tuple[str, ...]
    field_meters: Mapping[str, str]
    """The fields that count something -> their meters; empty for completions, whose tokens are split."""


_COMMON_LABELS = ("project_id", "model", "api_key_id")
_REQUESTS = {"num_model_requests": REQUESTS}
_USAGE_ENDPOINTS: Mapping[str, _UsageEndpoint] = {
    "completions": _UsageEndpoint((*_COMMON_LABELS, "batch", "service_tier"), {}),
    "embeddings": _UsageEndpoint(_COMMON_LABELS, {"input_tokens": "uncached_input", **_REQUESTS}),
    "moderations": _UsageEndpoint(_COMMON_LABELS, {"input_tokens": "uncached_input", **_REQUESTS}),
    "images": _UsageEndpoint(_COMMON_LABELS, {"images": "images", **_REQUESTS}),
    "audio_speeches": _UsageEndpoint(_COMMON_LABELS, {"characters": "characters", **_REQUESTS}),
    "audio_transcriptions": _UsageEndpoint(_COMMON_LABELS, {"seconds": "seconds", **_REQUESTS}),
    "vector_stores": _UsageEndpoint(("project_id",), {"usage_bytes": "bytes"}),
    "code_interpreter_sessions": _UsageEndpoint(("project_id",), {"num_sessions": "sessions"}),
    "file_search_calls": _UsageEndpoint(("project_id", "api_key_id"), {"num_requests": "file_searches"}),
    # Its num_model_requests are already counted in completions.
    "web_search_calls": _UsageEndpoint(_COMMON_LABELS, {"num_requests": "web_searches"}),
}
_COST_LABELS = ("project_id", "line_item")
_LAYOUT = BucketLayout("start_time", "end_time", timedelta(seconds=1), older_results="result")
_USAGE_BUCKETS_PER_PAGE = 168
_COST_BUCKETS_PER_PAGE = 180
_LAG = timedelta(minutes=10)
_HISTORY = 365 * DAY
_COMPLETIONS = Report(
    name="completions",
    kind="usage",
    width=HOUR,
    poll_interval=timedelta(minutes=1),
    overlap=6 * HOUR,
    settle_period=6 * DAY,
    lag=_LAG,
    history=_HISTORY,
    lists_empty_buckets=True,
)
_COSTS = Report(
    name="costs",
    kind="bill",
    width=DAY,
    poll_interval=HOUR,
    overlap=3 * DAY,
    settle_period=30 * DAY,
    lag=8 * HOUR,
    history=_HISTORY,
    lists_empty_buckets=True,
)
_OTHER_USAGE = tuple(
    Report(
        name=name,
        kind="usage",
        width=HOUR,
        poll_interval=HOUR,
        overlap=6 * HOUR,
        settle_period=6 * DAY,
        lag=_LAG,
        history=_HISTORY,
        optional=True,
        lists_empty_buckets=True,
    )
    for name in _USAGE_ENDPOINTS
    if name != _COMPLETIONS.name
)


class OpenAI:
    """One OpenAI organization, read with an admin key."""

    reports: ClassVar[tuple[Report, ...]] = (_COMPLETIONS, _COSTS, *_OTHER_USAGE)
    base_url: ClassVar[str] = "https://api.openai.com/v1"
    console: ClassVar[Console] = Console("https://platform.openai.com/usage")
    key_kinds: ClassVar[tuple[KeyKind, ...]] = (
        KeyKind("sk-admin-", "organization admin key"),
        KeyKind("sk-proj-", "project key", f"A project key cannot read usage. {_ADMIN_KEY_ADVICE}"),
        KeyKind("sk-svcacct-", "service account key", f"A service account key cannot read usage. {_ADMIN_KEY_ADVICE}"),
        KeyKind("sk-", "personal key", f"A personal key cannot read usage. {_ADMIN_KEY_ADVICE}"),
    )
    key_rejection_rules: ClassVar[tuple[KeyRejectionRule, ...]] = (
        KeyRejectionRule(
            None,
            "missing scopes",
            "missing_scope",
            f"The key may not read usage. {_ADMIN_KEY_ADVICE} {_CHATGPT_KEY_NOTE}",
        ),
        KeyRejectionRule(
            None, "insufficient permissions", "missing_scope", f"The key's role is too small. {_ADMIN_KEY_ADVICE}"
        ),
        KeyRejectionRule(403, "country", "key_rejected", "OpenAI does not serve this country: call from another one."),
        KeyRejectionRule(
            401, "allowlist", "key_rejected", "Add this host's address: Settings > Organization > IP allowlist."
        ),
        KeyRejectionRule(
            401, "ip not authorized", "key_rejected", "Add this host's address to the organization's IP allowlist."
        ),
        KeyRejectionRule(
            401,
            "member of an organization",
            "key_rejected",
            f"The key's owner is no longer a member. {_ADMIN_KEY_ADVICE}",
        ),
        KeyRejectionRule(401, "expired", "key_rejected", f"The key has expired. {_ADMIN_KEY_ADVICE}"),
        KeyRejectionRule(401, "revoked", "key_rejected", f"The key was revoked. {_ADMIN_KEY_ADVICE}"),
        KeyRejectionRule(
            401, "", "key_rejected", f"The key is wrong, revoked or expired. {_ADMIN_KEY_ADVICE} {_CHATGPT_KEY_NOTE}"
        ),
        KeyRejectionRule(403, "", "missing_scope", f"The key may not do this. {_ADMIN_KEY_ADVICE}"),
    )

    def __init__(self, client_config: ClientConfig, options: NoOptions) -> None:  # noqa: ARG002
        self._by_api_key = client_config.by_api_key
        headers = {"Authorization": f"Bearer {client_config.key.reveal()}"}
        self._client = Client(client_config, headers, self.key_rejection_rules)
        self.stored_buckets = StoredBuckets()

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:
        """Yield every bucket of [since, until), oldest first, after the last page has arrived. Raises ProviderError.

        Buckets equal to those in `stored_buckets` are left out.
        """
        return build_buckets(report, since, until, self._read_buckets(report, since, until), self.stored_buckets)

    def names(self) -> Mapping[str, str]:
        """Return project ids -> names, and API key ids -> names where usage is grouped by key. Raises ProviderError."""
        names: dict[str, str] = {}
        for project in self._list_objects("/organization/projects", ("include_archived", "true")):
            project_id = str_field(project, "id")
            names[project_id] = str_field(project, "name")
            if self._by_api_key and str_field(project, "status") != "archived":
                path = f"/organization/projects/{quote(project_id, safe='')}/api_keys"
                for key in self._list_objects(path):
                    names[str_field(key, "id")] = str_field(key, "name")
        return {id_: name for id_, name in names.items() if id_ and name}

    def verify(self) -> str:
        """Return the name of one project, which only an admin key may read. Raises ProviderError."""
        projects = list_field(self._client.get("/organization/projects", [("limit", "1")]), "data")
        if not projects:
            return "ok, an organization"
        return f"ok, an organization with project {str_field(projects[0], 'name')}"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _read_buckets(self, report: Report, since: datetime, until: datetime) -> Iterator[RawBucket]:
        if report.kind == "usage":
            path = f"/organization/usage/{report.name}"
            width, limit = "1h", _USAGE_BUCKETS_PER_PAGE
            labels = _USAGE_ENDPOINTS[report.name].group_by
        else:
            path = "/organization/costs"
            width, limit = "1d", _COST_BUCKETS_PER_PAGE
            labels = _COST_LABELS
        start, end = int(since.timestamp()), int(until.timestamp())
        params = [
            ("start_time", str(start)),
            # The same end for every page, so that the list does not grow with the clock. It must lie after the start.
            ("end_time", str(max(end, start + 1))),
            ("bucket_width", width),
            ("limit", str(limit)),
            *(("group_by[]", label) for label in labels if label != "api_key_id" or self._by_api_key),
        ]
        max_pages = count_slots(report, since, until)
        for buckets in read_bucket_pages(self._client, path, params, _LAYOUT, _result_parser(report), max_pages):
            yield from buckets

    def _list_objects(self, path: str, *params: tuple[str, str]) -> Iterator[Json]:
        for page in self._client.pages(path, [("limit", "100"), *params], cursor_param="after", cursor_field="last_id"):
            yield from page_items(page, "data")


def _result_parser(report: Report) -> ParseResults:
    if report.kind == "bill":
        return object_parser(_parse_bill)
    if report.name == _COMPLETIONS.name:
        return _COMPLETIONS_FORMAT.parser()
    return object_parser(partial(_parse_usage, _USAGE_ENDPOINTS[report.name].field_meters))


def _parse_bill(results: Sequence[Json]) -> Iterator[Row]:
    billed = [result for result in results if result.get("amount") is not None]
    return map(parse_bill_row, require_unique(billed, "results"))


def _parse_usage(field_meters: Mapping[str, str], results: Sequence[Json]) -> Iterator[Row]:
    for result in require_unique(results, "results"):
        workspace = str_field(result, "project_id")
        model = str_field(result, "model")
        api_key = str_field(result, "api_key_id")
        tier = _tier(str_field(result, "service_tier"), is_batch=bool_field(result, "batch"))
        for name, meter in field_meters.items():
            yield Row(meter, int_field(result, name), workspace, model, tier, api_key)


class _CompletionsResult(msgspec.Struct, gc=False):
    """Usage of a combination of labels; fields of other values than tokens and requests are ignored."""

    input_tokens: Count
    output_tokens: Count
    num_model_requests: Count
    project_id: str | None = None
    model: str | None = None
    api_key_id: str | None = None
    batch: bool | None = None
    service_tier: str | None = None
    # Older answers have only the total of input, which contains cached and written tokens.
    input_uncached_tokens: Count | None = None
    input_cached_tokens: Count | None = None
    input_cache_write_tokens: Count | None = None
    # Tokens without a detail field count as text.
    input_audio_tokens: Count | None = None
    input_image_tokens: Count | None = None
    input_cached_audio_tokens: Count | None = None
    input_cached_image_tokens: Count | None = None
    output_audio_tokens: Count | None = None
    output_image_tokens: Count | None = None


_COMPLETIONS_METERS = (REQUESTS, "cache_write", *INPUT_METERS, *CACHE_READ_METERS, *OUTPUT_METERS)


def _completions_labels(result: _CompletionsResult) -> RowLabels:
    return RowLabels(
        "",
        clean_text(result.project_id or ""),
        clean_text(result.model or ""),
        _tier(clean_text(result.service_tier or ""), is_batch=result.batch or False),
        clean_text(result.api_key_id or ""),
    )


def _completions_values(result: _CompletionsResult) -> tuple[int, ...]:
    """Return the values of _COMPLETIONS_METERS: disjoint token meters that add up to all tokens."""
    cached = result.input_cached_tokens or 0
    written = result.input_cache_write_tokens or 0
    uncached = result.input_uncached_tokens
    if uncached is None:
        uncached = max(0, result.input_tokens - cached - written)
    return (
        result.num_model_requests,
        written,
        *_split_by_modality(uncached, result.input_audio_tokens, result.input_image_tokens),
        *_split_by_modality(cached, result.input_cached_audio_tokens, result.input_cached_image_tokens),
        *_split_by_modality(result.output_tokens, result.output_audio_tokens, result.output_image_tokens),
    )


def _split_by_modality(total: int, audio: int | None, image: int | None) -> tuple[int, int, int]:
    """Split a total into text, audio and images, clamped so that they add up to it."""
    if not audio and not image:
        return total, 0, 0
    audio = min(total, audio or 0)
    image = min(total - audio, image or 0)
    return total - audio - image, audio, image


_COMPLETIONS_FORMAT = ResultFormat(
    _CompletionsResult,
    ("project_id", "model", "api_key_id", "batch", "service_tier"),
    _completions_labels,
    _COMPLETIONS_METERS,
    _completions_values,
)


def _tier(service_tier: str, *, is_batch: bool) -> str:
    if is_batch:
        return "batch"
    return "standard" if service_tier == "default" else service_tier
