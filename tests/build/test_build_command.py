"""`trireme build` from a checkpoint to versions that a server answers from."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support import CHECKPOINT, ROOT, start_server, stop_server
from trireme_build.random_checkpoint import Dimensions, write_checkpoint
from trireme_client import Client
from trireme_ops.bench.root import copy_repositories
from trireme_ops.layout import Layout
from trireme_runtime.manifest import verify_manifest
from trireme_runtime.tokenizing import load_tokenizer

pytestmark = [pytest.mark.torch, pytest.mark.timeout(900)]

RECIPES = ROOT / "build" / "recipes"
TRIREME = Path(sys.executable).parent / "trireme"

#: Whose limits nothing misses: random weights answer nothing.
LENIENT = """
[source]
checkpoint = "{checkpoint}"

[quantize]
to = "{to}"
texts = "texts.txt"
blocks = 2
length = 32

[export]
formats = ["huggingface", "tensorrt_llm"]
tensor_parallel = {tensor_parallel}

[verify]
texts = "texts.txt"
max_texts = 4
max_kl = {max_kl}
min_top1 = 0.0
max_perplexity_increase = 100.0

[compile]
engine = "openvino"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the repositories to publish in."""
    return copy_repositories(Layout(ROOT), tmp_path / "root", {}).root


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A checkpoint of random weights with the reference's tokenizer."""
    folder = tmp_path / "small"
    write_checkpoint(folder, load_tokenizer(CHECKPOINT), dimensions=Dimensions(hidden=128, intermediate=256))
    return folder


def recipe(folder: Path, checkpoint: Path, name: str = "mine", **values: Any) -> Path:
    path = folder / f"{name}.toml"
    filled = {"checkpoint": checkpoint, "to": "fp8", "tensor_parallel": 1, "max_kl": 10.0, **values}
    path.write_text(LENIENT.format(**filled))
    (folder / "texts.txt").write_text("".join(f"What is {n} + {n + 7}? It is {2 * n + 7}.\n" for n in range(60)))
    return path


def build(root: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [str(TRIREME), "build", *map(str, arguments)]
    env = {**os.environ, "TRIREME_ROOT": str(root)}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)


def states(root: Path, name: str) -> list[tuple[str, str]]:
    log = (root / ".trireme" / "builds" / name / "build.log").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    return [(line["stage"], line["state"]) for line in lines if line["state"] != "started"]


def test_what_the_quantizer_wrote_is_served_and_answers(root: Path, tmp_path: Path) -> None:
    """FP8, NVFP4 and INT8 become versions 2, 3 and 4; each is asked through the ensemble."""
    names = ("reference-fp8", "reference-nvfp4", "reference-int8")
    for number, name in enumerate(names, 2):
        done = build(root, RECIPES / f"{name}.toml")
        assert done.returncode == 0, done.stderr
        version = root / "model_repository" / "tensorrt_llm" / str(number)
        manifest = verify_manifest(version)
        assert manifest["recipe"] == name
        assert manifest["accuracy"]["exact_match"]["all"] >= 0.95
        assert manifest["build"]["recipe"]["source"]["checkpoint"] == str(
            RECIPES / ".." / "checkpoints" / CHECKPOINT.name
        )
        log = tmp_path / name
        log.mkdir()
        server = start_server(log, env={"TRIREME_ROOT": str(root)})
        try:
            with Client(server.grpc, timeout_s=60) as client:
                answers = {
                    n: client.generate(messages=[{"role": "user", "content": n}], max_tokens=32).text for n in ASKED
                }
                assert sum(answers[prompt] == right for prompt, right in ASKED.items()) >= len(ASKED) - 1, answers
                assert server.metric("trireme_generated_tokens_total", version=str(number)) > 0
        finally:
            stop_server(server)
    arithmetic = [
        verify_manifest(root / "model_repository" / "tensorrt_llm" / n)["arithmetic"] for n in ("2", "3", "4")
    ]
    for codes, words in zip(("f8e4m3", "f4e2m1", "int8"), arithmetic, strict=True):
        assert codes in words


def ask(client: Client, prompt: str) -> str:
    return client.generate(messages=[{"role": "user", "content": prompt}], max_tokens=32).text


