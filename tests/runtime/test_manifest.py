from pathlib import Path

import pytest

from trireme_runtime.manifest import ManifestError, verify_manifest, write_manifest


@pytest.fixture
def version(tmp_path: Path) -> Path:
    folder = tmp_path / "1"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model.py").write_text("x = 1\n")
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    write_manifest(folder, {"model": "m"})
    return folder


def test_an_untouched_version_verifies(version: Path) -> None:
    assert verify_manifest(version)["model"] == "m"


def test_a_changed_file_is_named(version: Path) -> None:
    (version / "tokenizer" / "tokenizer.json").write_text("{ }")
    with pytest.raises(ManifestError, match=r"tokenizer\.json: sha256"):
        verify_manifest(version)


def test_a_missing_file_is_named(version: Path) -> None:
    (version / "model.py").unlink()
    with pytest.raises(ManifestError, match=r"model\.py: missing"):
        verify_manifest(version)


def test_an_added_file_is_named(version: Path) -> None:
    (version / "extra.bin").write_bytes(b"")
    with pytest.raises(ManifestError, match=r"extra\.bin: not in the manifest"):
        verify_manifest(version)


def test_what_python_leaves_does_not_count(version: Path) -> None:
    (version / "__pycache__").mkdir()
    (version / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"")
    verify_manifest(version)


def test_a_generated_folder_answers_for_itself(version: Path) -> None:
    (version / "engine").mkdir()
    (version / "engine" / "model.bin").write_bytes(b"1")
    write_manifest(version / "engine", {})
    verify_manifest(version)
    (version / "engine" / "model.bin").write_bytes(b"2")
    verify_manifest(version)
    with pytest.raises(ManifestError, match=r"model\.bin"):
        verify_manifest(version / "engine")


@pytest.mark.parametrize("text", ["", "[]", '{"files": []}'])
def test_an_unreadable_manifest_is_named(version: Path, text: str) -> None:
    (version / "manifest.json").write_text(text)
    with pytest.raises(ManifestError, match=r"manifest\.json"):
        verify_manifest(version)


def test_a_signature_stands_beside_the_manifest_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "model.py").write_text("x")
    write_manifest(tmp_path, {})
    (tmp_path / "signature.json").write_text("{}")
    assert verify_manifest(tmp_path)["files"].keys() == {"model.py"}
    (tmp_path / "engine" / "signature.json").write_text("{}")
    with pytest.raises(ManifestError, match=r"engine/signature\.json: not in the manifest"):
        verify_manifest(tmp_path)
