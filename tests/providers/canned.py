"""A provider against a loopback HTTP server with canned answers that the simulator never gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from exporter.model import Secret
from exporter.providers import PROVIDERS, create_provider
from exporter.providers.base import ClientConfig, Provider
from exporter.providers.testing import CannedServer, ReceivedRequest, Reply, start_canned_server

__all__ = ["CannedServer", "ReceivedRequest", "Reply", "open_provider", "start_canned_server"]


@contextmanager
def open_provider(
    name: str, respond: Callable[[ReceivedRequest], Reply], *, key: str = "a-key", api_keys: bool = False
) -> Iterator[tuple[Provider, CannedServer]]:
    """Open the built-in provider of that name against such a server."""
    with start_canned_server(respond) as server:
        client_config = ClientConfig(Secret(key), server.url, api_keys)
        with closing(create_provider(PROVIDERS[name], client_config)) as provider:
            yield provider, server
