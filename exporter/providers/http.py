"""The HTTP client of all providers: bounded waiting, bounded pages, and one translation of failures. No retries."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import NoReturn, TypeVar

import httpx

from exporter import __version__
from exporter.errors import KeyRejected, Malformed, ProviderError, RateLimited, Unavailable, Unsupported
from exporter.model import KeyRejectionRule, Secret, escape_text

Json = Mapping[str, object]
"""A JSON object; numbers with a point are Decimal."""
Page = TypeVar("Page")

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_JSON_VALUES = 4_000_000
"""Lists, objects and separated values in a body. Parsed, a value takes up to a hundred bytes, however short it is."""
MAX_PAGES = 10_000
CONNECT_TIMEOUT = 5.0
"""Seconds for a connection to be made."""

_MAX_DATE_LENGTH = 40
_MAX_ERROR_BYTES = 64 * 1024
_KNOWN_ERROR_CODES = frozenset(
    {
        "account_deactivated",
        "api_error",
        "authentication_error",
        "billing_error",
        "billing_not_active",
        "insufficient_permissions",
        "insufficient_quota",
        "internal_error",
        "invalid_api_key",
        "invalid_request_error",
        "model_not_found",
        "not_found_error",
        "organization_deactivated",
        "overloaded_error",
        "permission_error",
        "rate_limit_error",
        "rate_limit_exceeded",
        "request_too_large",
        "requests",
        "server_error",
        "timeout_error",
        "tokens",
        "unsupported_country_region_territory",
    }
)
"""Codes of errors that providers publish. Any other text of an error is not repeated: it may hold a key."""
_GZIP_HEADER = 16
"""Added to the window size of zlib: expect a gzip header and check the checksum at the end."""
_ESCAPED_OR_NOT_ASCII = re.compile(rb"[^\t\n\r -~]|\\")
_PRINTABLE_ASCII = re.compile(r"[!-~]+")
_NETWORK_ERROR_MESSAGES: tuple[tuple[type[BaseException], str], ...] = (
    (httpx.ProxyError, "the proxy in front of {host} rejects the request"),
    (httpx.ConnectTimeout, "no connection to {host} within {connect:g} s"),
    (httpx.TimeoutException, "{host} sent no complete answer within {timeout:g} s"),
    (socket.gaierror, "the name {host} cannot be resolved (DNS)"),
    (ConnectionRefusedError, "{host} refuses the connection"),
    (ssl.SSLCertVerificationError, "the TLS certificate of {host} is not trusted"),
    (ssl.SSLError, "no TLS connection to {host} can be made"),
)


def _ignore(_code: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """How a provider reaches one account: credentials, address and limits."""

    key: Secret
    base_url: str
    by_api_key: bool = False
    """Whether usage has to be grouped by API key as well."""
    observe: Callable[[str], None] = _ignore
    """Called once per request with the status code as text, or `error` without an answer."""
    timeout: float = 30.0
    """Seconds until the last byte of an answer, however slowly it arrives."""
    monotonic: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class Answer:
    """The body of a successful answer, not parsed yet."""

    body: bytes
    """Of at most MAX_BODY_BYTES and MAX_JSON_VALUES."""
    description: str
    """The beginning of messages about the answer."""

    def parse(self) -> Json:
        """Return the JSON object. Raises Malformed."""
        found = parse_json(self.body, self.description)
        if not isinstance(found, dict):
            raise Malformed(f"{self.description} with JSON that is not an object")
        return found


class Client:
    """HTTP for one account, one request at a time. Failures are ProviderErrors without the provider's text."""

    def __init__(
        self, config: ClientConfig, headers: Mapping[str, str], key_rejection_rules: Sequence[KeyRejectionRule] = ()
    ) -> None:
        self._config = config
        self._headers = dict(headers)
        self._key_rejection_rules = tuple(key_rejection_rules)
        self._base_url = config.base_url.rstrip("/")
        self._socket: socket.socket | None = None
        self._closed = False
        self._deadline = 0.0
        self._http = httpx.Client(
            verify=_shared_ssl_context(),
            # `close` cannot interrupt a connection attempt, so it is kept short.
            timeout=httpx.Timeout(config.timeout, connect=min(config.timeout, CONNECT_TIMEOUT)),
            headers={
                "User-Agent": f"ai-spend-exporter/{__version__}",
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
            },
        )

    def get(self, path: str, params: Sequence[tuple[str, str]] = ()) -> Json:
        """Return the JSON object in the answer to GET `base_url + path`. Raises ProviderError."""
        return self.get_answer(path, params).parse()

    def get_answer(self, path: str, params: Sequence[tuple[str, str]] = ()) -> Answer:
        """Return the answer to GET `base_url + path`, for a caller that parses it. Raises ProviderError."""
        return self._request("GET", path, params=tuple(params))

    def post(self, path: str, body: Json) -> Json:
        """Return the JSON object in the answer to POST `base_url + path` with a JSON body. Raises ProviderError."""
        return self._request("POST", path, body=body).parse()

    def pages(
        self,
        path: str,
        params: Sequence[tuple[str, str]],
        cursor_param: str = "page",
        cursor_field: str = "next_page",
        max_pages: int = MAX_PAGES,
    ) -> Iterator[Json]:
        """Yield the pages of a list that is paged by cursor: `cursor_field` of a page is the next `cursor_param`.

        The field `has_more`, where present, decides whether there is another page. Where it is known how many items
        there can be, `max_pages` ends a list that has no end. Raises ProviderError.
        """

        def fetch_page(cursor: str) -> Json:
            return self.get(path, [*params, (cursor_param, cursor)] if cursor else params)

        return paginate(fetch_page, lambda page: next_cursor(page, cursor_field), max_pages)

    def offset_pages(
        self,
        path: str,
        params: Sequence[tuple[str, str]],
        items_field: str,
        *,
        limit: int,
        offset_param: str = "offset",
        limit_param: str = "limit",
        total_field: str = "",
    ) -> Iterator[Json]:
        """Yield the pages of a list that is paged by offset: `items_field` holds at most `limit` items of each page.

        With `total_field`, that field says how many items there are; else a page with fewer items than `limit` is
        the last. Raises ProviderError.
        """

        def fetch_page(offset: int) -> Json:
            return self.get(path, [*params, (offset_param, str(offset)), (limit_param, str(limit))])

        return paginate_by_offset(fetch_page, items_field, limit=limit, total_field=total_field)

    def close(self) -> None:
        """Close the connections, also from another thread: a running request fails as Unavailable."""
        # Set before the connection is aborted: a connection that is established meanwhile is aborted by its own thread.
        self._closed = True
        self._abort_connection()
        self._http.close()

    def _request(
        self, method: str, path: str, params: tuple[tuple[str, str], ...] = (), body: Json | None = None
    ) -> Answer:
        request_line = f"{method} {path}"
        if not _PRINTABLE_ASCII.fullmatch(self._config.key.reveal()):
            raise KeyRejected("key_rejected", "the key is empty or has invalid characters", "Copy it again.")
        try:
            request = self._http.build_request(
                method,
                self._base_url + path,
                params=params or None,
                json=body,
                headers=self._headers,
                extensions={"trace": self._on_trace_event},
            )
        except httpx.InvalidURL:
            raise Malformed(f"{request_line}: base_url is not an HTTP address") from None
        answer, text = self._exchange(request, request_line)
        if not answer.is_success:
            raise self._error_from_response(answer, text, request_line)
        description = f"{request_line} answered {answer.status_code}"
        # An upper bound, because texts contain these characters too; the largest real answers have a third of it.
        if len(text) > MAX_JSON_VALUES and sum(map(text.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:
            raise Malformed(f"{description} with more than {MAX_JSON_VALUES} JSON values")
        return Answer(text, description)

    def _exchange(self, request: httpx.Request, request_line: str) -> tuple[httpx.Response, bytes]:
        self._deadline = self._config.monotonic() + self._config.timeout
        alarm = threading.Timer(self._config.timeout, self._abort_connection)
        alarm.daemon = True
        alarm.start()
        code = "error"
        try:
            answer = self._http.send(request, stream=True)
            code = str(answer.status_code)
            with contextlib.closing(answer):
                return answer, self._read_body(answer, request_line)
        except httpx.UnsupportedProtocol:
            raise Malformed(f"{request_line}: base_url is not an HTTP address") from None
        except httpx.InvalidURL:
            # httpx builds the request of a redirect even where it is not to be followed.
            raise Malformed(f"{request_line} answered with a redirect to an invalid address") from None
        except httpx.RequestError as error:
            reason = self._describe_network_error(error, request.url.host)
            raise Unavailable(f"{request_line} failed: {reason}", reached=code != "error") from None
        finally:
            alarm.cancel()
            self._config.observe(code)

    def _read_body(self, response: httpx.Response, request_line: str) -> bytes:
        """Return the body, decompressed chunk by chunk, so that a small body never takes much memory."""
        message_prefix = f"{request_line} answered {response.status_code}"
        coding = response.headers.get("content-encoding", "").strip().lower()
        # A list of codings would multiply: 8 kB in two layers of gzip stand for gigabytes.
        if coding not in ("", "identity", "gzip", "x-gzip"):
            raise Malformed(f"{message_prefix} in a content coding that was not requested")
        decompressor = zlib.decompressobj(zlib.MAX_WBITS | _GZIP_HEADER) if coding.endswith("gzip") else None
        body = bytearray()
        for chunk in response.iter_raw():
            try:
                body += decompressor.decompress(chunk, MAX_BODY_BYTES + 1 - len(body)) if decompressor else chunk
            except zlib.error:
                raise Malformed(f"{message_prefix} with a body that cannot be decompressed") from None
            if len(body) > MAX_BODY_BYTES:
                raise Malformed(f"{request_line} answered more than {MAX_BODY_BYTES} bytes")
            if (decompressor is not None and decompressor.unused_data) or self._deadline_passed():
                break
        if self._deadline_passed():
            raise httpx.ReadTimeout("too late")
        if decompressor is not None and (not decompressor.eof or decompressor.unused_data):
            raise Malformed(f"{message_prefix} with a body that cannot be decompressed")
        return bytes(body)

    def _deadline_passed(self) -> bool:
        return self._config.monotonic() >= self._deadline

    def _on_trace_event(self, event: str, info: Mapping[str, object]) -> None:
        """Store the connection, so that a read can be aborted: httpx limits each read, not their sum."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            stream = info["return_value"]
            self._socket = stream.get_extra_info("socket")  # type: ignore[attr-defined]
        # httpx's pool forgets a connection that is established after the pool was closed: nothing else would close it.
        if self._closed or self._deadline_passed():
            self._abort_connection()

    def _abort_connection(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # Not SSLSocket.shutdown: it would remove the TLS state that the reading thread still uses.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _describe_network_error(self, error: httpx.RequestError, host: str) -> str:
        if self._deadline_passed():
            error = httpx.ReadTimeout("too late")
        for cause in _causes(error):
            for error_type, message in _NETWORK_ERROR_MESSAGES:
                if isinstance(cause, error_type):
                    timeout = self._config.timeout
                    return message.format(host=host, timeout=timeout, connect=min(timeout, CONNECT_TIMEOUT))
        # Not the error's text: it may repeat what the provider sent.
        return f"the connection to {host} broke ({type(error).__name__})"

    def _error_from_response(self, response: httpx.Response, body: bytes, request_line: str) -> ProviderError:
        status = response.status_code
        description = _describe_error_body(body)
        message = f"{request_line} answered {status}" + (f" ({description})" if description else "")
        rule = self._match_rejection_rule(status, body.decode(errors="replace").lower())
        if rule is not None:
            return KeyRejected(rule.reason, message, rule.advice)
        if status == 401:
            return KeyRejected("key_rejected", message, "Replace the key: the provider does not accept it.")
        if status == 403:
            return KeyRejected("missing_scope", message, "Use a key whose role or scope may read usage and costs.")
        if status in {404, 405, 410}:
            return Unsupported(message)
        retry_after = _parse_retry_after(response.headers.get("retry-after", ""), response.headers.get("date", ""))
        if status == 429:
            return RateLimited(message, retry_after)
        # 409 is a conflict with something that happens at the provider right now, and 425 is too early.
        if status in {408, 409, 425} or status >= 500:
            return Unavailable(message, reached=True, retry_after=retry_after)
        if response.has_redirect_location:
            return Malformed(f"{request_line}: base_url redirects to another address")
        return Malformed(message)

    def _match_rejection_rule(self, status: int, text: str) -> KeyRejectionRule | None:
        for rule in self._key_rejection_rules:
            status_matches = status == rule.status or (rule.status is None and 400 <= status <= 499)
            if status_matches and rule.substring.lower() in text:
                return rule
        return None


def paginate(
    fetch_page: Callable[[str], Page], next_cursor: Callable[[Page], str], max_pages: int = MAX_PAGES
) -> Iterator[Page]:
    """Yield page after page: `fetch_page` takes a cursor ("" at first), `next_cursor` returns the next ("" at the end).

    Raises Malformed where a cursor repeats or after more than `max_pages` pages.
    """
    cursor, seen = "", {""}
    for _ in range(max_pages):
        page = fetch_page(cursor)
        yield page
        cursor = next_cursor(page)
        if not cursor:
            return
        if cursor in seen:
            raise Malformed("the page cursor repeats, so the list would never end")
        seen.add(cursor)
    raise Malformed(f"there are more than {max_pages} pages")


def paginate_by_offset(
    fetch_page: Callable[[int], Json],
    items_field: str,
    *,
    limit: int,
    total_field: str = "",
    max_pages: int = MAX_PAGES,
) -> Iterator[Json]:
    """Yield page after page of a list: `fetch_page` takes the number of items before the page.

    The list `items_field` of a page holds its items, at most `limit`. The last page reaches the number in
    `total_field`, or without that field is the first page with fewer than `limit` items. Raises Malformed where items
    are missing, a page repeats, or after more than `max_pages` pages.
    """
    offset = 0
    previous: object = None
    for _ in range(max_pages):
        page = fetch_page(offset)
        items = page.get(items_field)
        if not isinstance(items, list):
            raise Malformed(f"the field {items_field} of a page is not a list", items_field)
        # A server that ignores the offset would otherwise be read as often as pages are allowed, each item again.
        if items and items == previous:
            raise Malformed("the page repeats, so the list would never end", items_field)
        yield page
        offset += len(items)
        previous = items
        if not total_field:
            if len(items) < limit:
                return
            continue
        total = page.get(total_field)
        if isinstance(total, bool) or not isinstance(total, int):
            raise Malformed(f"the field {total_field} of a page is not a whole number", total_field)
        if offset >= total:
            return
        if not items:
            raise Malformed(f"only {offset} of {total} items came", total_field)
    raise Malformed(f"there are more than {max_pages} pages")


def paginate_by_number(
    fetch_page: Callable[[int], Json],
    has_next: Callable[[Json], bool],
    *,
    first: int = 1,
    max_pages: int = MAX_PAGES,
) -> Iterator[Json]:
    """Yield page after page: `fetch_page` takes a page's number, counted from `first`, until `has_next` is False.

    Raises Malformed where a page repeats or after more than `max_pages` pages.
    """
    previous: Json | None = None
    for number in range(first, first + max_pages):
        page = fetch_page(number)
        if page == previous:
            raise Malformed("the page repeats, so the list would never end")
        yield page
        if not has_next(page):
            return
        previous = page
    raise Malformed(f"there are more than {max_pages} pages")


def next_cursor(page: Json, cursor_field: str) -> str:
    """Return the cursor of the next page, "" at the end; `has_more` decides where it is present, else the cursor."""
    cursor, more = page.get(cursor_field), page.get("has_more")
    if more is False or (more is None and cursor is None):
        return ""
    if not isinstance(cursor, str) or not cursor:
        raise Malformed(f"there are more pages, but the field {cursor_field} contains no cursor", cursor_field)
    return cursor


def parse_json(body: bytes, message_prefix: str) -> object:
    """Return a JSON value; numbers with a point are Decimal, and all strings are escaped. Raises Malformed."""
    try:
        found = json.loads(body, parse_float=Decimal, parse_constant=_reject_constant)
        # Most answers have plain ASCII without escapes, and nothing to look for.
        return _escape_strings(found) if _ESCAPED_OR_NOT_ASCII.search(body) else found
    except (ValueError, ArithmeticError, RecursionError):
        content = "a web page" if body.lstrip().startswith(b"<") else "incomplete or invalid JSON"
        raise Malformed(f"{message_prefix} with {content}: is base_url right?") from None


def _escape_strings(value: object) -> object:
    """Return a JSON value with every string in it, names of fields included, escaped."""
    if isinstance(value, str):
        return escape_text(value)
    if isinstance(value, list):
        return [_escape_strings(item) for item in value]
    if isinstance(value, dict):
        return {escape_text(name): _escape_strings(inner) for name, inner in value.items()}
    return value


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _describe_error_body(body: bytes) -> str:
    """Return what is known of an error's body, "" for nothing: never its text, which may repeat a key in any form."""
    if body.lstrip().startswith(b"<"):
        return "a web page"
    try:
        found = json.loads(body[: _MAX_ERROR_BYTES + 1])
    except (ValueError, RecursionError):
        return ""
    objects = [found, found.get("error")] if isinstance(found, dict) else []
    texts = [obj.get(name) for obj in objects if isinstance(obj, dict) for name in ("type", "code")]
    known = [text for text in texts if isinstance(text, str) and text in _KNOWN_ERROR_CODES]
    return ", ".join(dict.fromkeys(known))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _parse_retry_after(header: str, date_header: str) -> float | None:
    """Return the seconds of Retry-After: a number, or a time relative to the header Date of the same answer."""
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", header.strip(), re.ASCII):
        return float(header)
    try:
        # Both times are by the provider's clock: this host's may differ.
        return max(0.0, (_parse_http_date(header) - _parse_http_date(date_header)).total_seconds())
    except (ValueError, OverflowError):
        return None


def _parse_http_date(text: str) -> datetime:
    """Return the time of an HTTP header. Raises ValueError."""
    time = parsedate_to_datetime(text[:_MAX_DATE_LENGTH])
    return time if time.tzinfo else time.replace(tzinfo=UTC)


@functools.cache
def _shared_ssl_context() -> ssl.SSLContext:
    """Load the trusted certificates once for all accounts; SSL_CERT_FILE and SSL_CERT_DIR are honoured."""
    return httpx.create_ssl_context()
