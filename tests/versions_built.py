"""Small versions of an engine model, as publishing leaves them."""

import shutil
from pathlib import Path
from typing import Any

from trireme_build.matrices import WeightFormat
from trireme_build.openvino_decoder import convert_checkpoint
from trireme_runtime.manifest import write_manifest


def publish(checkout: Path, checkpoint: Path, number: int, stored: str = "f32", **more: Any) -> Path:
    """A version of `tensorrt_llm` in `checkout`, its weights stored so; more: keys of its manifest."""
    folder = checkout / "model_repository" / "tensorrt_llm" / str(number)
    engine, tokenizer = folder / "engine", folder / "tokenizer"
    engine.mkdir(parents=True)
    tokenizer.mkdir()
    convert_checkpoint(checkpoint, engine, WeightFormat(stored))
    for path in checkpoint.glob("*.json"):
        shutil.copy(path, tokenizer if path.name.startswith(("tokenizer", "special")) else engine)
    (folder / "model.py").write_text("# of a test\n")
    origin = {
        "model": "tensorrt_llm",
        "version": number,
        "recipe": f"reference-{stored}",
        "quantization": stored,
        "made_from": {"checkpoint": str(checkpoint), "files": {}},
        "target": "any x86-64 CPU",
        "tools": {"openvino": "2026.4.0"},
    }
    write_manifest(folder, {**origin, **more})
    return folder
