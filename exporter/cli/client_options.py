"""Options of the commands that send a request to a running exporter: its address, password and certificates."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from exporter.cli.flag_types import split_http_url
from exporter.errors import ExporterError

DEFAULT_URL = "http://localhost:10042"

_FILE = click.Path(path_type=Path)


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """The values of the options that `client_options` adds."""

    user: str | None
    password_file: Path | None
    ca_file: Path | None
    cert_file: Path | None
    key_file: Path | None

    def __post_init__(self) -> None:
        """Raise BadParameter for options that miss another."""
        if self.password_file is not None and self.user is None:
            raise click.BadParameter("needs --user", param_hint="--password-file")
        if self.key_file is not None and self.cert_file is None:
            raise click.BadParameter("needs --cert-file", param_hint="--key-file")

    def read_credentials(self) -> tuple[str, str] | None:
        """Return user and password, or None without --user. Raises ExporterError if the file cannot be read."""
        return None if self.user is None else (self.user, _read_password(self.user, self.password_file))

    def build_ssl_context(self) -> ssl.SSLContext:
        """Return a context that verifies the exporter's certificate, with the client certificate if there is one."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            self.load_client_cert(context)
        except ssl.SSLError as error:
            raise ExporterError(
                f"--ca-file, --cert-file or --key-file is not usable: {error.reason or error}."
            ) from error
        except OSError as error:
            # Python does not say which of the files it is.
            files = ", ".join(str(file) for file in (self.ca_file, self.cert_file, self.key_file) if file is not None)
            raise ExporterError(f"{files} cannot be read: {error.strerror}.") from error
        return context

    def load_client_cert(self, context: ssl.SSLContext) -> None:
        """Add the client certificate, if there is one, to a context. Raises OSError or SSLError."""
        if self.cert_file is not None:
            context.load_cert_chain(self.cert_file, self.key_file)


def client_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `ClientOptions` to a command, as parameters of the same names."""
    options = (
        click.option("--user", help="User of basic authentication.  [default: no authentication]"),
        click.option("--password-file", type=_FILE, help="File with the user's password.  [default: ask for it]"),
        click.option(
            "--ca-file", type=_FILE, help="Certificates to verify the exporter's with.  [default: the system's]"
        ),
        click.option("--cert-file", type=_FILE, help="Client certificate, in PEM.  [default: none]"),
        click.option("--key-file", type=_FILE, help="Key of the client certificate.  [default: in --cert-file]"),
    )
    for option in reversed(options):
        command = option(command)
    return command


def parse_exporter_url(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Return an http or https address without a slash at its end."""
    parts = split_http_url(value)
    if parts is None:
        raise click.BadParameter(f"not an address such as {DEFAULT_URL}")
    if parts.username is not None:
        raise click.BadParameter("give the password with --user and --password-file: others can read a command line")
    if parts.query or parts.fragment:
        raise click.BadParameter(f"give the address only, such as {DEFAULT_URL}")
    return value.rstrip("/")


def _read_password(user: str, file: Path | None) -> str:
    if file is None:
        return str(click.prompt(f"Password of {user}", hide_input=True, err=True))
    try:
        return file.read_text(encoding="utf-8").strip("\r\n")
    except OSError as error:
        raise ExporterError(f"--password-file {file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise ExporterError(f"--password-file {file} is not text in UTF-8.") from None
