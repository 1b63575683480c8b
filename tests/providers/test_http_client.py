"""The HTTP client against real sockets: every wrong, late or hostile answer becomes one error."""

from __future__ import annotations

import base64
import codecs
import gzip
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from typing import Any

import pytest

from exporter.errors import KeyRejected, Malformed, ProviderError, RateLimited, Unavailable, Unsupported
from exporter.model import KeyRejectionRule, Secret
from exporter.providers import http
from exporter.providers.http import Client, ClientConfig, Json, paginate_by_number, paginate_by_offset
from exporter.providers.parsing import list_field
from tests.providers.canned import CannedServer, ReceivedRequest, Reply, start_canned_server

KEY = "abc.DEF-123"
AUTH = {"Authorization": f"Bearer {KEY}"}


@contextmanager
def open_client(
    url: str, *rejection_rules: KeyRejectionRule, key: str = KEY, timeout: float = 10.0
) -> Iterator[Client]:
    """Open a client that sends its key as bearer token."""
    headers = {"Authorization": f"Bearer {key}"}
    client_config = ClientConfig(Secret(key), url, timeout=timeout)
    with closing(Client(client_config, headers, rejection_rules)) as opened:
        yield opened


def serve_reply(reply: Reply) -> AbstractContextManager[CannedServer]:
    """Run a server that always gives the same reply."""
    return start_canned_server(lambda _: reply)


def error_for_reply(reply: Reply, *rejection_rules: KeyRejectionRule) -> ProviderError:
    """Return the error for a reply."""
    with start_canned_server(lambda _: reply) as server:
        return error_at(server.url, *rejection_rules)


def error_at(url: str, *rejection_rules: KeyRejectionRule, key: str = KEY) -> ProviderError:
    """Return the error of a request to this address."""
    with open_client(url, *rejection_rules, key=key) as opened, pytest.raises(ProviderError) as caught:
        opened.get("/x")
    return caught.value


@contextmanager
def start_raw_server(respond: Callable[[socket.socket], None]) -> Iterator[str]:
    """Run a server that reads a request and then calls a function to write its answer; yield its address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.recv(65_536)
                respond(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
        thread.join(timeout=5)


def drip(start: bytes) -> Callable[[socket.socket], None]:
    """Send the beginning of an answer, and then single bytes until the connection is closed."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(start)
        pause = threading.Event()
        for _ in range(500):
            connection.sendall(b"x")
            pause.wait(0.01)

    return talk


def test_numbers_keep_their_digits() -> None:
    """An answer is a JSON object with fractions as decimals; parameters and bodies arrive unchanged."""
    with (
        start_canned_server(lambda _: Reply(b'{"a": 0.10, "b": 3}')) as server,
        open_client(server.url + "/v1/") as opened,
    ):
        answer = opened.get("/x", [("group_by[]", "a"), ("group_by[]", "b c")])
        opened.post("/y", {"n": 1})
    assert repr(answer) == "{'a': Decimal('0.10'), 'b': 3}"
    first, second = server.requests
    assert (first.path, first.query) == ("/v1/x", {"group_by[]": ["a", "b c"]})
    assert (second.path, second.body) == ("/v1/y", {"n": 1})


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (400, Malformed, "malformed"),
        (401, KeyRejected, "key_rejected"),
        (402, Malformed, "malformed"),
        (403, KeyRejected, "missing_scope"),
        (404, Unsupported, "unsupported"),
        (405, Unsupported, "unsupported"),
        (408, Unavailable, "unavailable"),
        (409, Unavailable, "unavailable"),
        (410, Unsupported, "unsupported"),
        (422, Malformed, "malformed"),
        (425, Unavailable, "unavailable"),
        (429, RateLimited, "rate_limited"),
        (500, Unavailable, "unavailable"),
        (503, Unavailable, "unavailable"),
        (529, Unavailable, "unavailable"),
    ],
)
def test_every_status_has_its_error(status: int, kind: type[ProviderError], reason: str) -> None:
    """A status becomes one error with the path, the status and the provider's code."""
    error = error_for_reply(Reply({"error": {"message": "No\nluck today", "type": "api_error"}}, status))
    assert type(error) is kind
    assert error.reason == reason
    assert str(error) == f"GET /x answered {status} (api_error)"
    assert not isinstance(error, Unavailable) or error.reached


