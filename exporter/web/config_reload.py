"""The file of --web.config.file as it is now: read again when it, a certificate or a key has changed."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from exporter.config.reload import look
from exporter.config.web_configuration import WebConfig, load
from exporter.errors import ConfigError, Problem
from exporter.logs import say
from exporter.ratelimit import Allowance
from exporter.web.auth import Passwords
from exporter.web.middleware import Terms
from exporter.web.tls import Renewed, context

logger = logging.getLogger(__name__)

PAUSE = 0.5
"""Seconds for which the files are not looked at again."""


class Entrance:
    """Holds the present terms; what is wrong with a change is logged, and then the old terms stay.

    All of it happens in the event loop, when somebody connects or asks for something.
    """

    def __init__(self, path: Path, monotonic: Callable[[], float]) -> None:
        """Read the file. Raises ConfigError with every problem."""
        self._path = path
        self._monotonic = monotonic
        looks = {path: look(path)}
        self.config = load(path)
        self._terms = self._agree(self.config)
        self._seen = self._looks(looks)
        self._next = monotonic() + PAUSE
        self._complaint = ""

    @property
    def in_order(self) -> bool:
        """Whether the files could be used when they were looked at last."""
        return not self._complaint

    @property
    def context(self) -> ssl.SSLContext | None:
        """What a server needs for TLS, as it is whenever a connection begins; None: plain HTTP is served."""
        return Renewed(self._present) if self.config.tls else None

    def terms(self) -> Terms:
        """Return the present terms; look at the files first, unless that was done just now."""
        if self._monotonic() >= self._next:
            self._next = self._monotonic() + PAUSE
            looks = self._looks()
            # What is broken is read anew in any case: a file may be missing of which only the new version tells.
            if looks != self._seen or self._complaint:
                self._read_again(looks)
        return self._terms

    def _present(self) -> ssl.SSLContext:
        present = self.terms().context
        assert present is not None  # noqa: S101 - TLS is not turned off while it runs
        return present

    def _read_again(self, looks: Mapping[Path, tuple[int, ...]]) -> None:
        try:
            config = self._load_again()
            if config != self.config:
                self._terms = self._agree(config)
        except ConfigError as error:
            if str(error) != self._complaint:
                say(logger, "error", "Web configuration not reloaded; the old one stays", problems=str(error))
            self._complaint = str(error)
        else:
            if config != self.config or self._complaint:
                say(logger, "info", "Web configuration reloaded", file=str(self._path))
            self.config, self._complaint = config, ""
        self._seen = self._looks(looks)

    def _load_again(self) -> WebConfig:
        config = load(self._path)
        if (config.tls is None) != (self.config.tls is None):
            complaint = "tls_server_config: TLS is turned on or off by a restart only; all other changes wait for it"
            raise ConfigError([Problem(config.tls.place if config.tls else str(self._path), complaint)])
        return config

    def _looks(self, known: Mapping[Path, tuple[int, ...]] = MappingProxyType({})) -> dict[Path, tuple[int, ...]]:
        """Look at every file that was read, but for those whose looks are known from before they were read."""
        return {file: known.get(file, look(file)) for file in self.config.files}

    def _agree(self, config: WebConfig) -> Terms:
        limit = config.rate_limit
        return Terms(
            headers=[(name.lower().encode(), value.encode()) for name, value in config.headers.items()],
            allowance=Allowance(1 / limit.interval, limit.burst, self._monotonic) if limit else None,
            guard=Passwords(config.users) if config.users else None,
            context=context(config.tls) if config.tls else None,
        )
