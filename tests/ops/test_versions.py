"""`trireme versions`, `verify` and `sign`: what is published, and whether it is what it should be."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from engine_folders import write_engine_folder
from keys import key_pair
from support import ROOT, TRIREME
from trireme_build.publish import make_writable
from trireme_ops.bench.root import copy_repositories
from trireme_ops.layout import Layout
from trireme_runtime.manifest import write_manifest
from trireme_runtime.versions import KEY_VARIABLE

ACCURACY = {"tokens": 100, "kl": 0.0123, "top1": 0.987, "perplexity": 1.1, "source_perplexity": 1.0}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A copy of the repositories with a version 2 of the engine."""
    copied = copy_repositories(Layout(ROOT), tmp_path / "root", {})
    version = copied.root / "model_repository" / "tensorrt_llm" / "2"
    (version / "engine").mkdir(parents=True)
    (version / "engine" / "weights.bin").write_bytes(bytes(2_000_000))
    origin = {"model": "tensorrt_llm", "version": 2, "recipe": "mine", "engine": "openvino", "quantization": "fp8"}
    write_manifest(version, {**origin, "accuracy": {**ACCURACY, "exact_match": {"all": 0.96}}})
    return copied


def trireme(layout: Layout, *arguments: str | Path, **env: str) -> "subprocess.CompletedProcess[str]":
    command = [str(TRIREME), *map(str, arguments)]
    environment = {**os.environ, "TRIREME_ROOT": str(layout.root), **env}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def listed(layout: Layout, *arguments: str, **env: str) -> list[dict[str, Any]]:
    done = trireme(layout, "versions", "--json", *arguments, **env)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_versions_lists_size_quantization_accuracy_and_signature(layout: Layout) -> None:
    done = trireme(layout, "versions", "tensorrt_llm")
    assert done.returncode == 0
    first, second = (line for line in done.stdout.splitlines() if line.startswith("tensorrt_llm/"))
    assert first.split()[:6] == ["tensorrt_llm/1", *first.split()[1:3], "openvino", "f32", "-"]
    assert second.split() == [
        *("tensorrt_llm/2*", "2.0", "MB", "openvino", "fp8", "96.0", "%", "0.012", "98.7", "%", "none", "mine")
    ]


def test_versions_as_json(layout: Layout) -> None:
    found = {(version["model"], version["version"]): version for version in listed(layout)}
    assert {model for model, _ in found} == {"ensemble_unary", "postprocessing", "preprocessing", "tensorrt_llm"}
    assert not found["tensorrt_llm", 1]["newest"]
    second = found["tensorrt_llm", 2]
    assert second["newest"]
    assert second["path"] == "model_repository/tensorrt_llm/2"
    assert second["accuracy"]["kl"] == 0.0123
    assert second["signature"] == "none"


def test_versions_tells_what_is_wrong_where_it_looks(layout: Layout) -> None:
    (layout.root / "model_repository" / "tensorrt_llm" / "2" / "engine" / "weights.bin").write_bytes(b"x")
    assert trireme(layout, "versions").returncode == 0
    done = trireme(layout, "versions", "--check")
    assert done.returncode == 1
    assert "tensorrt_llm/2/engine/weights.bin: sha256 is" in done.stdout


def test_versions_of_a_model_that_is_not_there(layout: Layout) -> None:
    done = trireme(layout, "versions", "other")
    assert done.returncode == 1
    assert "there is no model 'other'; there are ensemble_unary, postprocessing" in done.stderr


def test_sign_and_verify(layout: Layout, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path)
    version = layout.root / "model_repository" / "tensorrt_llm" / "2"
    version.chmod(0o555)
    assert "2: not signed" in trireme(layout, "verify", version).stdout
    signed = trireme(layout, "sign", "--key", private, version)
    assert signed.returncode == 0, signed.stderr
    assert version.stat().st_mode & 0o777 == 0o555
    assert "signed; name the public key" in trireme(layout, "verify", version).stdout
    done = trireme(layout, "verify", version, "--key", public)
    assert done.returncode == 0
    assert f"2: signed for {public}" in done.stdout
    assert [v["signature"] for v in listed(layout, "tensorrt_llm")] == ["none", "unchecked"]
    assert [v["signature"] for v in listed(layout, "tensorrt_llm", **{KEY_VARIABLE: str(public)})] == ["none", "valid"]
    _, other = key_pair(tmp_path, "other")
    assert [v["signature"] for v in listed(layout, "tensorrt_llm", **{KEY_VARIABLE: str(other)})] == ["none", "invalid"]
    make_writable(version)
    (version / "engine" / "weights.bin").write_bytes(b"x")
    for arguments in (("verify", version), ("sign", "--key", private, version)):
        done = trireme(layout, *arguments)
        assert done.returncode == 1
        assert "weights.bin: sha256 is" in done.stderr


def test_verify_looks_into_engine_folders(layout: Layout, tmp_path: Path) -> None:
    engine = write_engine_folder(tmp_path / "engine")
    done = trireme(layout, "verify", engine)
    assert done.returncode == 0, done.stderr
    assert "an engine of TensorRT-LLM 1.2.1" in done.stdout
    (engine / "rank0.engine").unlink()
    done = trireme(layout, "verify", engine)
    assert done.returncode == 1
    assert "rank0.engine" in done.stderr


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_verify_names_what_it_cannot_check(layout: Layout, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "folder"
    if what == "empty":
        folder.mkdir()
    done = trireme(layout, "verify", folder)
    assert done.returncode == 1
    assert f"{folder}: " in done.stderr


def test_a_version_inside_a_family_can_be_removed_with_it(layout: Layout) -> None:
    """Read-only versions too."""
    from trireme_ops.family import FamilySpec, add_family, remove_family

    add_family(layout, FamilySpec("tiny", ROOT / "build" / "checkpoints" / "trireme-reference"))
    model = layout.root / "model_repository" / "tiny_tensorrt_llm"
    shutil.copytree(model / "1", model / "2")
    for path in [model / "2", *(model / "2").rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    remove_family(layout, "tiny")
    assert not model.exists()