@pytest.mark.parametrize(
    ("body", "description"),
    [
        ({"error": {"type": "requests", "code": "rate_limit_exceeded"}}, " (requests, rate_limit_exceeded)"),
        ({"type": "error", "error": {"type": "overloaded_error"}}, " (overloaded_error)"),
        ({"code": "invalid_api_key", "error": {"code": "invalid_api_key"}}, " (invalid_api_key)"),
        ({"error": "Forbidden", "message": "Not in your plan"}, ""),
        ({"error": {"code": "sk-admin-0123"}, "code": ["tokens"]}, ""),
        ({"error": {"code": 7, "type": None}}, ""),
        ([], ""),
        (b"plain \x1b[31m words", ""),
        (b" <html><p>hello</p></html>", " (a web page)"),
        (b"[" * 100_000, ""),
        (b'{"code": "tokens", "message": "' + b"w" * 100_000 + b'"}', ""),
        (b"", ""),
    ],
)
def test_the_providers_code(body: object, description: str) -> None:
    """Published codes are found in every known body; no other text of the provider is repeated."""
    assert str(error_for_reply(Reply(body, 418))) == f"GET /x answered 418{description}"


def test_rejection_rules_come_first() -> None:
    """The first rule that matches status and text takes precedence over the status alone."""
    scope = KeyRejectionRule(None, "Missing Scopes", "missing_scope", "get a key")
    later = KeyRejectionRule(401, "", "wrong_key_kind", "other")
    error = error_for_reply(Reply({"error": {"message": "odd; missing scopes: a"}}, 401), scope, later)
    assert isinstance(error, KeyRejected)
    assert (error.reason, error.advice) == ("missing_scope", "get a key")
    assert isinstance(error_for_reply(Reply({"error": "missing scopes"}, 500), scope), Unavailable)


DATE = "Sat, 21 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 0.5 ", 0.5),
        ("Sat, 21 Nov 2026 12:02:30 GMT", 150.0),
        ("Saturday, 21-Nov-26 12:02:30 GMT", 150.0),
        ("Sat, 21 Nov 2026 12:02:30 -0000", 150.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
        ("-3", None),
        ("nan", None),
        ("1_0", None),
        ("soon", None),
        ("Sat, 99 Nov 2026 12:00:00 GMT", None),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", None),
        ("x" * 5000, None),
        ("", None),
    ],
)
@pytest.mark.parametrize("status", [429, 409, 500, 503, 529])
def test_retry_after(header: str, seconds: float | None, status: int) -> None:
    """Retry-After is used as a number of seconds or as a time, with every status that can be tried again."""
    error = error_for_reply(Reply({}, status, {"Date": DATE, "Retry-After": header}))
    assert isinstance(error, RateLimited if status == 429 else Unavailable)
    assert error.retry_after == seconds


def test_retry_after_as_a_time_needs_the_providers_clock() -> None:
    """Without a readable Date of the answer, a Retry-After time has no meaning: the usual back-off applies."""
    headers = {"Date": "today", "Retry-After": "Sat, 21 Nov 2026 12:02:30 GMT"}
    error = error_for_reply(Reply({}, 503, headers))
    assert isinstance(error, Unavailable)
    assert error.retry_after is None


def test_redirects_are_not_followed() -> None:
    """The key is never sent to another host: a redirect is reported as a wrong base_url."""
    with start_canned_server(lambda _: Reply({})) as elsewhere:
        error = error_for_reply(Reply(b"", 302, {"Location": f"{elsewhere.url}/y?{KEY}"}))
    assert str(error) == "GET /x: base_url redirects to another address"
    assert isinstance(error, Malformed)
    assert elsewhere.requests == []


def test_a_redirect_to_an_invalid_address_is_malformed() -> None:
    """A Location that is no address is reported, without its text, as an answer that cannot be understood."""
    error = error_for_reply(Reply(b"", 302, {"Location": "https:other.example"}))
    assert isinstance(error, Malformed)
    assert str(error) == "GET /x answered with a redirect to an invalid address"


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": [1, 2',
        b"<html></html>",
        b"",
        b"[]",
        b"null",
        b'{"x": NaN}',
        b'{"x": 1e99999999999999999999}',
        b'{"x": ' + b"9" * 5000 + b"}",
        b'{"x": ' + b"[" * 200_000,
        b'\xff\xfe{"x"',
    ],
    ids=["cut", "page", "empty", "list", "null", "nan", "exponent", "digits", "nested", "encoding"],
)
def test_bodies_that_are_no_object(body: bytes) -> None:
    """A success whose body is not a complete JSON object is Malformed."""
    error = error_for_reply(Reply(body))
    assert isinstance(error, Malformed)
    assert str(error).startswith("GET /x answered 200 with ")


