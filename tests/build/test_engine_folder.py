import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT
from tokenizers_built import metaspace_bpe, unigram
from trireme_build.engine_folder import ensure_engine, is_current, source_of
from trireme_build.errors import CheckpointError
from trireme_build.random_checkpoint import write_checkpoint
from trireme_runtime.engines.base import EngineSettings
from trireme_runtime.engines.openvino import OpenVinoEngine
from trireme_runtime.manifest import read_manifest, verify_manifest, write_manifest

CHECKPOINTS = "build/checkpoints/trireme-reference"


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """Version 1 of the engine in a copy of the repository, its engine not made yet."""
    shutil.copytree(ROOT / CHECKPOINTS, tmp_path / CHECKPOINTS)
    folder = tmp_path / "model_repository" / "tensorrt_llm" / "1"
    shutil.copytree(
        ROOT / "model_repository" / "tensorrt_llm" / "1", folder, ignore=shutil.ignore_patterns("engine", "__pycache__")
    )
    return folder


def test_the_engine_is_made_once_and_verifies(version: Path) -> None:
    root = version.parents[2]
    assert not is_current(version)
    assert ensure_engine(version, root)
    assert is_current(version)
    assert not ensure_engine(version, root)
    manifest = verify_manifest(version / "engine")
    assert {"openvino_model.xml", "openvino_model.bin", "config.json"} <= manifest["files"].keys()
    verify_manifest(version)
    assert [path.name for path in (root / ".trireme").iterdir()] == ["engine.lock"]


def test_it_comes_out_the_same_every_time(version: Path) -> None:
    root = version.parents[2]
    ensure_engine(version, root)
    first = read_manifest(version / "engine")["files"]
    shutil.rmtree(version / "engine")
    ensure_engine(version, root)
    assert read_manifest(version / "engine")["files"] == first


def test_of_several_that_start_at_once_one_makes_it(version: Path) -> None:
    root = version.parents[2]
    code = "import sys, pathlib; from trireme_build.engine_folder import ensure_engine as e; p = pathlib.Path\n"
    code += "print(e(p(sys.argv[1]), p(sys.argv[2])))"
    command = [sys.executable, "-c", code, str(version), str(root)]
    makers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert sorted(maker.communicate(timeout=60)[0].strip() for maker in makers) == ["False", "False", "True"]
    verify_manifest(version / "engine")


def test_an_engine_of_another_source_is_replaced(version: Path) -> None:
    root = version.parents[2]
    ensure_engine(version, root)
    manifest = version / "engine" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("trireme-reference", "another"))
    assert not is_current(version)
    assert ensure_engine(version, root)
    assert is_current(version)


def test_a_changed_checkpoint_is_refused(version: Path) -> None:
    root = version.parents[2]
    config = root / CHECKPOINTS / "config.json"
    config.write_text(config.read_text().replace("10000.0", "20000.0"))
    with pytest.raises(CheckpointError, match=r"config\.json: is not the file"):
        ensure_engine(version, root)
    assert not (version / "engine").exists()


def test_a_missing_checkpoint_is_named(version: Path) -> None:
    root = version.parents[2]
    shutil.rmtree(root / CHECKPOINTS)
    with pytest.raises(CheckpointError, match="missing"):
        ensure_engine(version, root)


def test_a_vocabulary_that_cannot_spell_everything_has_no_guided_decoding(version: Path) -> None:
    """Everything else works: the engine's folder says what it can honour."""
    root = version.parents[2]
    for name, tokenizer in (("whole", metaspace_bpe()), ("gaps", unigram())):
        checkpoint = root / name
        write_checkpoint(checkpoint, tokenizer)
        write_manifest(version, {"source": source_of(checkpoint, root)})
        assert ensure_engine(version, root)
        engine = OpenVinoEngine(version / "engine", EngineSettings(kv_cache_tokens=1024))
        assert ("bad_strings" in engine.honours) == (name == "whole")
        engine.close()