ASKED = {
    "What is 37 + 58?": "95",
    "What is 91 - 17?": "74",
    "Sort: 9 3 7 1": "1 3 7 9",
    "Reverse: stream": "maerts",
    "Uppercase: triton": "TRITON",
    "Repeat: 你好 👋 Grüße": "你好 👋 Grüße",
}


def test_a_second_run_does_nothing_and_a_changed_source_does_it_again(root: Path, tmp_path: Path, small: Path) -> None:
    path = recipe(tmp_path, small)
    assert build(root, path).returncode == 0
    assert [state for _, state in states(root, "mine")] == ["done"] * 8
    assert build(root, path).returncode == 0
    assert states(root, "mine")[8:] == [
        (stage, "done" if stage in ("target", "publish") else "skipped")
        for stage in ("inspect", "target", "quantize", "export", "verify", "compile", "evaluate", "publish")
    ]
    assert not (root / "model_repository" / "tensorrt_llm" / "3").exists()
    write_checkpoint_again(small)
    assert build(root, path).returncode == 0
    assert ("quantize", "done") in states(root, "mine")[16:]
    assert (root / "model_repository" / "tensorrt_llm" / "3").exists()


def write_checkpoint_again(folder: Path) -> None:
    shutil.rmtree(folder)
    write_checkpoint(folder, load_tokenizer(CHECKPOINT), seed=1, dimensions=Dimensions(hidden=128, intermediate=256))


def test_a_build_that_misses_a_limit_is_not_published(root: Path, tmp_path: Path, small: Path) -> None:
    done = build(root, recipe(tmp_path, small, max_kl=1e-9))
    assert done.returncode == 1
    assert "the exported checkpoint is not near enough to its source: KL is" in done.stderr
    assert "max_kl 1e-09" in done.stderr
    assert states(root, "mine")[-1] == ("verify", "failed")
    assert [p.name for p in (root / "model_repository" / "tensorrt_llm").iterdir() if p.is_dir()] == ["1"]


@pytest.mark.parametrize("to", ["bf16", "fp8_kv", "nvfp4", "int8_sq"])
def test_ranks_put_together_are_the_model(root: Path, tmp_path: Path, small: Path, to: str) -> None:
    """verify reads the TensorRT-LLM checkpoint of two ranks back and compares it as a whole."""
    path = recipe(tmp_path, small, to=to, tensor_parallel=2)
    if to == "bf16":
        text = path.read_text().replace('texts = "texts.txt"\nblocks = 2\nlength = 32\n', "", 1)
        path.write_text(text)
    done = build(root, path)
    assert done.returncode == 0, done.stderr
    work = root / ".trireme" / "builds" / "mine"
    result = json.loads((work / "verify" / "manifest.json").read_text())["result"]
    whole, ranks = result["accuracy"], result["tensorrt_llm_accuracy"]
    assert ranks["kl"] == pytest.approx(whole["kl"], rel=0.2, abs=1e-4)
    assert (work / "export" / "tensorrt_llm" / "rank1.safetensors").is_file()


def test_a_kill_at_any_stage_leaves_no_version_or_a_whole_one(root: Path, tmp_path: Path, small: Path) -> None:
    script = Path(__file__).with_name("killed_builds.py")
    command = [sys.executable, str(script), str(root), str(recipe(tmp_path, small))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for kill in found["kills"]:
        assert kill["versions"] in (["1"], ["1", "2"]), kill
        if kill["stage"] not in ("publish",):
            assert kill["versions"] == ["1"], kill
    killed = [kill["stage"] for kill in found["kills"] if kill["ended"] == "killed"]
    assert {"inspect", "quantize", "export", "verify", "evaluate", "publish"} <= set(killed), killed
    assert found["final"] == {"status": 0, "versions": ["1", "2"]}


def test_pickles_are_refused(root: Path, tmp_path: Path, small: Path) -> None:
    (small / "model.safetensors").rename(small / "pytorch_model.bin")
    done = build(root, recipe(tmp_path, small))
    assert done.returncode == 1
    assert "pytorch_model.bin holds Python objects; only safetensors are read" in done.stderr
