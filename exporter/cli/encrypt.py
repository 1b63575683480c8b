"""`encrypt`: keys for the YAML, encrypted."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import click

from exporter.cli.command import config_option, exit_on_error, main
from exporter.config import configuration
from exporter.config.encryption import MAX_KEY_BYTES, MasterKeys, generate_master_key, read_master_keys
from exporter.config.keys import parse_key
from exporter.errors import ConfigError, ConfigProblem, ExporterError
from exporter.model import Secret
from exporter.providers import load_providers


@main.command()
@click.option("--new-master-key", "new", is_flag=True, help="Print a new master key instead.")
@click.option("--rotate", is_flag=True, help="Encrypt every key of the configuration again, with the first master key.")
@config_option
def encrypt(*, new: bool, rotate: bool, path: Path) -> None:
    """Read a key from a prompt or from stdin, and print the line for the YAML with the encrypted key.

    The master keys are in the file that AI_SPEND_MASTER_KEY_FILE names, one per line, or in AI_SPEND_MASTER_KEY. The
    first encrypts, each of them decrypts. To rotate them, put a new master key first, run encrypt --rotate, reload
    the exporter, and remove the old master key.
    """
    if new and rotate:
        raise click.UsageError("--new-master-key and --rotate cannot be combined; run one after the other")
    if new:
        click.echo(generate_master_key())
        return
    with exit_on_error():
        keys = read_master_keys(os.environ)
        if rotate:
            _rotate(path, keys)
        else:
            click.echo(f"api_key_encrypted: {keys.encrypt(_read_key())}")


def _read_key() -> Secret:
    text = click.prompt("Key", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.read(MAX_KEY_BYTES + 1)
    try:
        return parse_key(text)
    except ValueError as error:
        raise ExporterError(f"This is not a key: {error}.") from None


def _rotate(path: Path, keys: MasterKeys) -> None:
    """Replace every encrypted key in the configuration's files, or none where one of them cannot be decrypted."""
    config = configuration.load(path, load_providers())
    texts = {file: file.read_bytes() for file in config.files}
    counts: Counter[Path] = Counter()
    problems: list[ConfigProblem] = []
    for account in config.accounts:
        token = account.api_key.encrypted
        if token is None or keys.uses_newest_key(token):
            continue
        try:
            new = keys.rotate(token).encode()
        except ValueError as error:
            problems.append(ConfigProblem(account.api_key.location, f"api_key_encrypted: {error}"))
            continue
        # The text is replaced, not the YAML written, so that comments and layout stay.
        for file in config.files:
            counts[file] += texts[file].count(token.encode())
            texts[file] = texts[file].replace(token.encode(), new)
    if problems:
        raise ConfigError(problems)
    for file, count in counts.items():
        if count:
            _replace_file(file, texts[file])
            click.echo(f"{file}: {count} encrypted again")
    click.echo("Every key is encrypted with the first master key; the other master keys are not needed any more.")


def _replace_file(file: Path, text: bytes) -> None:
    """Replace a file's text atomically, keeping its mode and, where permitted, its owner."""
    target = file.resolve()
    draft = target.with_name(f"{target.name}.part")
    try:
        shutil.copy2(target, draft)
        with suppress(PermissionError):
            shutil.chown(draft, target.stat().st_uid, target.stat().st_gid)
        draft.write_bytes(text)
        draft.replace(target)
    except OSError as error:
        raise ExporterError(f"{file} cannot be written: {error.strerror}.") from error
    finally:
        draft.unlink(missing_ok=True)
