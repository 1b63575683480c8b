"""The web configuration, reloaded when its file, a certificate or a key has changed."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path

from exporter.config.reload import file_signature
from exporter.config.web_configuration import WebConfig, load
from exporter.errors import ConfigError, ConfigProblem
from exporter.logs import log_event
from exporter.ratelimit import TokenBucket
from exporter.web.auth import Authenticator
from exporter.web.middleware import AccessPolicy
from exporter.web.tls import build_ssl_context

logger = logging.getLogger(__name__)

CHECK_INTERVAL = 0.5
"""Minimum seconds between two checks of the files."""


FileSignatures = Mapping[Path, tuple[int, ...]]


class WebConfigReloader:
    """Holds the current access policy. A change that is invalid is logged, and the previous policy stays in force.

    Used by the event loop only: files are checked when a connection or a request arrives.
    """

    def __init__(self, path: Path, monotonic: Callable[[], float]) -> None:
        """Load the file. Raises ConfigError with every problem."""
        self._path = path
        self._monotonic = monotonic
        # The signature is taken before the file is read: a change in between is then noticed at the next check.
        signature = file_signature(path)
        self.config = load(path)
        self._policy = self._build_policy(self.config)
        self._signatures = self._file_signatures({path: signature})
        self._next_check = monotonic() + CHECK_INTERVAL
        self._error = ""

    @property
    def healthy(self) -> bool:
        """Whether the files were valid at their last check."""
        return not self._error

    def current_policy(self) -> AccessPolicy:
        """Return the current policy; check the files first, at most once per CHECK_INTERVAL."""
        if self._monotonic() >= self._next_check:
            self._next_check = self._monotonic() + CHECK_INTERVAL
            signatures = self._file_signatures()
            # After an error it is always read again: the cause may be a file that only the invalid version names.
            if signatures != self._signatures or self._error:
                self._reload(signatures)
        return self._policy

    def current_ssl_context(self) -> ssl.SSLContext:
        """Return the context for a new connection; only for configurations with TLS."""
        context = self.current_policy().ssl_context
        assert context is not None  # noqa: S101 - _load_config rejects a reload that would turn TLS off
        return context

    def _reload(self, signatures: FileSignatures) -> None:
        try:
            config = self._load_config()
            if config != self.config:
                self._policy = self._build_policy(config)
        except ConfigError as error:
            if str(error) != self._error:
                message = "Reloading the web configuration failed; keeping the previous one"
                log_event(logger, "error", message, problems=str(error))
            self._error = str(error)
        else:
            if config != self.config or self._error:
                log_event(logger, "info", "Web configuration reloaded", file=str(self._path))
            self.config, self._error = config, ""
        self._signatures = self._file_signatures(signatures)

    def _load_config(self) -> WebConfig:
        config = load(self._path)
        if (config.tls is None) != (self.config.tls is None):
            location = config.tls.location if config.tls else str(self._path)
            message = "tls_server_config: TLS is turned on or off by a restart only; all other changes wait for it"
            raise ConfigError([ConfigProblem(location, message)])
        return config

    def _file_signatures(self, known: FileSignatures | None = None) -> FileSignatures:
        """Return the signatures of all files that were read; `known` ones were taken before their files were read."""
        known = known or {}
        return {file: known.get(file, file_signature(file)) for file in self.config.files}

    def _build_policy(self, config: WebConfig) -> AccessPolicy:
        limit = config.rate_limit
        return AccessPolicy(
            headers=[(name.lower().encode(), value.encode()) for name, value in config.headers.items()],
            rate_limiter=TokenBucket(1 / limit.interval, limit.burst, self._monotonic) if limit else None,
            authenticate=Authenticator(config.users) if config.users else None,
            ssl_context=build_ssl_context(config.tls) if config.tls else None,
        )
