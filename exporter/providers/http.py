"""The one HTTP client: asks, waits a bounded time, and turns every failure into an error of ours. No retry."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NoReturn

import httpx

from exporter import __version__
from exporter.errors import KeyRejected, Malformed, ProviderError, RateLimited, Unavailable, Unsupported
from exporter.model import KEY_PREFIX_PATTERN, KeyRejectionRule, Secret

Json = Mapping[str, object]
"""A JSON object; numbers with a point are Decimal."""

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_PAGES = 10_000
MAX_MESSAGE_LENGTH = 200
CONNECT_TIMEOUT = 5.0
"""Seconds for a connection to be made."""

_PRINTABLE_ASCII = re.compile(r"[!-~]+")
_KEY_PATTERN = re.compile(rf"\b{KEY_PREFIX_PATTERN}[\w*.…-]+")
_NETWORK_ERROR_MESSAGES: tuple[tuple[type[BaseException], str], ...] = (
    (httpx.ProxyError, "the proxy on the way to {host} does not let it through"),
    (httpx.ConnectTimeout, "no connection to {host} within {connect:g} s"),
    (httpx.TimeoutException, "{host} gave no whole answer within {timeout:g} s"),
    (socket.gaierror, "the name {host} cannot be resolved (DNS)"),
    (ConnectionRefusedError, "{host} refuses the connection"),
    (ssl.SSLCertVerificationError, "the TLS certificate of {host} is not trusted"),
    (ssl.SSLError, "no TLS connection to {host} can be made"),
)


def _ignore(_code: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """What a provider is given to reach one account."""

    key: Secret
    base_url: str
    by_api_key: bool = False
    """Whether usage is told by API key too."""
    observe: Callable[[str], None] = _ignore
    """Called once per request with the status code as text, or `error` where no answer came."""
    timeout: float = 30.0
    """Seconds for one whole answer, however slowly it drips."""
    monotonic: Callable[[], float] = time.monotonic


class Client:
    """HTTP for one account, one request at a time. Every failure is a ProviderError that never shows the key."""

    def __init__(
        self, config: ClientConfig, headers: Mapping[str, str], key_rejection_rules: Sequence[KeyRejectionRule] = ()
    ) -> None:
        self._config = config
        self._headers = dict(headers)
        self._key_rejection_rules = tuple(key_rejection_rules)
        self._base_url = config.base_url.rstrip("/")
        self._socket: socket.socket | None = None
        self._deadline = 0.0
        self._http = httpx.Client(
            verify=_shared_ssl_context(),
            # A connection that is being made cannot be cut: a stop must not wait for it.
            timeout=httpx.Timeout(config.timeout, connect=min(config.timeout, CONNECT_TIMEOUT)),
            headers={"User-Agent": f"ai-spend-exporter/{__version__}", "Accept": "application/json"},
        )

    def get(self, path: str, params: Sequence[tuple[str, str]] = ()) -> Json:
        """Return the JSON object that GET `base_url + path` answers. Raises ProviderError."""
        return self._request("GET", path, params=tuple(params))

    def post(self, path: str, body: Json) -> Json:
        """Return the JSON object that POST `base_url + path` with a JSON body answers. Raises ProviderError."""
        return self._request("POST", path, body=body)

    def pages(
        self, path: str, params: Sequence[tuple[str, str]], cursor_param: str = "page", cursor_field: str = "next_page"
    ) -> Iterator[Json]:
        """Yield the pages of one GET walk: the cursor in the field `take` goes back as the parameter `send`."""

        def ask(cursor: str) -> Json:
            return self.get(path, [*params, (cursor_param, cursor)] if cursor else params)

        return paginate(ask, lambda page: _next_cursor(page, cursor_field))

    def close(self) -> None:
        """Close the connections, also from another thread: a request under way ends as Unavailable."""
        self._abort_connection()
        self._http.close()

    def _request(
        self, method: str, path: str, params: tuple[tuple[str, str], ...] = (), body: Json | None = None
    ) -> Json:
        asked = f"{method} {path}"
        if not _PRINTABLE_ASCII.fullmatch(self._config.key.reveal()):
            raise KeyRejected("key_rejected", "the key is empty or holds characters that no key has", "Copy it again.")
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
            raise Malformed(f"{asked}: base_url is no address that can be asked") from None
        answer, text = self._exchange(request, asked)
        if not answer.is_success:
            raise self._error_from_response(answer, text, asked)
        return _parse_json(text, f"{asked} answered {answer.status_code}")

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
            raise Malformed(f"{request_line}: base_url is no address that can be asked") from None
        except httpx.DecodingError:
            raise Malformed(f"{request_line} answered {code} with a body that cannot be decompressed") from None
        except httpx.RequestError as error:
            reason = self._describe_network_error(error, request.url.host)
            raise Unavailable(f"{request_line} failed: {reason}", reached=code != "error") from None
        finally:
            alarm.cancel()
            self._config.observe(code)

    def _read_body(self, response: httpx.Response, request_line: str) -> bytes:
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise Malformed(f"{request_line} answered more than {MAX_BODY_BYTES} bytes")
            if self._deadline_passed():
                break
        if self._deadline_passed():
            raise httpx.ReadTimeout("too late")
        return bytes(body)

    def _deadline_passed(self) -> bool:
        return self._config.monotonic() >= self._deadline

    def _on_trace_event(self, event: str, info: Mapping[str, object]) -> None:
        """Remember the connection, so that a read can be cut: httpx bounds each read, not their sum."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            stream = info["return_value"]
            self._socket = stream.get_extra_info("socket")  # type: ignore[attr-defined]
        if self._deadline_passed():
            self._abort_connection()

    def _abort_connection(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # The plain method: SSLSocket.shutdown would pull the TLS state from under the reading thread.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _describe_network_error(self, error: httpx.RequestError, host: str) -> str:
        if self._deadline_passed():
            error = httpx.ReadTimeout("too late")
        for cause in _causes(error):
            for kind, words in _NETWORK_ERROR_MESSAGES:
                if isinstance(cause, kind):
                    timeout = self._config.timeout
                    return words.format(host=host, timeout=timeout, connect=min(timeout, CONNECT_TIMEOUT))
        return f"the connection to {host} broke ({self._sanitize(str(error)) or type(error).__name__})"

    def _error_from_response(self, response: httpx.Response, body: bytes, request_line: str) -> ProviderError:
        status = response.status_code
        said = self._sanitize(_extract_message(body))
        message = f"{request_line} answered {status}: {said}" if said else f"{request_line} answered {status}"
        refusal = self._match_rejection_rule(status, body.decode(errors="replace").lower())
        if refusal is not None:
            return KeyRejected(refusal.reason, message, refusal.advice)
        if status == 401:
            return KeyRejected("key_rejected", message, "Replace the key: the provider does not accept it.")
        if status == 403:
            return KeyRejected("missing_scope", message, "Use a key whose role or scope may read usage and costs.")
        if status in {404, 405, 410}:
            return Unsupported(message)
        if status == 429:
            return RateLimited(message, _parse_retry_after(response.headers.get("retry-after", "")))
        if status == 408 or status >= 500:
            return Unavailable(message, reached=True)
        if response.has_redirect_location:
            return Malformed(f"{request_line}: base_url redirects to host {self._sanitize(_redirect_host(response))}")
        return Malformed(message)

    def _match_rejection_rule(self, status: int, text: str) -> KeyRejectionRule | None:
        for refusal in self._key_rejection_rules:
            matches = status == refusal.status or (refusal.status is None and 400 <= status <= 499)
            if matches and refusal.substring.lower() in text:
                return refusal
        return None

    def _sanitize(self, text: str) -> str:
        """Make foreign text fit for a log line: no key, no control characters, not long."""
        key = self._config.key.reveal()
        for secret in (key, base64.b64encode(f"{key}:".encode()).decode()):
            text = text.replace(secret, "<secret>")
        text = _KEY_PATTERN.sub("<secret>", text)
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return text if len(text) <= MAX_MESSAGE_LENGTH else text[: MAX_MESSAGE_LENGTH - 1] + "…"


def paginate(
    fetch_page: Callable[[str], Json], next_cursor: Callable[[Json], str], max_pages: int = MAX_PAGES
) -> Iterator[Json]:
    """Yield page after page: `ask` takes a cursor ("" at first), `following` finds the next one ("" at the end).

    Raises Malformed where a cursor comes again or more than `most` pages come.
    """
    cursor, seen = "", {""}
    for _ in range(max_pages):
        page = fetch_page(cursor)
        yield page
        cursor = next_cursor(page)
        if not cursor:
            return
        if cursor in seen:
            raise Malformed("the page cursor repeats itself, so the walk would never end")
        seen.add(cursor)
    raise Malformed(f"there are more than {max_pages} pages")


def _next_cursor(page: Json, cursor_field: str) -> str:
    """Return the cursor to the page after this one; `has_more` decides where it is told, else the cursor's presence."""
    cursor, more = page.get(cursor_field), page.get("has_more")
    if more is False or (more is None and cursor is None):
        return ""
    if not isinstance(cursor, str) or not cursor:
        raise Malformed(f"there are more pages, but the field {cursor_field} holds no cursor", cursor_field)
    return cursor


def _parse_json(body: bytes, message_prefix: str) -> Json:
    try:
        found = json.loads(body, parse_float=Decimal, parse_constant=_reject_constant)
    except (ValueError, ArithmeticError, RecursionError):
        kind = "a web page" if body.lstrip().startswith(b"<") else "something that is no whole JSON"
        raise Malformed(f"{message_prefix} with {kind}: is base_url right?") from None
    if not isinstance(found, dict):
        raise Malformed(f"{message_prefix} with JSON that is no object")
    return found


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _extract_message(body: bytes) -> str:
    """Find the provider's own words in an error body."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return "a web page" if body.lstrip().startswith(b"<") else body[:4096].decode(errors="replace")
    for path in (("error", "message"), ("message",), ("error",)):
        value = found
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, str) and value:
            return value
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _parse_retry_after(header: str) -> float | None:
    return float(header) if re.fullmatch(r"\d{1,9}(\.\d+)?", header.strip()) else None


def _redirect_host(response: httpx.Response) -> str:
    try:
        return httpx.URL(response.headers["location"]).host or response.url.host
    except httpx.InvalidURL:
        return "an unreadable address"


@functools.cache
def _shared_ssl_context() -> ssl.SSLContext:
    """Loaded once: a thousand accounts share one set of roots (SSL_CERT_FILE and SSL_CERT_DIR are honoured)."""
    return httpx.create_ssl_context()