def test_a_body_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading stops at a limit, also where the body exceeds it only when decompressed."""
    monkeypatch.setattr(http, "MAX_BODY_BYTES", 1000)
    bomb = gzip.compress(json.dumps({"x": "y" * 100_000}).encode())
    error = error_for_reply(Reply(bomb, headers={"Content-Encoding": "gzip"}))
    assert str(error) == "GET /x answered more than 1000 bytes"


def test_a_compressed_body_is_read() -> None:
    """Only gzip is offered to the provider, and a body in gzip or without a coding is read."""
    for coding, body in (
        ("gzip", gzip.compress(b'{"n": 1}')),
        ("X-GZIP", gzip.compress(b'{"n": 1}')),
        ("", b'{"n": 1}'),
    ):
        reply = Reply(body, headers={"Content-Encoding": coding} if coding else {})
        with serve_reply(reply) as server, open_client(server.url) as opened:
            assert opened.get("/x") == {"n": 1}
            assert server.requests[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize(
    "body",
    [
        b"no gzip",
        b"",
        gzip.compress(b'{"n": 1}')[:-9],
        gzip.compress(b'{"n": 1}')[:-4] + b"0000",
        gzip.compress(b'{"n": 1}') + b"x",
        gzip.compress(b'{"n": ') + gzip.compress(b"1}"),
    ],
    ids=["no gzip", "empty", "cut", "checksum", "more", "two members"],
)
def test_a_body_that_cannot_be_decompressed(body: bytes) -> None:
    """A body that is not exactly one gzip stream is Malformed."""
    error = error_for_reply(Reply(body, headers={"Content-Encoding": "gzip"}))
    assert isinstance(error, Malformed)
    assert str(error) == "GET /x answered 200 with a body that cannot be decompressed"


@pytest.mark.parametrize("coding", ["gzip, gzip", "gzip,gzip", "gzip, identity", "deflate", "br", "zstd", "sk-odd"])
def test_other_codings_are_not_decompressed(coding: str) -> None:
    """A second coding, or one that was not offered, is Malformed before anything is decompressed."""
    body = gzip.compress(gzip.compress(b"{}"))
    error = error_for_reply(Reply(body, headers={"Content-Encoding": coding}))
    assert isinstance(error, Malformed)
    assert str(error) == "GET /x answered 200 in a content coding that was not requested"


def test_a_small_body_cannot_fill_the_memory() -> None:
    """Decompression stops at the limit: a body of 300 kB that stands for 300 MB takes no more memory than allowed."""
    bomb = gzip.compress(bytes(300 * 1024 * 1024), compresslevel=6)
    tracemalloc.start()
    try:
        error = error_for_reply(Reply(bomb, headers={"Content-Encoding": "gzip"}))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(error) == f"GET /x answered more than {http.MAX_BODY_BYTES} bytes"
    assert peak < 2.5 * http.MAX_BODY_BYTES


@pytest.mark.parametrize("item", [b"[]", b"{}", b"1.5", b'"ab"'], ids=["lists", "objects", "fractions", "texts"])
def test_a_body_of_too_many_values_is_malformed(monkeypatch: pytest.MonkeyPatch, item: bytes) -> None:
    """A JSON value takes up to thirty times its length in memory, so the number of values is limited before parsing."""
    monkeypatch.setattr(http, "MAX_JSON_VALUES", 1000)
    error = error_for_reply(Reply(b'{"x": [' + b",".join([item] * 1001) + b"]}"))
    assert isinstance(error, Malformed)
    assert str(error) == "GET /x answered 200 with more than 1000 JSON values"


@pytest.mark.parametrize(
    "start",
    [b"HTTP/1.1 200 OK\r\nx-slow: ", b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"],
)
def test_a_dripping_response_times_out(start: bytes) -> None:
    """An answer never takes longer than the timeout, however slowly headers or body arrive."""
    began = time.monotonic()
    with start_raw_server(drip(start)) as url, open_client(url, timeout=0.2) as opened:
        with pytest.raises(Unavailable, match=r"GET /x failed: 127\.0\.0\.1 sent no complete answer within 0\.2 s"):
            opened.get("/x")
        assert time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    ("start", "code", "reached"),
    [(b"", "error", False), (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", "200", True)],
)
def test_a_connection_that_breaks(start: bytes, code: str, reached: bool) -> None:
    """A broken connection is Unavailable, with `reached` where an answer had begun, and is observed once."""
    codes: list[str] = []
    with start_raw_server(lambda connection: connection.sendall(start)) as url:
        opened = Client(ClientConfig(Secret(KEY), url, observe=codes.append), AUTH)
        with closing(opened), pytest.raises(Unavailable, match="broke") as caught:
            opened.get("/x")
    assert caught.value.reached is reached
    assert codes == [code]


def test_a_connection_that_is_established_after_the_close_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request whose connection is established after `close` fails, and leaves no socket open."""
    established: list[socket.socket] = []
    connect = socket.create_connection

    def close_and_connect(address: tuple[str, int], *arguments: Any, **options: Any) -> socket.socket:
        closing_thread = threading.Thread(target=opened.close)
        closing_thread.start()
        closing_thread.join()
        established.append(connect(address, *arguments, **options))
        return established[-1]

    with start_canned_server(lambda _: Reply({})) as server, open_client(server.url) as opened:
        monkeypatch.setattr(socket, "create_connection", close_and_connect)
        with pytest.raises(Unavailable, match="broke"):
            opened.get("/x")
    assert [connection.fileno() for connection in established] == [-1]


