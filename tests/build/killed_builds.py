"""Kills builds while they run, and looks at what they leave. A process of its own, since it forks.

    python killed_builds.py ROOT RECIPE

Imports everything once, forks a build, ends it with SIGKILL soon after a stage has begun, and does so for each stage
and several moments. Then one build runs to its end. Prints JSON: for each kill the stage, and the versions there were.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from trireme_build.pipeline.build import Build, carry_out
from trireme_build.pipeline.stages import STAGES
from trireme_build.recipe import read_recipe
from trireme_runtime.manifest import ManifestError, verify_manifest


def import_all() -> None:
    """What stages import, so that a fork has it at once."""
    import modelopt.torch.export
    import modelopt.torch.quantization
    import openvino
    import openvino_genai
    import torch
    import transformers

    assert modelopt, openvino
    assert openvino_genai, transformers
    torch.set_num_threads(1)


def start(root: Path, recipe: Path) -> int:
    """A build in a process of its own; its id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            carry_out(Build(read_recipe(recipe), root), STAGES, lambda line: None)
            status = 0
        finally:
            os._exit(status)
    return child


def log_of(root: Path, recipe: Path) -> list[dict[str, str]]:
    path = root / ".trireme" / "builds" / recipe.stem / "build.log"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def versions(root: Path) -> Iterator[str]:
    """The published versions: their numbers, or what is wrong with one."""
    for folder in sorted((root / "model_repository" / "tensorrt_llm").iterdir()):
        if folder.is_dir():
            try:
                verify_manifest(folder)
                yield folder.name
            except ManifestError as error:
                yield str(error)


def kill_in(root: Path, recipe: Path, stage: str, after_s: float) -> dict[str, object]:
    """End a build so long after a stage has begun, or let it come to its end if it is faster."""
    lines = len(log_of(root, recipe))
    child = start(root, recipe)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return {"stage": stage, "ended": os.waitstatus_to_exitcode(status), "versions": list(versions(root))}
        if any(line["stage"] == stage and line["state"] == "started" for line in log_of(root, recipe)[lines:]):
            time.sleep(after_s)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return {"stage": stage, "ended": "killed", "versions": list(versions(root))}
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError(f"the stage {stage} did not begin")


def main() -> None:
    root, recipe = map(Path, sys.argv[1:])
    import_all()
    rng = random.Random(0)
    kills = []
    for stage in STAGES:
        moments = [rng.uniform(0, 0.15) for _ in range(12 if stage.name == "publish" else 2)]
        kills += [kill_in(root, recipe, stage.name, moment) for moment in moments]
    _, status = os.waitpid(start(root, recipe), 0)
    final = {"status": os.waitstatus_to_exitcode(status), "versions": list(versions(root))}
    print(json.dumps({"kills": kills, "final": final}))


if __name__ == "__main__":
    main()
