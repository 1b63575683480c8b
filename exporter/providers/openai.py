"""OpenAI's organization usage and costs: hours of use by project and model, days of money by project and line item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import ClassVar
from urllib.parse import quote

from exporter.model import DAY, HOUR, Bucket, Console, KeyKind, Refusal, Report, Row
from exporter.providers.http import Access, Client, Json
from exporter.providers.openai_bill import CACHED, INPUT, OUTPUT, bill_row
from exporter.providers.parsing import Told, buckets, flag, items, moment, text, whole

_ADMIN_KEY = (
    "Create an admin key: platform.openai.com > Settings > Organization > Admin keys (organization owners only)."
)
_CHATGPT = "An Admin key of the ChatGPT admin console belongs to another product and does not work here."

_REQUESTS = ("num_model_requests", "requests")
_WHO = ("project_id", "model", "api_key_id")
_KINDS: Mapping[str, tuple[tuple[str, ...], tuple[tuple[str, str], ...]]] = {  # what to group by; field -> meter
    "completions": ((*_WHO, "batch", "service_tier"), (_REQUESTS,)),
    "embeddings": (_WHO, (("input_tokens", "uncached_input"), _REQUESTS)),
    "moderations": (_WHO, (("input_tokens", "uncached_input"), _REQUESTS)),
    "images": (_WHO, (("images", "images"), _REQUESTS)),
    "audio_speeches": (_WHO, (("characters", "characters"), _REQUESTS)),
    "audio_transcriptions": (_WHO, (("seconds", "seconds"), _REQUESTS)),
    "vector_stores": (("project_id",), (("usage_bytes", "bytes"),)),
    "code_interpreter_sessions": (("project_id",), (("num_sessions", "sessions"),)),
    "file_search_calls": (("project_id", "api_key_id"), (("num_requests", "file_searches"),)),
    # Its num_model_requests are counted in completions already.
    "web_search_calls": (_WHO, (("num_requests", "web_searches"),)),
}
_COST_GROUPS: tuple[str, ...] = ("project_id", "line_item")
_LAG, _YEAR = timedelta(minutes=10), 365 * DAY
_MAIN = Report("completions", "usage", HOUR, timedelta(minutes=1), 6 * HOUR, 6 * DAY, _LAG, _YEAR)
_RARER = tuple(Report(k, "usage", HOUR, HOUR, 6 * HOUR, 6 * DAY, _LAG, _YEAR, True) for k in _KINDS if k != _MAIN.name)
_COSTS = Report("costs", "bill", DAY, HOUR, 3 * DAY, 30 * DAY, 8 * HOUR, _YEAR)


class OpenAI:
    """One OpenAI organization, through an admin key."""

    reports: ClassVar[tuple[Report, ...]] = (_MAIN, _COSTS, *_RARER)
    base_url: ClassVar[str] = "https://api.openai.com/v1"
    console: ClassVar[Console] = Console("https://platform.openai.com/usage")
    key_kinds: ClassVar[tuple[KeyKind, ...]] = (
        KeyKind("sk-admin-", "organization admin key"),
        KeyKind("sk-proj-", "project key", f"A project key cannot read usage. {_ADMIN_KEY}"),
        KeyKind("sk-svcacct-", "service account key", f"A service account key cannot read usage. {_ADMIN_KEY}"),
        KeyKind("sk-ant-", "Anthropic key", "This is an Anthropic key: give the account `provider: anthropic`."),
        KeyKind("sk-", "personal key", f"A personal key cannot read usage. {_ADMIN_KEY}"),
        KeyKind("crsr_", "Cursor key", "This is a Cursor key: give the account `provider: cursor`."),
    )
    refusals: ClassVar[tuple[Refusal, ...]] = (
        Refusal(None, "missing scopes", "missing_scope", f"The key may not read usage. {_ADMIN_KEY} {_CHATGPT}"),
        Refusal(None, "insufficient permissions", "missing_scope", f"The key's role is too small. {_ADMIN_KEY}"),
        Refusal(403, "country", "key_rejected", "OpenAI does not serve this country: call from another one."),
        Refusal(401, "allowlist", "key_rejected", "Add this host's address: Settings > Organization > IP allowlist."),
        Refusal(
            401, "ip not authorized", "key_rejected", "Add this host's address to the organization's IP allowlist."
        ),
        Refusal(
            401, "member of an organization", "key_rejected", f"The key's owner is no member any more. {_ADMIN_KEY}"
        ),
        Refusal(401, "expired", "key_rejected", f"The key has expired. {_ADMIN_KEY}"),
        Refusal(401, "revoked", "key_rejected", f"The key was revoked. {_ADMIN_KEY}"),
        Refusal(401, "", "key_rejected", f"The key is wrong, revoked or expired. {_ADMIN_KEY} {_CHATGPT}"),
        Refusal(403, "", "missing_scope", f"The key may not do this. {_ADMIN_KEY}"),
    )

    def __init__(self, access: Access) -> None:
        self._by_key = access.api_keys
        self._client = Client(access, {"Authorization": f"Bearer {access.key.reveal()}"}, self.refusals)

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:
        """Tell every bucket of [since, until), oldest first, after the last page arrived. Raises ProviderError."""
        return buckets(report, since, until, self._told(report, int(since.timestamp()), int(until.timestamp())))

    def names(self) -> Mapping[str, str]:
        """Project ids -> names, and API key ids -> names where usage is told by key. Raises ProviderError."""
        found: dict[str, str] = {}
        for project in self._listed("/organization/projects", ("include_archived", "true")):
            found[text(project, "id")] = text(project, "name")
            if self._by_key and text(project, "status") != "archived":
                path = f"/organization/projects/{quote(text(project, 'id'), safe='')}/api_keys"
                found |= {text(key, "id"): text(key, "name") for key in self._listed(path)}
        return {id_: name for id_, name in found.items() if id_ and name}

    def verify(self) -> str:
        """Ask for one project, which only an admin key may. Raises ProviderError."""
        projects = items(self._client.get("/organization/projects", [("limit", "1")]), "data")
        return "ok, an organization" + "".join(f" with project {text(project, 'name')}" for project in projects)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _told(self, report: Report, since: int, until: int) -> Iterator[Told]:
        path, width, limit, groups = "/organization/costs", "1d", 180, _COST_GROUPS
        if report.kind == "usage":
            path, width, limit, groups = f"/organization/usage/{report.name}", "1h", 168, _KINDS[report.name][0]
        # The same end for every page: the walk must not chase a moving now.
        span = [("start_time", f"{since}"), ("end_time", f"{max(until, since + 1)}")]
        grouped = [("group_by[]", group) for group in groups if group != "api_key_id" or self._by_key]
        for page in self._client.pages(path, [*span, ("bucket_width", width), ("limit", f"{limit}"), *grouped]):
            for slot in items(page, "data"):
                start, end = (moment(slot, name, timedelta(seconds=1)) for name in ("start_time", "end_time"))
                yield start, end, list(_rows(report, slot))

    def _listed(self, path: str, *params: tuple[str, str]) -> Iterator[Json]:
        for page in self._client.pages(path, [("limit", "100"), *params], send="after", take="last_id"):
            yield from items(page, "data")


def _rows(report: Report, slot: Json) -> Iterator[Row]:
    for result in items(slot, "results" if "results" in slot else "result"):
        if report.kind == "usage":
            yield from _usage_rows(report.name, result)
        elif result.get("amount") is not None:
            yield bill_row(result)


def _usage_rows(kind: str, result: Json) -> Iterator[Row]:
    workspace, model, key = text(result, "project_id"), text(result, "model"), text(result, "api_key_id")
    tier = "batch" if flag(result, "batch") else text(result, "service_tier")
    counts = {meter: whole(result, name) for name, meter in _KINDS[kind][1]}
    if kind == _MAIN.name:
        counts |= _tokens(result)
    for meter, value in counts.items():
        if value:
            yield Row(meter, value, workspace, model, "standard" if tier == "default" else tier, key)


def _tokens(result: Json) -> dict[str, int]:
    """Split all tokens into disjoint meters, clamped so that they add up; what no detail explains is text."""
    cached, written = whole(result, "input_cached_tokens", 0), whole(result, "input_cache_write_tokens", 0)
    rest = max(0, whole(result, "input_tokens") - cached - written)
    counts = {"cache_write": written}
    for total, meters, detail in (
        (whole(result, "input_uncached_tokens", rest), INPUT, "input_{}_tokens"),
        (cached, CACHED, "input_cached_{}_tokens"),
        (whole(result, "output_tokens"), OUTPUT, "output_{}_tokens"),
    ):
        audio = min(total, whole(result, detail.format("audio"), 0))
        image = min(total - audio, whole(result, detail.format("image"), 0))
        counts |= zip(meters, (total - audio - image, audio, image), strict=True)
    return counts
