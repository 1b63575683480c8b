"""The file of --web.config.file -> WebConfig, or every complaint at its line."""

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
    """Each bad file is told everything that is wrong with it, in plain words, by file and line."""
    monkeypatch.chdir(INVALID_DIR)
    with pytest.raises(ConfigError) as caught:
        load(Path(f"{name}.yml"))
    assert f"{caught.value}\n" == Path(f"{name}.txt").read_text()


def test_no_error_shows_a_secret() -> None:
    """What stands where a password, a hash or a key belongs is never shown again."""
    told = "".join(path.read_text() for path in INVALID_DIR.glob("*.txt")).lower()
    for secret in ("eal-secret", "123456789", "abcdefghijkl", "might be a secret"):
        assert secret not in told


def test_no_object_shows_a_secret(tmp_path: Path, authority: CertificateAuthority) -> None:
    """Neither a key nor a hash is in what a loaded file looks like."""
    key, one = (tmp_path / "server.key").read_text(), hash_password("x")
    pems = {"cert": (tmp_path / "server.crt").read_text(), "key": key}
    shown = repr(load(write_web_config(tmp_path, tls_server_config=pems, basic_auth_users={"alice": one})))
    assert "alice" in shown
    assert key.splitlines()[1] not in shown
    assert one not in shown


def test_each_invalid_pem_has_its_own_error(tmp_path: Path, authority: CertificateAuthority) -> None:
    """A key that is encrypted, of another certificate, too weak, or not there at all is refused in its own words."""
    authority.sign("other")
    key = load_pem_private_key((tmp_path / "server.key").read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    (tmp_path / "locked.key").write_bytes(locked)
    (tmp_path / "empty.key").touch()
    for name, told in (
        ("locked", "the key is encrypted"),
        ("other", "it is not the key of the first certificate"),
        ("empty", "it is empty"),
    ):
        given = TLS | {"key_file": f"{name}.key"}
        assert load_error(tmp_path, tls_server_config=given).startswith(
            f"web.yml:3: tls_server_config.key_file: {name}.key: {told}"
        )
    authority.sign("weak", curve=ec.SECP192R1())
    weak = {"cert_file": "weak.crt", "key_file": "weak.key"}
    assert load_error(tmp_path, tls_server_config=weak).startswith(
        "web.yml:1: tls_server_config: OpenSSL refuses this ("
    )


def test_files_readable_by_everyone_are_warned_about(tmp_path: Path, authority: CertificateAuthority) -> None:
    """A key, and a web configuration with secrets, that everyone may read are warned of; certificates are not."""
    path = write_web_config(tmp_path, tls_server_config=TLS, basic_auth_users={"alice": hash_password("x")})
    assert find_warnings(load(path)) == []
    for file in (path, tmp_path / "server.key", tmp_path / "server.crt"):
        file.chmod(0o644)
    told = [one.partition(": ")[0] for one in find_warnings(load(path))]
    assert told == [str(path), str(tmp_path / "server.key")]