def test_nobody_listens() -> None:
    """A refused connection is Unavailable and not reached, and the message contains it."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    error = error_at(f"http://127.0.0.1:{port}")
    assert isinstance(error, Unavailable)
    assert str(error) == "GET /x failed: 127.0.0.1 refuses the connection"
    assert not error.reached


def test_no_tls_on_the_other_side() -> None:
    """HTTPS to a port without TLS is reported as a TLS problem."""
    with start_canned_server(lambda _: Reply({})) as server:
        error = error_at(server.url.replace("http", "https"))
    assert isinstance(error, Unavailable)
    assert str(error) == "GET /x failed: no TLS connection to 127.0.0.1 can be made"


@pytest.mark.parametrize("url", ["http://127.0.0.1:abc", "no-scheme", "ftp://127.0.0.1"])
def test_a_base_url_that_is_none(url: str) -> None:
    """An address that is not an HTTP URL is reported as such."""
    assert str(error_at(url)) == "GET /x: base_url is not an HTTP address"


@pytest.mark.parametrize("key", ["", "a b", "a\r\nx-evil: 1", "schlüssel", "a\x00"])
def test_keys_that_cannot_travel(key: str) -> None:
    """A key that would break or forge a header is rejected before a request is sent."""
    with start_canned_server(lambda _: Reply({})) as server:
        error = error_at(server.url, key=key)
    assert isinstance(error, KeyRejected)
    assert server.requests == []
    assert not key or key not in f"{error!r} {vars(error)}"


KEY_FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "without its first letters": lambda key: key[4:],
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "basic": lambda key: base64.b64encode(f"{key}:".encode()).decode(),
    "hex": lambda key: key.encode().hex(),
    "percent": lambda key: "%" + key.encode().hex("%"),
    "reversed": lambda key: key[::-1],
    "upper case": str.upper,
    "spaced": " ".join,
    "rot13": lambda key: codecs.encode(key, "rot13"),
    "masked": lambda key: f"sk-****{key[-4:]}",
}


@pytest.mark.parametrize("form", KEY_FORMS)
@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 409, 418, 429, 500, 503])
def test_no_form_of_the_key_is_in_an_error(form: str, status: int) -> None:
    """Whatever form of the key a provider repeats, in whichever field or header, it is in no error."""
    repeated = KEY_FORMS[form](KEY)
    fields = {"message": repeated, "code": repeated, "type": repeated, repeated: repeated}
    header = repeated.encode().hex() if form == "plain" else repeated
    reply = Reply(
        [fields] if status == 200 else {"error": fields, **fields}, status, {"Location": f"http://{header}.x/"}
    )
    error = error_for_reply(reply)
    text = f"{error} {error!r} {vars(error)}"
    assert repeated not in text
    assert not any(text.count(KEY[start : start + 5]) for start in range(len(KEY) - 5))


def test_a_broken_answer_is_not_repeated() -> None:
    """An answer that is not HTTP is described in our own words, although the HTTP library quotes it."""
    with start_raw_server(lambda connection: connection.sendall(f"HTTP/1.1 200 OK\r\n{KEY} x\r\n\r\n".encode())) as url:
        error = error_at(url)
    assert str(error) == "GET /x failed: the connection to 127.0.0.1 broke (RemoteProtocolError)"


def fetch_pages(server: CannedServer) -> list[object]:
    """Read all pages and return their numbers."""
    with open_client(server.url) as opened:
        return [page["n"] for page in opened.pages("/x", [("a", "b")])]


def test_pagination_resends_its_parameters() -> None:
    """Every page is requested with the same parameters and the previous page's cursor, until the last."""
    answers = iter([{"n": 1, "has_more": True, "next_page": "c1"}, {"n": 2, "has_more": False, "next_page": "c2"}])
    with start_canned_server(lambda _: Reply(next(answers))) as server:
        assert fetch_pages(server) == [1, 2]
    assert [request.query for request in server.requests] == [{"a": ["b"]}, {"a": ["b"], "page": ["c1"]}]


