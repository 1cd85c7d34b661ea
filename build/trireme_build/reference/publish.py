"""Publish the reference checkpoint as version 1 of the models: tokenizer folders and manifests.

    python -m trireme_build.reference.publish

The engine folder itself is generated at the first `trireme serve`.
"""

import shutil
from pathlib import Path

from trireme_runtime.manifest import write_manifest

from ..checkpoint import DecoderShape, read_config
from ..engine_folder import source_of
from ..tokenizer_folder import copy_tokenizer

ROOT = Path(__file__).resolve().parents[3]
CHECKPOINT = ROOT / "build" / "checkpoints" / "trireme-reference"
MODELS = ("preprocessing", "tensorrt_llm", "postprocessing")


def publish(checkpoint: Path, root: Path) -> None:
    """Write the tokenizer and the manifest of version 1 of each model below `root`/model_repository."""
    context = DecoderShape.from_config(read_config(checkpoint)).max_positions
    write_manifest(
        root / "model_repository" / "ensemble_unary" / "1",
        {"model": "ensemble_unary", "version": 1, "recipe": "trireme_build.reference"},
    )
    for model in MODELS:
        version_folder = root / "model_repository" / model / "1"
        shutil.rmtree(version_folder / "tokenizer", ignore_errors=True)
        copy_tokenizer(checkpoint, version_folder / "tokenizer", context)
        shutil.rmtree(version_folder / "engine", ignore_errors=True)
        origin = {
            "model": model,
            "version": 1,
            "recipe": "trireme_build.reference",
            "source": source_of(checkpoint, root),
        }
        if model != "tensorrt_llm":
            # Only the engine's version is generated from the checkpoint; the others hold all they need.
            origin["made_from"] = origin.pop("source")
        write_manifest(version_folder, origin)


if __name__ == "__main__":
    publish(CHECKPOINT, ROOT)
