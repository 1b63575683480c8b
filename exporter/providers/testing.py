"""The contract test that every provider must pass, for the built-in providers and for plug-ins alike.

Subclass ProviderContract in a test module, name the class `Test…`, set `provider_type`, and define the fixture `api`.
FakeApi serves an API that is implemented as a function, and can be made to fail in every way
that the contract requires. docs/providers.md has a complete example. This module needs pytest; no other module of the
package imports it.
"""
# ruff: noqa: S101

from __future__ import annotations

import json
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, Protocol
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import BaseModel

from exporter.errors import KeyRejected, Malformed, ProviderError, RateLimited, Unavailable
from exporter.model import (
    COST,
    DAY,
    REQUESTS,
    TOKEN_METERS,
    UNIT_METERS,
    Balance,
    Bucket,
    Report,
    Row,
    RowLabels,
    Secret,
)
from exporter.providers import create_provider
from exporter.providers.base import Provider, ProviderType, ProviderWithBalance
from exporter.providers.http import ClientConfig
from exporter.providers.parsing import clean_balance
from exporter.windows import floor

__all__ = [
    "CannedServer",
    "ContractApi",
    "FakeApi",
    "ProviderContract",
    "ReceivedRequest",
    "Reply",
    "providers_without_contract",
    "start_canned_server",
]

KNOWN_METERS = TOKEN_METERS | UNIT_METERS | {COST, REQUESTS}
_ECHOED_KEY = "sk-very-secret-0123456789"
_HTML_PAGE = b"<!doctype html><html><head><title>Just a moment</title></head><body></body></html>"


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request as the server received it; header names are in lower case."""

    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; a body that is not bytes is sent as JSON."""

    body: object
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class CannedServer:
    """A running server: its address and all received requests."""

    url: str
    requests: list[ReceivedRequest] = field(default_factory=list)


@contextmanager
def start_canned_server(respond: Callable[[ReceivedRequest], Reply]) -> Iterator[CannedServer]:
    """Run an HTTP server on loopback that answers every request with `respond`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("content-length", 0))
            body = json.loads(self.rfile.read(length)) if length else {}
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = ReceivedRequest(parts.path, parse_qs(parts.query), headers, body)
            running.requests.append(request)
            reply = respond(request)
            content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response_only(reply.status)
            usual = {"content-length": str(len(content)), "date": self.date_time_string()}
            for name, value in (usual | {name.lower(): value for name, value in reply.headers.items()}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:
                self.close_connection = True  # the client gave up waiting, as a test of timeouts intends

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    running = CannedServer(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class ContractApi(Protocol):
    """The provider's API as the contract test uses it: an address, a key that works, and failures on demand."""

    @property
    def base_url(self) -> str:
        """The address, as an account's `base_url`."""
        ...

    @property
    def key(self) -> str:
        """A key that the API accepts."""
        ...

    @property
    def statuses(self) -> Sequence[int]:
        """The status of every answer so far, oldest first."""
        ...

    def add_fault(
        self, kind: str, *, page: int | None = None, retry_after: int | None = None, seconds: float = 0
    ) -> None:
        """Let requests fail from now on: all of them, or only those for one page of a list, counted from 1.

        Kinds: `server_error` (500), `overloaded` (529), `rate_limited` (429, with Retry-After where `retry_after` is
        given), `truncated` (half of the JSON), `malformed` (without its lists), `mistyped` (words for numbers),
        `html`, `empty` (lists without items), `shortened` (the first half of lists, as if they ended there), `slow`
        (after `seconds`), and the provider's own rejections of keys (`ProviderContract.key_rejections`).
        """
        ...

    def clear_faults(self) -> None:
        """Answer normally again."""
        ...

    def expected_usage(self, since: datetime, until: datetime) -> Iterable[tuple[datetime, Row]]:
        """Return (start of the slot, row) of all usage reports together, for the slots that start in [since, until)."""
        ...

    def expected_bill(self, day: datetime) -> Iterable[Row]:
        """Return the rows of the bill of a UTC day, of which items and values are compared."""
        ...


class _Fault(NamedTuple):
    kind: str
    page: int | None
    retry_after: int | None
    seconds: float