@pytest.mark.parametrize("last", [{"n": 1, "next_page": None}, {"n": 1}, {"n": 1, "has_more": False}])
def test_the_end_of_pagination(last: dict[str, object]) -> None:
    """A page without a cursor is the last, whatever its has_more is."""
    with start_canned_server(lambda _: Reply(last)) as server:
        assert fetch_pages(server) == [1]


@pytest.mark.parametrize("cursor", [None, "", 7])
def test_more_pages_but_no_cursor(cursor: object) -> None:
    """Pages are never lost in silence: more of them without a cursor is Malformed."""
    page = {"n": 1, "has_more": True, "next_page": cursor}
    with start_canned_server(lambda _: Reply(page)) as server, pytest.raises(Malformed, match="next_page"):
        fetch_pages(server)


ITEMS = [{"n": number} for number in range(5)]


def answer_by_offset(request: ReceivedRequest) -> Reply:
    """Return the requested part of ITEMS, and their number."""
    offset, limit = int(request.query["offset"][0]), int(request.query["limit"][0])
    return Reply({"items": ITEMS[offset : offset + limit], "total": len(ITEMS)})


@pytest.mark.parametrize(
    ("limit", "total_field", "requests"), [(2, "", 3), (5, "", 2), (2, "total", 3), (5, "total", 1)]
)
def test_offset_pages_return_every_item_once(limit: int, total_field: str, requests: int) -> None:
    """A list is read to its end, which is the announced number of items or else a page that is not full."""
    with start_canned_server(answer_by_offset) as server, open_client(server.url) as client:
        pages = client.offset_pages("/x", [("a", "b")], "items", limit=limit, total_field=total_field)
        assert [item for page in pages for item in list_field(page, "items")] == ITEMS
    assert len(server.requests) == requests
    assert {tuple(request.query["a"]) for request in server.requests} == {("b",)}


@pytest.mark.parametrize(
    ("page", "field"),
    [
        ({"items": []}, "total"),
        ({"items": [], "total": "5"}, "total"),
        ({"items": [], "total": True}, "total"),
        ({"items": [], "total": 5}, "total"),
        ({"total": 5}, "items"),
        ({"items": {}, "total": 5}, "items"),
    ],
)
def test_incomplete_offset_pages_are_malformed(page: dict[str, object], field: str) -> None:
    """Items are never lost in silence: a page without its list or with too few items is Malformed."""
    with pytest.raises(Malformed) as caught:
        list(paginate_by_offset(lambda _: page, "items", limit=2, total_field="total"))
    assert caught.value.field == field


@pytest.mark.parametrize("total_field", ["", "total"])
def test_a_server_that_ignores_the_offset_is_malformed(total_field: str) -> None:
    """A page that repeats the page before ends the list with an error after the second request."""
    offsets: list[int] = []

    def fetch_page(offset: int) -> Json:
        offsets.append(offset)
        return {"items": ITEMS[:2], "total": 100}

    with pytest.raises(Malformed, match="repeats"):
        list(paginate_by_offset(fetch_page, "items", limit=2, total_field=total_field))
    assert offsets == [0, 2]


def test_offset_pages_are_bounded() -> None:
    """A list ends with an error after the maximum number of pages."""
    with pytest.raises(Malformed, match="more than 3 pages"):
        list(paginate_by_offset(lambda offset: {"items": [offset]}, "items", limit=1, max_pages=3))


def test_numbered_pages_are_read_to_the_last() -> None:
    """Pages are numbered from 1 and read until a page announces no further page."""
    pages = list(paginate_by_number(lambda number: {"number": number}, lambda page: page["number"] != 3))
    assert pages == [{"number": 1}, {"number": 2}, {"number": 3}]


def test_numbered_pages_are_bounded() -> None:
    """A repeated page and too many pages end the list with an error."""
    with pytest.raises(Malformed, match="repeats"):
        list(paginate_by_number(lambda _: {"number": 1}, lambda _: True))
    with pytest.raises(Malformed, match="more than 3 pages"):
        list(paginate_by_number(lambda number: {"number": number}, lambda _: True, max_pages=3))
