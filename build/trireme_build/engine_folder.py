"""The engine folder of a version that is generated from a checkpoint instead of committed.

A version's manifest names its source, {"source": {"checkpoint": PATH, "files": {NAME: SHA256}}}, PATH relative to the
repository's root or absolute, and, where they are not f32, how its weights are stored, {"weights": "int8"}. The folder
`engine/` inside the version is made from it once, with a manifest of its own.
"""

import fcntl
import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trireme_runtime.engines.openvino import GRAMMAR_CHECKER
from trireme_runtime.manifest import ManifestError, read_manifest, sha256_of, write_manifest

from .checkpoint import DecoderShape, read_config, weight_files
from .errors import CheckpointError

#: Copied beside the model: its dimensions, and its special ids.
_COPIED = ("config.json", "generation_config.json")

#: What an engine folder runs on, and what it is made with.
CPU_TARGET = "any x86-64 CPU"
OPENVINO_TOOLS = ("openvino", "openvino-genai", "openvino-tokenizers")

#: Raised when the files of an engine folder change, so that older ones are made again.
LAYOUT = 4

#: What a version's source records of a checkpoint besides its weights, as far as it has them.
SOURCE_FILES = (
    "config.json",
    "generation_config.json",
    "hf_quant_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


def source_of(checkpoint: Path, root: Path) -> dict[str, Any]:
    """The "source" of a manifest: where the checkpoint is, relative to `root` if it lies in there, and its files."""
    inside = checkpoint.is_relative_to(root)
    names = sorted({*SOURCE_FILES, *(path.name for path in weight_files(checkpoint))})
    return {
        "checkpoint": (checkpoint.relative_to(root) if inside else checkpoint).as_posix(),
        "files": {name: sha256_of(path) for name in names if (path := checkpoint / name).is_file()},
    }


def _check_source(checkpoint: Path, files: dict[str, str]) -> None:
    for name, expected in files.items():
        path = checkpoint / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; the version was made from it")
        if sha256_of(path) != expected:
            raise CheckpointError(f"{path}: is not the file that the version was made from (sha256 {expected})")


def is_current(version_folder: Path) -> bool:
    """Whether the engine folder is there and was made from the version's source."""
    try:
        engine = read_manifest(version_folder / "engine")
    except ManifestError:
        return False
    version_manifest = read_manifest(version_folder)
    return bool(
        engine.get("source") == version_manifest.get("source")
        and engine.get("weights", "f32") == version_manifest.get("weights", "f32")
        and engine.get("layout") == LAYOUT
    )


def ensure_engine(version_folder: Path, root: Path) -> bool:
    """Make `engine/` in a version folder if it is missing or made from another source; True if it was made.

    Staged beside it and renamed, so that a crash leaves the old one or the new one. Raises CheckpointError if the
    source is not what the manifest says, ManifestError if the version has no manifest.
    """
    manifest = read_manifest(version_folder)
    source = manifest.get("source")
    if source is None or is_current(version_folder):
        return False
    # Outside the model folder, where Triton would take it for a version, but on the same file system.
    staging_root = root / ".trireme"
    staging_root.mkdir(exist_ok=True)
    with (staging_root / "engine.lock").open("w") as lock:
        # Servers that start side by side: one makes the engine, the others wait and find it made.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_current(version_folder):
            return False
        for abandoned in staging_root.glob("engine-*"):
            # Of a maker that was killed: nobody else holds the lock.
            shutil.rmtree(abandoned)
        _make_engine(version_folder, root / source["checkpoint"], source, manifest.get("weights", "f32"), staging_root)
    return True


def write_engine(checkpoint: Path, engine: Path, weights: str) -> str:
    """Write what OpenVINO GenAI loads into the empty folder `engine`; how its weights are stored.

    weights: a WeightFormat's value. A checkpoint that is quantized keeps its codes, and its own name for them.
    """
    # Imported here: a version whose engine exists is served without the time that this takes.
    from .matrices import WeightFormat
    from .openvino_decoder import convert_checkpoint, write_hollow_model
    from .openvino_tokenizer import write_vocabulary

    quantization = convert_checkpoint(checkpoint, engine, WeightFormat(weights))
    config = read_config(checkpoint)
    checker = engine / GRAMMAR_CHECKER
    checker.mkdir()
    write_hollow_model(checkpoint, checker)
    write_vocabulary(checkpoint, int(config["vocab_size"]), engine)
    for path in engine.glob("openvino_*tokenizer.*"):
        shutil.copyfile(path, checker / path.name)
    for folder in (engine, checker):
        for name in _COPIED:
            if (checkpoint / name).is_file():
                shutil.copyfile(checkpoint / name, folder / name)
    context = DecoderShape.from_config(config).max_positions
    if context != config["max_position_embeddings"]:
        # That of a sliding window: the engine goes by config.json.
        text = json.dumps({**config, "max_position_embeddings": context}, indent=2)
        (engine / "config.json").write_text(text + "\n", encoding="utf-8")
    return weights if quantization == "f32" else quantization


def _make_engine(
    version_folder: Path, checkpoint: Path, source: dict[str, Any], weights: str, staging_root: Path
) -> None:
    _check_source(checkpoint, source["files"])
    engine = version_folder / "engine"
    with tempfile.TemporaryDirectory(dir=staging_root, prefix="engine-") as staging_name:
        staging = Path(staging_name) / "engine"
        staging.mkdir()
        origin = {
            "source": source,
            "layout": LAYOUT,
            "engine": "openvino",
            "weights": weights,
            "quantization": write_engine(checkpoint, staging, weights),
            "target": CPU_TARGET,
            "tools": {name: version(name) for name in OPENVINO_TOOLS},
        }
        write_manifest(staging, origin)
        if engine.exists():
            engine.rename(Path(staging_name) / "old")
        staging.rename(engine)
