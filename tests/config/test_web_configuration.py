"""Loading the web configuration, and the error messages of invalid files."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from exporter.config.web_configuration import find_warnings, load
from exporter.errors import ConfigError
from exporter.web import WebConfigReloader
from tests.certificates import CertificateAuthority
from tests.web_server import TLS, hash_password, write_web_config

INVALID_DIR = Path(__file__).parent / "bad_web"


@pytest.fixture(name="authority")
def _authority(tmp_path: Path) -> CertificateAuthority:
    authority = CertificateAuthority(tmp_path)
    authority.sign("server")
    return authority


def load_error(folder: Path, **sections: object) -> str:
    with pytest.raises(ConfigError) as caught:
        WebConfigReloader(write_web_config(folder, **sections), time.monotonic)
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize("name", sorted(path.stem for path in INVALID_DIR.glob("*.yml")))
def test_bad_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every problem of an invalid file is reported with its file and line."""
    monkeypatch.chdir(INVALID_DIR)
    with pytest.raises(ConfigError) as caught:
        load(Path(f"{name}.yml"))
    assert f"{caught.value}\n" == Path(f"{name}.txt").read_text()


def test_no_error_shows_a_secret() -> None:
    """No message contains a value from a place for a password, a hash or a key."""
    messages = "".join(path.read_text() for path in INVALID_DIR.glob("*.txt")).lower()
    for secret in ("eal-secret", "123456789", "abcdefghijkl", "might be a secret"):
        assert secret not in messages


def test_no_object_shows_a_secret(tmp_path: Path, authority: CertificateAuthority) -> None:
    """The text of a loaded web configuration contains no key and no hash."""
    key, password_hash = (tmp_path / "server.key").read_text(), hash_password("x")
    pems = {"cert": (tmp_path / "server.crt").read_text(), "key": key}
    shown = repr(load(write_web_config(tmp_path, tls_server_config=pems, basic_auth_users={"alice": password_hash})))
    assert "alice" in shown
    assert key.splitlines()[1] not in shown
    assert password_hash not in shown


def test_each_invalid_pem_has_its_own_error(tmp_path: Path, authority: CertificateAuthority) -> None:
    """An encrypted, mismatched, weak or empty key is rejected with a message of its own."""
    authority.sign("other")
    key = load_pem_private_key((tmp_path / "server.key").read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    (tmp_path / "locked.key").write_bytes(locked)
    (tmp_path / "empty.key").touch()
    for name, message in (
        ("locked", "the key is encrypted"),
        ("other", "it is not the key of the first certificate"),
        ("empty", "it is empty"),
    ):
        given = TLS | {"key_file": f"{name}.key"}
        assert load_error(tmp_path, tls_server_config=given).startswith(
            f"web.yml:3: tls_server_config.key_file: {name}.key: {message}"
        )
    authority.sign("weak", curve=ec.SECP192R1())
    weak = {"cert_file": "weak.crt", "key_file": "weak.key"}
    assert load_error(tmp_path, tls_server_config=weak).startswith(
        "web.yml:1: tls_server_config: OpenSSL refuses this ("
    )


def test_files_readable_by_everyone_are_warned_about(tmp_path: Path, authority: CertificateAuthority) -> None:
    """There are warnings about keys and hashes that are readable by everyone, not about certificates."""
    path = write_web_config(tmp_path, tls_server_config=TLS, basic_auth_users={"alice": hash_password("x")})
    assert find_warnings(load(path)) == []
    for file in (path, tmp_path / "server.key", tmp_path / "server.crt"):
        file.chmod(0o644)
    files = [warning.partition(": ")[0] for warning in find_warnings(load(path))]
    assert files == [str(path), str(tmp_path / "server.key")]
