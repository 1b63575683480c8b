"""The file of --web.config.file as it is now: read again when it, a certificate or a key has changed."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from exporter.config.reload import file_signature
from exporter.config.web_configuration import WebConfig, load
from exporter.errors import ConfigError, ConfigProblem
from exporter.logs import log_event
from exporter.ratelimit import TokenBucket
from exporter.web.auth import Authenticator
from exporter.web.middleware import AccessPolicy
from exporter.web.tls import ReloadingSSLContext, build_ssl_context

logger = logging.getLogger(__name__)

CHECK_INTERVAL = 0.5
"""Seconds for which the files are not looked at again."""


class WebConfigReloader:
    """Holds the present terms; what is wrong with a change is logged, and then the old terms stay.

    All of it happens in the event loop, when somebody connects or asks for something.
    """

    def __init__(self, path: Path, monotonic: Callable[[], float]) -> None:
        """Read the file. Raises ConfigError with every problem."""
        self._path = path
        self._monotonic = monotonic
        looks = {path: file_signature(path)}
        self.config = load(path)
        self._policy = self._build_policy(self.config)
        self._signatures = self._file_signatures(looks)
        self._next_check = monotonic() + CHECK_INTERVAL
        self._error = ""

    @property
    def healthy(self) -> bool:
        """Whether the files could be used when they were looked at last."""
        return not self._error

    @property
    def ssl_context(self) -> ssl.SSLContext | None:
        """What a server needs for TLS, as it is whenever a connection begins; None: plain HTTP is served."""
        return ReloadingSSLContext(self._current_context) if self.config.tls else None

    def current_policy(self) -> AccessPolicy:
        """Return the present terms; look at the files first, unless that was done just now."""
        if self._monotonic() >= self._next_check:
            self._next_check = self._monotonic() + CHECK_INTERVAL
            looks = self._file_signatures()
            # What is broken is read anew in any case: a file may be missing of which only the new version tells.
            if looks != self._signatures or self._error:
                self._reload(looks)
        return self._policy

    def _current_context(self) -> ssl.SSLContext:
        present = self.current_policy().ssl_context
        assert present is not None  # noqa: S101 - TLS is not turned off while it runs
        return present

    def _reload(self, signatures: Mapping[Path, tuple[int, ...]]) -> None:
        try:
            config = self._load_config()
            if config != self.config:
                self._policy = self._build_policy(config)
        except ConfigError as error:
            if str(error) != self._error:
                log_event(logger, "error", "Web configuration not reloaded; the old one stays", problems=str(error))
            self._error = str(error)
        else:
            if config != self.config or self._error:
                log_event(logger, "info", "Web configuration reloaded", file=str(self._path))
            self.config, self._error = config, ""
        self._signatures = self._file_signatures(signatures)

    def _load_config(self) -> WebConfig:
        config = load(self._path)
        if (config.tls is None) != (self.config.tls is None):
            complaint = "tls_server_config: TLS is turned on or off by a restart only; all other changes wait for it"
            raise ConfigError([ConfigProblem(config.tls.location if config.tls else str(self._path), complaint)])
        return config

    def _file_signatures(
        self, known: Mapping[Path, tuple[int, ...]] = MappingProxyType({})
    ) -> dict[Path, tuple[int, ...]]:
        """Look at every file that was read, but for those whose looks are known from before they were read."""
        return {file: known.get(file, file_signature(file)) for file in self.config.files}

    def _build_policy(self, config: WebConfig) -> AccessPolicy:
        limit = config.rate_limit
        return AccessPolicy(
            headers=[(name.lower().encode(), value.encode()) for name, value in config.headers.items()],
            rate_limiter=TokenBucket(1 / limit.interval, limit.burst, self._monotonic) if limit else None,
            authenticate=Authenticator(config.users) if config.users else None,
            ssl_context=build_ssl_context(config.tls) if config.tls else None,
        )
