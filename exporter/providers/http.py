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
from exporter.model import Refusal, Secret

Json = Mapping[str, object]
"""A JSON object; numbers with a point are Decimal."""

LARGEST_BODY = 64 * 1024 * 1024
MOST_PAGES = 10_000
MESSAGE_LENGTH = 200
CONNECT = 5.0
"""Seconds for a connection to be made."""

_SENDABLE_KEY = re.compile(r"[!-~]+")
_LOOKS_LIKE_A_KEY = re.compile(r"\b(?:sk-|crsr_|key_)[\w*.…-]+")
_NETWORK_FAILURES: tuple[tuple[type[BaseException], str], ...] = (
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
class Access:
    """What a provider is given to reach one account."""

    key: Secret
    base_url: str
    api_keys: bool = False
    """Whether usage is told by API key too."""
    observe: Callable[[str], None] = _ignore
    """Called once per request with the status code as text, or `error` where no answer came."""
    timeout: float = 30.0
    """Seconds for one whole answer, however slowly it drips."""
    monotonic: Callable[[], float] = time.monotonic


class Client:
    """HTTP for one account, one request at a time. Every failure is a ProviderError that never shows the key."""

    def __init__(self, access: Access, headers: Mapping[str, str], refusals: Sequence[Refusal] = ()) -> None:
        self._access = access
        self._headers = dict(headers)
        self._refusals = tuple(refusals)
        self._base_url = access.base_url.rstrip("/")
        self._socket: socket.socket | None = None
        self._deadline = 0.0
        self._http = httpx.Client(
            verify=_trusted_roots(),
            # A connection that is being made cannot be cut: a stop must not wait for it.
            timeout=httpx.Timeout(access.timeout, connect=min(access.timeout, CONNECT)),
            headers={"User-Agent": f"ai-spend-exporter/{__version__}", "Accept": "application/json"},
        )

    def get(self, path: str, params: Sequence[tuple[str, str]] = ()) -> Json:
        """Return the JSON object that GET `base_url + path` answers. Raises ProviderError."""
        return self._ask("GET", path, params=tuple(params))

    def post(self, path: str, body: Json) -> Json:
        """Return the JSON object that POST `base_url + path` with a JSON body answers. Raises ProviderError."""
        return self._ask("POST", path, body=body)

    def pages(
        self, path: str, params: Sequence[tuple[str, str]], send: str = "page", take: str = "next_page"
    ) -> Iterator[Json]:
        """Yield the pages of one GET walk: the cursor in the field `take` goes back as the parameter `send`."""

        def ask(cursor: str) -> Json:
            return self.get(path, [*params, (send, cursor)] if cursor else params)

        return walk(ask, lambda page: _next_cursor(page, take))

    def close(self) -> None:
        """Close the connections, also from another thread: a request under way ends as Unavailable."""
        self._cut()
        self._http.close()

    def _ask(self, method: str, path: str, params: tuple[tuple[str, str], ...] = (), body: Json | None = None) -> Json:
        asked = f"{method} {path}"
        if not _SENDABLE_KEY.fullmatch(self._access.key.reveal()):
            raise KeyRejected("key_rejected", "the key is empty or holds characters that no key has", "Copy it again.")
        try:
            request = self._http.build_request(
                method,
                self._base_url + path,
                params=params or None,
                json=body,
                headers=self._headers,
                extensions={"trace": self._watch},
            )
        except httpx.InvalidURL:
            raise Malformed(f"{asked}: base_url is no address that can be asked") from None
        answer, text = self._exchange(request, asked)
        if not answer.is_success:
            raise self._refused(answer, text, asked)
        return _parsed(text, f"{asked} answered {answer.status_code}")

    def _exchange(self, request: httpx.Request, asked: str) -> tuple[httpx.Response, bytes]:
        self._deadline = self._access.monotonic() + self._access.timeout
        alarm = threading.Timer(self._access.timeout, self._cut)
        alarm.daemon = True
        alarm.start()
        code = "error"
        try:
            answer = self._http.send(request, stream=True)
            code = str(answer.status_code)
            with contextlib.closing(answer):
                return answer, self._body(answer, asked)
        except httpx.UnsupportedProtocol:
            raise Malformed(f"{asked}: base_url is no address that can be asked") from None
        except httpx.DecodingError:
            raise Malformed(f"{asked} answered {code} with a body that cannot be decompressed") from None
        except httpx.RequestError as error:
            reason = self._network_failure(error, request.url.host)
            raise Unavailable(f"{asked} failed: {reason}", reached=code != "error") from None
        finally:
            alarm.cancel()
            self._access.observe(code)

    def _body(self, answer: httpx.Response, asked: str) -> bytes:
        body = bytearray()
        for chunk in answer.iter_bytes():
            body += chunk
            if len(body) > LARGEST_BODY:
                raise Malformed(f"{asked} answered more than {LARGEST_BODY} bytes")
            if self._late():
                break
        if self._late():
            raise httpx.ReadTimeout("too late")
        return bytes(body)

    def _late(self) -> bool:
        return self._access.monotonic() >= self._deadline

    def _watch(self, event: str, info: Mapping[str, object]) -> None:
        """Remember the connection, so that a read can be cut: httpx bounds each read, not their sum."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            stream = info["return_value"]
            self._socket = stream.get_extra_info("socket")  # type: ignore[attr-defined]
        if self._late():
            self._cut()

    def _cut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # The plain method: SSLSocket.shutdown would pull the TLS state from under the reading thread.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _network_failure(self, error: httpx.RequestError, host: str) -> str:
        if self._late():
            error = httpx.ReadTimeout("too late")
        for cause in _causes(error):
            for kind, words in _NETWORK_FAILURES:
                if isinstance(cause, kind):
                    timeout = self._access.timeout
                    return words.format(host=host, timeout=timeout, connect=min(timeout, CONNECT))
        return f"the connection to {host} broke ({self._shown(str(error)) or type(error).__name__})"

    def _refused(self, answer: httpx.Response, body: bytes, asked: str) -> ProviderError:
        status = answer.status_code
        said = self._shown(_message(body))
        message = f"{asked} answered {status}: {said}" if said else f"{asked} answered {status}"
        refusal = self._known_refusal(status, body.decode(errors="replace").lower())
        if refusal is not None:
            return KeyRejected(refusal.reason, message, refusal.advice)
        if status == 401:
            return KeyRejected("key_rejected", message, "Replace the key: the provider does not accept it.")
        if status == 403:
            return KeyRejected("missing_scope", message, "Use a key whose role or scope may read usage and costs.")
        if status in {404, 405, 410}:
            return Unsupported(message)
        if status == 429:
            return RateLimited(message, _seconds(answer.headers.get("retry-after", "")))
        if status == 408 or status >= 500:
            return Unavailable(message, reached=True)
        if answer.has_redirect_location:
            return Malformed(f"{asked}: base_url redirects to host {self._shown(_redirect_host(answer))}")
        return Malformed(message)

    def _known_refusal(self, status: int, text: str) -> Refusal | None:
        for refusal in self._refusals:
            matches = status == refusal.status or (refusal.status is None and 400 <= status <= 499)
            if matches and refusal.token.lower() in text:
                return refusal
        return None

    def _shown(self, text: str) -> str:
        """Make foreign text fit for a log line: no key, no control characters, not long."""
        key = self._access.key.reveal()
        for secret in (key, base64.b64encode(f"{key}:".encode()).decode()):
            text = text.replace(secret, "<secret>")
        text = _LOOKS_LIKE_A_KEY.sub("<secret>", text)
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return text if len(text) <= MESSAGE_LENGTH else text[: MESSAGE_LENGTH - 1] + "…"


def walk(ask: Callable[[str], Json], following: Callable[[Json], str], most: int = MOST_PAGES) -> Iterator[Json]:
    """Yield page after page: `ask` takes a cursor ("" at first), `following` finds the next one ("" at the end).

    Raises Malformed where a cursor comes again or more than `most` pages come.
    """
    cursor, seen = "", {""}
    for _ in range(most):
        page = ask(cursor)
        yield page
        cursor = following(page)
        if not cursor:
            return
        if cursor in seen:
            raise Malformed("the page cursor repeats itself, so the walk would never end")
        seen.add(cursor)
    raise Malformed(f"there are more than {most} pages")


def _next_cursor(page: Json, take: str) -> str:
    """Return the cursor to the page after this one; `has_more` decides where it is told, else the cursor's presence."""
    cursor, more = page.get(take), page.get("has_more")
    if more is False or (more is None and cursor is None):
        return ""
    if not isinstance(cursor, str) or not cursor:
        raise Malformed(f"there are more pages, but the field {take} holds no cursor", take)
    return cursor


def _parsed(body: bytes, answered: str) -> Json:
    try:
        found = json.loads(body, parse_float=Decimal, parse_constant=_refuse_constant)
    except (ValueError, ArithmeticError, RecursionError):
        kind = "a web page" if body.lstrip().startswith(b"<") else "something that is no whole JSON"
        raise Malformed(f"{answered} with {kind}: is base_url right?") from None
    if not isinstance(found, dict):
        raise Malformed(f"{answered} with JSON that is no object")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _message(body: bytes) -> str:
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


def _seconds(header: str) -> float | None:
    return float(header) if re.fullmatch(r"\d{1,9}(\.\d+)?", header.strip()) else None


def _redirect_host(answer: httpx.Response) -> str:
    try:
        return httpx.URL(answer.headers["location"]).host or answer.url.host
    except httpx.InvalidURL:
        return "an unreadable address"


@functools.cache
def _trusted_roots() -> ssl.SSLContext:
    """Loaded once: a thousand accounts share one set of roots (SSL_CERT_FILE and SSL_CERT_DIR are honoured)."""
    return httpx.create_ssl_context()
