"""What a server asks of a version before it loads it."""

import subprocess
from pathlib import Path

import pytest

from keys import key_pair
from trireme_runtime.manifest import SIGNATURE, ManifestError, write_manifest
from trireme_runtime.versions import KEY_VARIABLE, PASSWORD_VARIABLE, key_of_environment, sign, verify_version


@pytest.fixture
def version(tmp_path: Path) -> Path:
    folder = tmp_path / "2"
    (folder / "engine").mkdir(parents=True)
    (folder / "model.py").write_text("x = 1\n")
    (folder / "engine" / "weights.bin").write_bytes(bytes(1000))
    write_manifest(folder, {"model": "m", "version": 2})
    return folder


def test_without_a_key_a_signature_is_not_asked_for(version: Path) -> None:
    assert verify_version(version)["version"] == 2


def test_an_unsigned_version_is_refused_where_a_signature_is_asked_for(version: Path) -> None:
    _, public = key_pair(version.parent, "ours")
    with pytest.raises(ManifestError, match=r"2: is not signed; signature\.json is missing"):
        verify_version(version, public)


def test_a_signed_version_passes_with_its_key_and_with_no_other(version: Path) -> None:
    private, public = key_pair(version.parent, "ours")
    _, other = key_pair(version.parent, "theirs")
    sign(version, private)
    assert verify_version(version, public)["model"] == "m"
    with pytest.raises(ManifestError, match=r"signature\.json is not one of .*theirs\.pub"):
        verify_version(version, other)


@pytest.mark.parametrize("file", ["model.py", "engine/weights.bin"])
def test_whoever_writes_a_manifest_anew_cannot_sign_it(version: Path, file: str) -> None:
    private, public = key_pair(version.parent, "ours")
    sign(version, private)
    with (version / file).open("a") as out:
        out.write("y = 2\n")
    with pytest.raises(ManifestError, match=r"sha256 is"):
        verify_version(version, public)
    write_manifest(version, {"model": "m", "version": 2})
    assert verify_version(version)
    with pytest.raises(ManifestError, match=r"signature\.json is not one of"):
        verify_version(version, public)


def test_a_signature_of_another_version_does_not_do(version: Path, tmp_path: Path) -> None:
    private, public = key_pair(version.parent, "ours")
    other = tmp_path / "3"
    other.mkdir()
    (other / "model.py").write_text("x = 3\n")
    write_manifest(other, {"model": "m", "version": 3})
    sign(other, private)
    (other / SIGNATURE).replace(version / SIGNATURE)
    with pytest.raises(ManifestError, match="is not one of"):
        verify_version(version, public)


def test_a_signature_that_is_none_is_refused(version: Path) -> None:
    _, public = key_pair(version.parent, "ours")
    (version / SIGNATURE).write_text("{}")
    with pytest.raises(ManifestError, match="is not one of"):
        verify_version(version, public)


def test_what_python_leaves_behind_does_not_matter(version: Path) -> None:
    private, public = key_pair(version.parent, "ours")
    sign(version, private)
    (version / "__pycache__").mkdir()
    (version / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"x")
    assert verify_version(version, public)


def test_what_was_generated_on_this_machine_is_not_signed(version: Path) -> None:
    private, public = key_pair(version.parent, "ours")
    sign(version, private)
    (version / "made").mkdir()
    (version / "made" / "file").write_text("x")
    write_manifest(version / "made", {})
    assert verify_version(version)
    with pytest.raises(ManifestError, match=r"signature|made on this machine"):
        verify_version(version, public)


def test_what_was_generated_is_compared_with_its_own_manifest(version: Path) -> None:
    (version / "made").mkdir()
    (version / "made" / "file").write_text("x")
    write_manifest(version / "made", {})
    (version / "made" / "file").write_text("y")
    with pytest.raises(ManifestError, match="made/file: sha256"):
        verify_version(version)


def test_a_private_key_that_is_none_is_named(version: Path) -> None:
    (version.parent / "no.pem").write_text("no key")
    with pytest.raises(ManifestError, match=r"no\.pem: cannot be used to sign"):
        sign(version, version.parent / "no.pem")


def test_the_environment_names_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert key_of_environment() is None
    monkeypatch.setenv(KEY_VARIABLE, "/keys/ours.pub")
    assert key_of_environment() == Path("/keys/ours.pub")


def test_an_encrypted_key_is_opened_with_the_password(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = key_pair(version.parent)
    encrypted = version.parent / "encrypted.pem"
    command = ["openssl", "ec", "-in", private, "-aes256", "-passout", "pass:abc", "-out", encrypted]
    subprocess.run(command, check=True, capture_output=True)
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    with pytest.raises(ManifestError, match="Password was not given"):
        sign(version, encrypted)
    monkeypatch.setenv(PASSWORD_VARIABLE, "wrong")
    with pytest.raises(ManifestError, match="cannot be used to sign"):
        sign(version, encrypted)
    monkeypatch.setenv(PASSWORD_VARIABLE, "abc")
    sign(version, encrypted)
    assert verify_version(version, public)


def test_a_key_of_another_kind_is_named(version: Path) -> None:
    key = version.parent / "rsa.pem"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    with pytest.raises(ManifestError, match=r"rsa\.pem: .*a private key of an elliptic curve is needed"):
        sign(version, key)
