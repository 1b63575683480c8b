"""The simulator's HTTP server: the three APIs on loopback in a background thread, with a request log and faults."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from types import TracebackType
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from exporter.simulator import anthropic, cursor, deepseek, openai, openrouter, xai
from exporter.simulator.accounts import SimAccount
from exporter.simulator.faults import ERROR_FAULTS, Fault, Faults, remove_list, replace_integers, shorten_lists
from exporter.simulator.http import Api, ApiError, ApiResponse, Call
from exporter.simulator.world import World

_APIS: Mapping[str, Api] = {
    "openai/v1": openai,
    "anthropic": anthropic,
    "cursor": cursor,
    "xai": xai,
    "deepseek": deepseek,
    "openrouter": openrouter,
}
_BASE_PATHS = {
    "openai": "openai/v1",
    "anthropic": "anthropic",
    "cursor": "cursor",
    "xai": "xai",
    "deepseek": "deepseek",
    "openrouter": "openrouter",
}
_HTML = "<!doctype html><html><head><title>Just a moment</title></head><body>Checking your browser.</body></html>"
MAX_LOGGED_REQUESTS = 100_000
"""The number of requests that the log keeps."""


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One answered request; `account` is empty where the key belongs to no account."""

    account: str
    method: str
    path: str
    """The full path, including the provider's base path."""
    query: Mapping[str, str]
    """Query parameters and JSON body; names without `[]`, repeated values joined by commas."""
    status: int


class Simulator:
    """A context manager that serves the providers' APIs on 127.0.0.1, at `base_url(account)`.

    Over HTTP, POST and DELETE /control/faults are `add_fault` and `clear_faults`, and GET /control/truth returns
    `World.ground_truth` as JSON.
    """

    def __init__(self, world: World, port: int = 0) -> None:
        self.world = world
        self.requests: list[LoggedRequest] = []
        self.url = ""
        self._port = port
        self._faults = Faults()
        self._keys = {(_BASE_PATHS[account.provider], account.key): account for account in world.accounts.values()}
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        listener = socket.create_server(("127.0.0.1", self._port), backlog=512)
        # asyncio sets this only on sockets with an explicit protocol; without it, answers wait 40 ms for an ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(self._app(), log_config=None, access_log=False, log_level="critical", lifespan="off")
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._server.run_on, args=(listener,), name="simulator", daemon=True)
        self._thread.start()
        self._server.ready.wait(timeout=10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join(timeout=10)

    def base_url(self, account_name: str) -> str:
        """Return the `base_url` of an account's configuration."""
        return base_url(self.url, self.world.accounts[account_name])

    def add_fault(
        self,
        account: str,
        kind: str,
        times: int | None = None,
        path: str = "",
        page: int | None = None,
        retry_after: int | None = None,
        seconds: float = 0,
    ) -> None:
        """Enable a fault, with the fields of `Fault`. Raises ValueError for an unknown account or kind."""
        if account not in self.world.accounts:
            raise ValueError(f"account {account!r} is none of {', '.join(self.world.accounts)}")
        self._faults.add(Fault(account, kind, times, path, page, retry_after, seconds))

    def clear_faults(self, account: str | None = None) -> None:
        """Disable the faults of one account, or all faults."""
        self._faults.clear(account)

    def _app(self) -> Starlette:
        methods = ["GET", "POST"]
        return Starlette(
            routes=[
                Route("/control/faults", self._post_fault, methods=["POST"]),
                Route("/control/faults", self._delete_faults, methods=["DELETE"]),
                Route("/control/truth", self._get_truth),
                *(Route(f"/{base}/{{path:path}}", self._provider_endpoint(base), methods=methods) for base in _APIS),
            ]
        )

    def _provider_endpoint(self, base: str) -> Callable[[Request], Awaitable[Response]]:
        api = _APIS[base]

        async def endpoint(request: Request) -> Response:
            call = await _parse_call(request)
            account = self._keys.get((base, api.extract_key(call)))
            name = account.name if account else ""
            answer = self._handle_call(api, account, call)
            fault = self._faults.take(name, request.url.path, answer.page) if account else None
            if fault is not None:
                await asyncio.sleep(fault.seconds)
                answer = _apply_fault(api, answer, fault)
            del self.requests[:-MAX_LOGGED_REQUESTS]
            self.requests.append(
                LoggedRequest(name, call.method, request.url.path, _flatten_params(call), answer.status)
            )
            return _build_response(answer, fault.kind if fault else "", len(self.requests))

        return endpoint

    def _handle_call(self, api: Api, account: SimAccount | None, call: Call) -> ApiResponse:
        if account is None:
            return api.error_response(api.classify_key(api.extract_key(call)))
        try:
            return api.handle(self.world, account, call)
        except ApiError as error:
            return api.error_response(error.error_kind, error.message)

    async def _post_fault(self, request: Request) -> Response:
        try:
            self.add_fault(**await request.json())
        except (TypeError, ValueError) as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse({}, 201)

    async def _delete_faults(self, request: Request) -> Response:
        self._faults.clear(request.query_params.get("account"))
        return JSONResponse({})

    async def _get_truth(self, request: Request) -> Response:
        query = request.query_params
        try:
            since, until = (datetime.fromisoformat(query[name]) for name in ("since", "until"))
            rows = list(self.world.ground_truth(query["account"], since, until))
        except (KeyError, ValueError, TypeError) as error:
            return JSONResponse({"error": f"account, since and until are required: {error}"}, 400)
        return JSONResponse([{"hour": hour.isoformat(), **row._asdict()} for hour, row in rows])


def base_url(url: str, account: SimAccount) -> str:
    """Return the `base_url` of an account's configuration for a simulator at `url`."""
    return f"{url}/{_BASE_PATHS[account.provider]}"


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    def run_on(self, listener: socket.socket) -> None:
        with closing(listener):
            self.run(sockets=[listener])


async def _parse_call(request: Request) -> Call:
    query: dict[str, tuple[str, ...]] = {}
    for name, value in request.query_params.multi_items():
        name_without_brackets = name.removesuffix("[]")
        query[name_without_brackets] = (*query.get(name_without_brackets, ()), value)
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError:
        body = {}
    path = str(request.path_params["path"])
    return Call(request.method, path, query, dict(request.headers), body if isinstance(body, dict) else {})


def _flatten_params(call: Call) -> dict[str, str]:
    body = {name: str(value) for name, value in call.body.items()}
    return body | {name: ",".join(values) for name, values in call.query.items()}


def _apply_fault(api: Api, response: ApiResponse, fault: Fault) -> ApiResponse:
    if fault.kind in ERROR_FAULTS:
        error = api.error_response(ERROR_FAULTS[fault.kind])
        headers = {} if fault.retry_after is None else {"retry-after": str(fault.retry_after)}
        return replace(error, headers=headers)
    if fault.kind == "malformed":
        return remove_list(response)
    if fault.kind == "mistyped":
        return replace_integers(response)
    if fault.kind in ("empty", "shortened"):
        return shorten_lists(response, 0.5 if fault.kind == "shortened" else 0)
    return response


def _build_response(response: ApiResponse, fault: str, number: int) -> Response:
    if fault == "html":
        return Response(_HTML, media_type="text/html")
    text = json.dumps(response.body, separators=(",", ":"), ensure_ascii=False)
    if fault == "truncated":
        text = text[: len(text) // 2]
    headers = {"request-id": f"req_{number:08d}", **response.headers}
    return Response(text, response.status, headers, "application/json")