class FakeApi:
    """A provider's API on loopback, implemented as a function, with failures on demand; a context manager.

    `respond` answers a request as the provider does. `expected_usage` and `expected_bill` return what a correct
    provider reads from those answers, as in ContractApi. `rejections` are the provider's answers to keys that it
    does not accept: fault kind -> answer.
    """

    def __init__(
        self,
        respond: Callable[[ReceivedRequest], Reply],
        *,
        rejections: Mapping[str, Reply] | None = None,
        expected_usage: Callable[[datetime, datetime], Iterable[tuple[datetime, Row]]] | None = None,
        expected_bill: Callable[[datetime], Iterable[Row]] | None = None,
        key: str = "key-of-the-contract-test",
    ) -> None:
        self.key = key
        self.base_url = ""
        self.statuses: list[int] = []
        self._respond = respond
        self._rejections = rejections or {}
        self._expected_usage = expected_usage
        self._expected_bill = expected_bill
        self._fault: _Fault | None = None
        self._requests_by_path: Counter[str] = Counter()
        self._server = start_canned_server(self._answer)

    def __enter__(self) -> FakeApi:
        self.base_url = self._server.__enter__().url
        return self

    def __exit__(self, *exception: Any) -> None:
        self._server.__exit__(*exception)

    def add_fault(
        self, kind: str, *, page: int | None = None, retry_after: int | None = None, seconds: float = 0
    ) -> None:
        """Replace the present fault. `page` counts the requests with the same path from now on."""
        self._fault = _Fault(kind, page, retry_after, seconds)
        self._requests_by_path.clear()

    def clear_faults(self) -> None:
        """Answer normally again."""
        self._fault = None

    def expected_usage(self, since: datetime, until: datetime) -> Iterable[tuple[datetime, Row]]:
        """Return the usage in [since, until); nothing where the API reports no usage."""
        return self._expected_usage(since, until) if self._expected_usage is not None else ()

    def expected_bill(self, day: datetime) -> Iterable[Row]:
        """Return the bill of a day; nothing where the API reports no bills."""
        return self._expected_bill(day) if self._expected_bill is not None else ()

    def _answer(self, request: ReceivedRequest) -> Reply:
        self._requests_by_path[request.path] += 1
        fault = self._fault
        reply = self._respond(request)
        if fault is not None and fault.page in (None, self._requests_by_path[request.path]):
            reply = self._apply_fault(fault, reply)
        self.statuses.append(reply.status)
        return reply

    def _apply_fault(self, fault: _Fault, reply: Reply) -> Reply:
        match fault.kind:
            case "server_error" | "overloaded":
                return Reply({"error": fault.kind}, 500 if fault.kind == "server_error" else 529)
            case "rate_limited":
                headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
                return Reply({"error": "too many requests"}, 429, headers)
            case "truncated":
                content = json.dumps(reply.body).encode()
                return Reply(content[: len(content) // 2], reply.status)
            case "malformed":
                body = reply.body if isinstance(reply.body, dict) else {}
                without_lists = {name: value for name, value in body.items() if not isinstance(value, list)}
                return Reply(without_lists, reply.status)
            case "mistyped":
                return Reply(_replace_numbers(reply.body), reply.status)
            case "empty" | "shortened":
                return Reply(_shorten_lists(reply.body, 0 if fault.kind == "empty" else 0.5), reply.status)
            case "html":
                return Reply(_HTML_PAGE, reply.status)
            case "slow":
                time.sleep(fault.seconds)
                return reply
        return self._rejections[fault.kind]


def _shorten_lists(value: object, keep: float) -> object:
    """Return an answer with the first part of its lists, without another page."""
    if not isinstance(value, dict):
        return value
    shortened = {
        name: inner[: int(len(inner) * keep)] if isinstance(inner, list) else inner for name, inner in value.items()
    }
    end = {name: inner for name, inner in {"has_more": False, "next_page": None}.items() if name in value}
    return {**shortened, **end}


def _replace_numbers(value: object) -> object:
    if isinstance(value, dict):
        return {name: _replace_numbers(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_replace_numbers(inner) for inner in value]
    return "many" if isinstance(value, int | float) and not isinstance(value, bool) else value


class ProviderContract:
    """What every provider guarantees to the poller. Subclass it; every test is inherited."""

    provider_type: ClassVar[ProviderType]
    options: ClassVar[BaseModel | None] = None
    """The account's options; None where the provider needs none."""
    now: ClassVar[datetime] = datetime(2026, 11, 20, 13, 22, 11, tzinfo=UTC)
    """The current time of the API."""
    requests_per_poll: ClassVar[int] = 1
    """How many requests a poll of the main report may take that reads only the overlap."""
    is_paged: ClassVar[bool] = True
    """Whether ten days of the main report take several pages; the API of the test must be small enough for that."""
    key_rejections: ClassVar[Mapping[str, frozenset[str]]] = {
        "revoked": frozenset({"key_rejected"}),
        "expired": frozenset({"key_rejected"}),
        "missing_scope": frozenset({"missing_scope"}),
        "wrong_key": frozenset({"key_rejected", "missing_scope", "wrong_key_kind"}),
    }
    """The provider's ways to reject a key, as fault kinds -> the allowed reasons of KeyRejected."""

    @pytest.fixture
    def api(self) -> ContractApi | Iterator[ContractApi]:
        """Return or yield the running API of the provider. A subclass overrides this fixture."""
        raise NotImplementedError

    def expected_balance(self, api: ContractApi) -> Iterable[Balance] | None:  # noqa: ARG002
        """Return the balance at the API; a subclass overrides this for a provider that has one."""
        return None

    def check_key_rejection(self, fault: str, error: KeyRejected) -> None:
        """Check the advice for a rejected key; a subclass may check its text."""
        assert error.advice, fault

    @contextmanager
    def slow_api(self, api: ContractApi) -> Iterator[ContractApi]:
        """Give an API whose answers may arrive after their test; a subclass that shares a server overrides this."""
        yield api

    @property
    def has_reports(self) -> bool:
        """Whether the provider reports usage; else it reports a balance, and the tests of failures read that."""
        return bool(self.provider_type.reports)

    @property
    def main_report(self) -> Report:
        """The report that is polled most often."""
        return self.provider_type.reports[0]

    def read(self, provider: Provider, days: int = 0) -> None:
        """Read the main report of some whole days and today; without reports, the balance."""
        if self.has_reports:
            list(provider.fetch(self.main_report, self.today - days * DAY, self.now))
        else:
            assert isinstance(provider, ProviderWithBalance)
            provider.balance()

    @property
    def today(self) -> datetime:
        """The start of the current UTC day."""
        return floor(self.now, DAY)

    @contextmanager
    def connect(
        self, api: ContractApi, timeout: float = 30.0, observe: Callable[[str], None] = lambda _: None
    ) -> Iterator[Provider]:
        """Construct the provider for an account at the API."""
        client_config = ClientConfig(Secret(api.key), api.base_url, by_api_key=True, observe=observe, timeout=timeout)
        with closing(create_provider(self.provider_type, client_config, self.options)) as provider:
            yield provider

    def fetch_days(self, api: ContractApi, report: Report, days: int) -> list[Bucket]:
        """Fetch whole days, as far back as the provider answers, and today so far."""
        since = self.today - min(days, report.history // DAY) * DAY
        with self.connect(api) as provider:
            return list(provider.fetch(report, since, self.now))

    def fetch_error(self, api: ContractApi, timeout: float = 30.0) -> ProviderError:
        """Fetch the main report, which must fail, and return the error."""
        with self.connect(api, timeout) as provider, pytest.raises(ProviderError) as caught:
            self.read(provider)
        return caught.value

    def test_reports_are_consistent(self) -> None:
        """The first report is usage, names are unique, and the daily read covers the overlap within the history."""
        reports = self.provider_type.reports
        assert reports or hasattr(self.provider_type, "balance")
        assert not reports or reports[0].kind == "usage"
        assert len({report.name for report in reports}) == len(reports)
        for report in reports:
            assert report.overlap <= report.settle_period <= report.history
            assert report.poll_interval >= timedelta(minutes=1)
            assert report.settle_period + (DAY if report.width < DAY else timedelta()) <= 168 * report.width

    def test_some_type_of_key_is_accepted(self) -> None:
        """At least one type of key can read usage, and the published address uses TLS."""
        assert any(not kind.advice for kind in self.provider_type.key_kinds)
        assert self.provider_type.base_url.startswith("https://")

    def test_construction_makes_no_request(self, api: ContractApi) -> None:
        """Connecting an account costs nothing before the first poll."""
        with self.connect(api):
            pass
        assert list(api.statuses) == []

    def test_buckets_cover_the_time_range(self, api: ContractApi) -> None:
        """Every slot of the time range has one bucket of the report's width, oldest first or newest first."""
        for report in self.provider_type.reports[:2]:
            buckets = sorted(self.fetch_days(api, report, 32), key=lambda bucket: bucket.start)
            assert buckets[0].start == self.today - min(32, report.history // DAY) * DAY
            assert buckets[-1].start == floor(self.now, report.width)
            assert all(left.end == right.start for left, right in pairwise(buckets))
            assert {bucket.end - bucket.start for bucket in buckets} == {report.width}
            assert {bucket.report for bucket in buckets} == {report.name}

    def test_values_are_whole_and_known(self, api: ContractApi) -> None:
        """Rows are non-negative whole numbers of known meters, and no two rows of a bucket have equal labels."""
        for report in self.provider_type.reports:
            for bucket in self.fetch_days(api, report, 2):
                assert all(row.value >= 0 and type(row.value) is int for row in bucket.rows)
                assert {row.meter for row in bucket.rows} <= KNOWN_METERS
                labels = [
                    RowLabels(row.meter, row.workspace, row.model, row.tier, row.api_key, row.item)
                    for row in bucket.rows
                ]
                assert len(labels) == len(set(labels))

    def test_repeated_fetches_return_equal_buckets(self, api: ContractApi) -> None:
        """Fetching twice while nothing changes returns equal buckets."""
        for report in self.provider_type.reports:
            assert self.fetch_days(api, report, 2) == self.fetch_days(api, report, 2)

    def test_usage_is_exact(self, api: ContractApi) -> None:
        """Every unit that the provider reports arrives in its slot with its labels, and nothing else does."""
        since = self.today - 8 * DAY
        fetched: Counter[tuple[datetime, RowLabels]] = Counter()
        for report in self.provider_type.reports:
            if report.kind != "usage":
                continue
            for bucket in self.fetch_days(api, report, 8):
                for row in bucket.rows:
                    fetched[bucket.start, _labels_without_item(row)] += row.value
        expected: Counter[tuple[datetime, RowLabels]] = Counter()
        for start, row in api.expected_usage(since, self.now):
            expected[start, _labels_without_item(row)] += row.value
        assert fetched == expected
        assert fetched or not self.has_reports, "the test's API reports no usage"

    def test_the_balance_is_exact(self, api: ContractApi) -> None:
        """A provider with a balance returns what the API's account has left, with one request."""
        if not hasattr(self.provider_type, "balance"):
            assert self.expected_balance(api) is None
            return
        with self.connect(api) as provider:
            assert isinstance(provider, ProviderWithBalance)
            balance = clean_balance(provider.balance())
        assert len(api.statuses) == 1
        assert sorted(balance) == sorted(self.expected_balance(api) or ())

    def test_bills_are_exact(self, api: ContractApi) -> None:
        """The rows of each billed day have the items of the bill and add up to it, to the nano-USD."""
        for report in self.provider_type.reports:
            if report.kind != "bill":
                continue
            for bucket in self.fetch_days(api, report, 8):
                fetched: Counter[str] = Counter()
                for row in bucket.rows:
                    fetched[row.item] += row.value
                expected: Counter[str] = Counter()
                for row in api.expected_bill(bucket.start):
                    expected[row.item] += row.value
                assert dict(fetched) == dict(expected)

    def test_every_workspace_has_a_name(self, api: ContractApi) -> None:
        """Every workspace in the rows, archived ones included, has a name."""
        if not self.has_reports:
            return
        with self.connect(api) as provider:
            names = provider.names()
        buckets = self.fetch_days(api, self.main_report, 2)
        workspaces = {row.workspace for bucket in buckets for row in bucket.rows}
        assert workspaces
        assert workspaces <= names.keys() | {""}

    def test_verify_makes_one_request(self, api: ContractApi) -> None:
        """A check of the key costs one request and describes its owner."""
        with self.connect(api) as provider:
            assert provider.verify().startswith("ok, ")
        assert len(api.statuses) == 1

    def test_a_poll_of_the_overlap_is_cheap(self, api: ContractApi) -> None:
        """After the first poll, reading the overlap of the main report takes one request."""
        if not self.has_reports:
            return
        newest = floor(self.now, self.main_report.width)
        with self.connect(api) as provider:
            list(provider.fetch(self.main_report, newest, self.now))
            before = len(api.statuses)
            list(provider.fetch(self.main_report, newest - self.main_report.overlap, self.now))
        assert len(api.statuses) - before <= self.requests_per_poll

    def test_a_failed_page_returns_nothing(self, api: ContractApi) -> None:
        """When the second page of a list fails, no bucket of the first page is returned."""
        if not self.has_reports:
            return
        days = min(10, self.main_report.history // DAY)
        if not self.is_paged:
            self.fetch_days(api, self.main_report, days)
            assert len(api.statuses) == 1
            return
        api.add_fault("server_error", page=2)
        with self.connect(api) as provider:
            buckets = provider.fetch(self.main_report, self.today - days * DAY, self.now)
            with pytest.raises(Unavailable):
                next(buckets)
        assert api.statuses[0] == 200

    @pytest.mark.parametrize("fault", ["server_error", "overloaded"])
    def test_server_errors(self, api: ContractApi, fault: str) -> None:
        """A 5xx answer is Unavailable, and the provider counts as reached."""
        api.add_fault(fault)
        error = self.fetch_error(api)
        assert isinstance(error, Unavailable)
        assert error.reached

    @pytest.mark.parametrize("seconds", [None, 7])
    def test_too_many_requests(self, api: ContractApi, seconds: int | None) -> None:
        """A 429 is RateLimited with the Retry-After of the provider, where it sends one."""
        api.add_fault("rate_limited", retry_after=seconds)
        error = self.fetch_error(api)
        assert isinstance(error, RateLimited)
        assert error.retry_after == seconds

    @pytest.mark.parametrize("fault", ["truncated", "malformed", "mistyped", "html"])
    def test_malformed_answers(self, api: ContractApi, fault: str) -> None:
        """Truncated JSON, a missing list, words for numbers and web pages are Malformed."""
        api.add_fault(fault)
        assert isinstance(self.fetch_error(api), Malformed)

    @pytest.mark.parametrize("fault", ["empty", "shortened"])
    def test_missing_buckets_are_malformed(self, api: ContractApi, fault: str) -> None:
        """If a report lists empty buckets, an answer without all of its buckets is Malformed and never a zero."""
        for report in self.provider_type.reports:
            if report.lists_empty_buckets:
                api.clear_faults()
                assert self.fetch_days(api, report, 2), report.name
                api.add_fault(fault)
                with pytest.raises(Malformed, match="missing"):
                    self.fetch_days(api, report, 2)

    def test_rejected_keys(self, api: ContractApi) -> None:
        """A rejected key is KeyRejected with its reason, and with advice on how to get a key that works."""
        for fault, reasons in self.key_rejections.items():
            api.clear_faults()
            api.add_fault(fault)
            error = self.fetch_error(api)
            assert isinstance(error, KeyRejected), fault
            assert error.reason in reasons, fault
            self.check_key_rejection(fault, error)

    def test_a_slow_answer_times_out(self, api: ContractApi) -> None:
        """An answer that takes longer than the timeout is Unavailable, with the timeout in its message."""
        with self.slow_api(api) as slow:
            slow.add_fault("slow", seconds=2)
            error = self.fetch_error(slow, timeout=0.1)
        assert isinstance(error, Unavailable)
        assert "within 0.1 s" in str(error)

    def test_every_request_is_observed(self, api: ContractApi) -> None:
        """Each request is reported once with the status of its answer."""
        codes: list[str] = []
        api.add_fault("server_error", page=2 if self.is_paged else 1)
        with self.connect(api, observe=codes.append) as provider, pytest.raises(Unavailable):
            self.read(provider, days=min(10, self.main_report.history // DAY) if self.has_reports else 0)
        assert codes == [str(status) for status in api.statuses]
        assert codes[-1] == "500"

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
    def test_the_key_is_in_no_error(self, status: int) -> None:
        """When a provider repeats all request headers and the key in any form, the error does not contain the key."""
        key = _ECHOED_KEY.encode()
        forms = (_ECHOED_KEY, b64encode(key).decode(), key.hex(), _ECHOED_KEY[::-1], _ECHOED_KEY.upper())

        def echo(request: ReceivedRequest) -> Reply:
            text = f"unexpected headers {dict(request.headers)} {' '.join(forms)}"
            return Reply({"error": {"message": text}}, status)

        with start_canned_server(echo) as server:
            client_config = ClientConfig(Secret(_ECHOED_KEY), server.url)
            with (
                closing(create_provider(self.provider_type, client_config, self.options)) as provider,
                pytest.raises(ProviderError) as caught,
            ):
                self.read(provider)
        shown = f"{caught.value} {caught.value!r} {vars(caught.value)}"
        assert not any(form in shown for form in forms)
        for request in server.requests:
            for value in request.headers.values():
                is_credential = len(value) > 20 and "ai-spend" not in value
                assert not (is_credential and value.split()[-1] in shown)


def _labels_without_item(row: Row) -> RowLabels:
    return RowLabels(row.meter, row.workspace, row.model, row.tier, row.api_key)


def providers_without_contract(providers: Mapping[str, ProviderType]) -> list[str]:
    """Return the names of providers for which no imported test class (`Test…`) subclasses ProviderContract."""
    tested = [contract.provider_type for contract in _subclasses(ProviderContract) if contract.__name__[:4] == "Test"]
    return [name for name, provider_type in providers.items() if provider_type not in tested]


def _subclasses(parent: type[ProviderContract]) -> Iterator[type[ProviderContract]]:
    for child in parent.__subclasses__():
        yield child
        yield from _subclasses(child)
