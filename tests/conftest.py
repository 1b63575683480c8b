"""Options of the test run, and what every test process has in common."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.certificates import CertificateAuthority

# No test depends on the machine's speed.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

LONG_FOLDERS = ("demo", "scenarios", "faults", "prometheus", "polling", "web", "cli", "docs", "push")
"""Folders whose tests take longest, in the order in which they are run; all others follow."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `make golden` write the golden files instead of comparing them."""
    parser.addoption("--write-golden", action="store_true", help="write the golden files instead of comparing them")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the folders that take longest first.

    Each file is run by one of several processes, so a long file that starts late would keep the others waiting at the
    end.
    """
    order = {folder: position for position, folder in enumerate(LONG_FOLDERS)}
    items.sort(key=lambda item: order.get(item.path.parent.name, len(LONG_FOLDERS)))


def pytest_collection_finish() -> None:
    """Collect garbage rarely, and never look at what exists before the first test.

    The modules, tests and specifications of the whole suite are so many objects that the collector would otherwise take
    a quarter of the processor time of these processes. The commands that tests start keep Python's settings.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def _start_children_with_default_signals() -> None:
    """Let child processes receive SIGINT and SIGHUP although this one, started with nohup or `&`, ignores them.

    A child inherits a signal that is ignored, but not a signal that has a handler.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.fixture(scope="session", autouse=True)
def _trust_a_small_certificate_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let HTTP clients of this process load one certificate instead of the public ones.

    Each `httpx.get` would spend 30 ms on those, also for plain HTTP, and no test speaks to a public server.
    """
    authority = CertificateAuthority(tmp_path_factory.mktemp("trusted"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(authority.file))
        yield


@pytest.fixture(scope="session", autouse=True)
def _let_prometheus_collect_garbage_rarely() -> Iterator[None]:
    """Let promtool and the servers, which are written in Go, take some memory more and a fifth less processor time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOGC", "400")
        yield
