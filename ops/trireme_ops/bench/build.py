"""How long the reference builds take, and how much memory quantizing and exporting a larger checkpoint takes."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ..errors import OperatorError
from ..layout import Layout
from .root import copy_repositories

#: What the reference checkpoint is built as.
_RECIPES = ("reference-fp8", "reference-nvfp4", "reference-int4-awq", "reference-int8")

#: What the larger one is quantized to.
_QUANTIZATIONS = ("fp8", "nvfp4", "int4_awq", "int8_sq")

_RECIPE = """
[source]
checkpoint = "checkpoint"

[quantize]
to = "{to}"
tasks = "reference"
blocks = 8
length = 128

[export]
formats = ["huggingface", "tensorrt_llm"]

[verify]
texts = "none"
max_kl = 0.0
min_top1 = 0.0
max_perplexity_increase = 0.0

[compile]
engine = "openvino"
"""

_BUILD_UNTIL_EXPORT = """
import sys
from pathlib import Path
from trireme_build.pipeline.build import Build, carry_out
from trireme_build.pipeline.stages import STAGES
from trireme_build.recipe import read_recipe
names = [stage.name for stage in STAGES]
carry_out(Build(read_recipe(Path(sys.argv[1])), Path(sys.argv[2])), STAGES[: names.index("export") + 1])
"""


def run(layout: Layout, seconds: float) -> int:
    """Measure; 0. Raises OperatorError if a build fails. `seconds` has no meaning here: a build takes what it takes."""
    with tempfile.TemporaryDirectory(prefix="trireme-bench-") as name:
        copied = copy_repositories(layout, Path(name) / "root", {})
        reference_s, stages = _reference(layout, copied)
        peaks, size = _peaks(layout, copied, Path(name))
    line = {
        "bench": "build",
        "reference_build_s": round(reference_s, 1),
        "stage_s": stages,
        "checkpoint_bytes": size,
        "peak_rss_over_checkpoint": max(max(stages.values()) for stages in peaks.values()),
        "peak_rss_by_stage": peaks,
        "cores": os.cpu_count(),
    }
    print(json.dumps(line))
    return 0


def _trireme_build(command: list[str], root: Path, what: str) -> None:
    env = {**os.environ, "TRIREME_ROOT": str(root)}
    done = subprocess.run(command, env=env, stdout=sys.stderr, check=False)
    if done.returncode:
        raise OperatorError(f"{what} failed with status {done.returncode}")


def _reference(layout: Layout, copied: Layout) -> tuple[float, dict[str, float]]:
    """How long the recipes of the reference take together, and their stages, in seconds."""
    recipes = [str(layout.root / "build" / "recipes" / f"{name}.toml") for name in _RECIPES]
    began = time.monotonic()
    _trireme_build([sys.executable, "-m", "trireme_ops.cli", "build", *recipes], copied.root, "the reference build")
    took = time.monotonic() - began
    stages: dict[str, float] = {}
    for name in _RECIPES:
        for line in _log(copied.root, name):
            stages[line["stage"]] = round(stages.get(line["stage"], 0.0) + line["seconds"], 1)
    return took, stages


def _log(root: Path, recipe: str) -> list[dict[str, Any]]:
    """The stages that were done."""
    text = (root / ".trireme" / "builds" / recipe / "build.log").read_text(encoding="utf-8")
    return [line for line in map(json.loads, text.splitlines()) if line["state"] == "done"]


def _peaks(layout: Layout, copied: Layout, work: Path) -> tuple[dict[str, dict[str, float]], int]:
    """The most memory that quantizing and exporting held, over the checkpoint's bytes; and those."""
    import ml_dtypes

    from trireme_build.random_checkpoint import C, write_checkpoint
    from trireme_runtime.tokenizing import load_tokenizer

    tokenizer = load_tokenizer(layout.repositories[0] / "postprocessing" / "1" / "tokenizer")
    write_checkpoint(work / "checkpoint", tokenizer, dimensions=C, dtype=ml_dtypes.bfloat16)
    size = (work / "checkpoint" / "model.safetensors").stat().st_size
    peaks = {}
    for to in _QUANTIZATIONS:
        recipe = work / f"{to}.toml"
        recipe.write_text(_RECIPE.format(to=to), encoding="utf-8")
        command = [sys.executable, "-c", _BUILD_UNTIL_EXPORT, str(recipe), str(copied.root)]
        _trireme_build(command, copied.root, f"quantizing to {to}")
        stages = _log(copied.root, to)
        peaks[to] = {
            line["stage"]: round(line["peak_rss"] / size, 2)
            for line in stages
            if line["stage"] in ("quantize", "export")
        }
        shutil.rmtree(copied.root / ".trireme" / "builds" / to)
    return peaks, size
