"""OpenAI's organization usage and costs: hours of use by project and model, days of money by project and line item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import ClassVar
from urllib.parse import quote

from exporter.model import DAY, HOUR, Bucket, Console, KeyKind, KeyRejectionRule, Report, Row
from exporter.providers.http import Client, ClientConfig, Json
from exporter.providers.openai_bill import CACHE_READ_METERS, INPUT_METERS, OUTPUT_METERS, parse_bill_row
from exporter.providers.parsing import (
    RawBucket,
    bool_field,
    build_buckets,
    int_field,
    list_field,
    str_field,
    time_field,
)

_ADMIN_KEY_ADVICE = (
    "Create an admin key: platform.openai.com > Settings > Organization > Admin keys (organization owners only)."
)
_CHATGPT_KEY_NOTE = "An Admin key of the ChatGPT admin console belongs to another product and does not work here."

_REQUESTS_FIELD = ("num_model_requests", "requests")
_COMMON_GROUPS = ("project_id", "model", "api_key_id")
_USAGE_REPORTS: Mapping[
    str, tuple[tuple[str, ...], tuple[tuple[str, str], ...]]
] = {  # what to group by; field -> meter
    "completions": ((*_COMMON_GROUPS, "batch", "service_tier"), (_REQUESTS_FIELD,)),
    "embeddings": (_COMMON_GROUPS, (("input_tokens", "uncached_input"), _REQUESTS_FIELD)),
    "moderations": (_COMMON_GROUPS, (("input_tokens", "uncached_input"), _REQUESTS_FIELD)),
    "images": (_COMMON_GROUPS, (("images", "images"), _REQUESTS_FIELD)),
    "audio_speeches": (_COMMON_GROUPS, (("characters", "characters"), _REQUESTS_FIELD)),
    "audio_transcriptions": (_COMMON_GROUPS, (("seconds", "seconds"), _REQUESTS_FIELD)),
    "vector_stores": (("project_id",), (("usage_bytes", "bytes"),)),
    "code_interpreter_sessions": (("project_id",), (("num_sessions", "sessions"),)),
    "file_search_calls": (("project_id", "api_key_id"), (("num_requests", "file_searches"),)),
    # Its num_model_requests are counted in completions already.
    "web_search_calls": (_COMMON_GROUPS, (("num_requests", "web_searches"),)),
}
_COST_GROUPS: tuple[str, ...] = ("project_id", "line_item")
_LAG, _YEAR = timedelta(minutes=10), 365 * DAY
_COMPLETIONS = Report("completions", "usage", HOUR, timedelta(minutes=1), 6 * HOUR, 6 * DAY, _LAG, _YEAR)
_OTHER_USAGE = tuple(
    Report(k, "usage", HOUR, HOUR, 6 * HOUR, 6 * DAY, _LAG, _YEAR, True)
    for k in _USAGE_REPORTS
    if k != _COMPLETIONS.name
)
_COSTS = Report("costs", "bill", DAY, HOUR, 3 * DAY, 30 * DAY, 8 * HOUR, _YEAR)


class OpenAI:
    """One OpenAI organization, through an admin key."""

    reports: ClassVar[tuple[Report, ...]] = (_COMPLETIONS, _COSTS, *_OTHER_USAGE)
    base_url: ClassVar[str] = "https://api.openai.com/v1"
    console: ClassVar[Console] = Console("https://platform.openai.com/usage")
    key_kinds: ClassVar[tuple[KeyKind, ...]] = (
        KeyKind("sk-admin-", "organization admin key"),
        KeyKind("sk-proj-", "project key", f"A project key cannot read usage. {_ADMIN_KEY_ADVICE}"),
        KeyKind("sk-svcacct-", "service account key", f"A service account key cannot read usage. {_ADMIN_KEY_ADVICE}"),
        KeyKind("sk-ant-", "Anthropic key", "This is an Anthropic key: give the account `provider: anthropic`."),
        KeyKind("sk-", "personal key", f"A personal key cannot read usage. {_ADMIN_KEY_ADVICE}"),
        KeyKind("crsr_", "Cursor key", "This is a Cursor key: give the account `provider: cursor`."),
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
            f"The key's owner is no member any more. {_ADMIN_KEY_ADVICE}",
        ),
        KeyRejectionRule(401, "expired", "key_rejected", f"The key has expired. {_ADMIN_KEY_ADVICE}"),
        KeyRejectionRule(401, "revoked", "key_rejected", f"The key was revoked. {_ADMIN_KEY_ADVICE}"),
        KeyRejectionRule(
            401, "", "key_rejected", f"The key is wrong, revoked or expired. {_ADMIN_KEY_ADVICE} {_CHATGPT_KEY_NOTE}"
        ),
        KeyRejectionRule(403, "", "missing_scope", f"The key may not do this. {_ADMIN_KEY_ADVICE}"),
    )

    def __init__(self, config: ClientConfig) -> None:
        self._by_api_key = config.by_api_key
        self._client = Client(config, {"Authorization": f"Bearer {config.key.reveal()}"}, self.key_rejection_rules)

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:
        """Tell every bucket of [since, until), oldest first, after the last page arrived. Raises ProviderError."""
        return build_buckets(
            report, since, until, self._read_buckets(report, int(since.timestamp()), int(until.timestamp()))
        )

    def names(self) -> Mapping[str, str]:
        """Project ids -> names, and API key ids -> names where usage is told by key. Raises ProviderError."""
        found: dict[str, str] = {}
        for project in self._list_objects("/organization/projects", ("include_archived", "true")):
            found[str_field(project, "id")] = str_field(project, "name")
            if self._by_api_key and str_field(project, "status") != "archived":
                path = f"/organization/projects/{quote(str_field(project, 'id'), safe='')}/api_keys"
                found |= {str_field(key, "id"): str_field(key, "name") for key in self._list_objects(path)}
        return {id_: name for id_, name in found.items() if id_ and name}

    def verify(self) -> str:
        """Ask for one project, which only an admin key may. Raises ProviderError."""
        projects = list_field(self._client.get("/organization/projects", [("limit", "1")]), "data")
        return "ok, an organization" + "".join(f" with project {str_field(project, 'name')}" for project in projects)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _read_buckets(self, report: Report, since: int, until: int) -> Iterator[RawBucket]:
        path, width, limit, groups = "/organization/costs", "1d", 180, _COST_GROUPS
        if report.kind == "usage":
            path, width, limit, groups = f"/organization/usage/{report.name}", "1h", 168, _USAGE_REPORTS[report.name][0]
        # The same end for every page: the walk must not chase a moving now.
        span = [("start_time", f"{since}"), ("end_time", f"{max(until, since + 1)}")]
        grouped = [("group_by[]", group) for group in groups if group != "api_key_id" or self._by_api_key]
        for page in self._client.pages(path, [*span, ("bucket_width", width), ("limit", f"{limit}"), *grouped]):
            for slot in list_field(page, "data"):
                start, end = (time_field(slot, name, timedelta(seconds=1)) for name in ("start_time", "end_time"))
                yield start, end, list(_parse_rows(report, slot))

    def _list_objects(self, path: str, *params: tuple[str, str]) -> Iterator[Json]:
        for page in self._client.pages(path, [("limit", "100"), *params], cursor_param="after", cursor_field="last_id"):
            yield from list_field(page, "data")


def _parse_rows(report: Report, slot: Json) -> Iterator[Row]:
    for result in list_field(slot, "results" if "results" in slot else "result"):
        if report.kind == "usage":
            yield from _parse_usage_rows(report.name, result)
        elif result.get("amount") is not None:
            yield parse_bill_row(result)


def _parse_usage_rows(report_name: str, result: Json) -> Iterator[Row]:
    workspace, model, key = str_field(result, "project_id"), str_field(result, "model"), str_field(result, "api_key_id")
    tier = "batch" if bool_field(result, "batch") else str_field(result, "service_tier")
    counts = {meter: int_field(result, name) for name, meter in _USAGE_REPORTS[report_name][1]}
    if report_name == _COMPLETIONS.name:
        counts |= _parse_token_meters(result)
    for meter, value in counts.items():
        if value:
            yield Row(meter, value, workspace, model, "standard" if tier == "default" else tier, key)


def _parse_token_meters(result: Json) -> dict[str, int]:
    """Split all tokens into disjoint meters, clamped so that they add up; what no detail explains is text."""
    cached, written = int_field(result, "input_cached_tokens", 0), int_field(result, "input_cache_write_tokens", 0)
    rest = max(0, int_field(result, "input_tokens") - cached - written)
    counts = {"cache_write": written}
    for total, meters, detail in (
        (int_field(result, "input_uncached_tokens", rest), INPUT_METERS, "input_{}_tokens"),
        (cached, CACHE_READ_METERS, "input_cached_{}_tokens"),
        (int_field(result, "output_tokens"), OUTPUT_METERS, "output_{}_tokens"),
    ):
        audio = min(total, int_field(result, detail.format("audio"), 0))
        image = min(total - audio, int_field(result, detail.format("image"), 0))
        counts |= zip(meters, (total - audio - image, audio, image), strict=True)
    return counts
