"""`trireme build` from a checkpoint to versions that a server answers from."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from support import CHECKPOINT, ROOT, long_form, start_server, stop_server, wait_for
from trireme_build.checkpoint import DecoderShape, read_config
from trireme_build.errors import CheckpointError
from trireme_build.export import export_tensorrt_llm
from trireme_build.publish import make_writable
from trireme_build.quantization import Quantization
from trireme_build.random_checkpoint import Dimensions, write_checkpoint
from trireme_build.tensorrt_llm_checkpoint import TensorRtLlmWeights
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
    """FP8 and NVFP4 become versions 2 and 3; each is asked through the ensemble, the newest first."""
    names = ("reference-fp8", "reference-nvfp4")
    done = build(root, *(shortened(tmp_path, RECIPES / f"{name}.toml") for name in names))
    assert done.returncode == 0, done.stderr
    model = root / "model_repository" / "tensorrt_llm"
    for number, codes in ((3, "f4e2m1"), (2, "f8e4m3")):
        manifest = verify_manifest(model / str(number))
        assert manifest["recipe"] == names[number - 2]
        assert manifest["accuracy"]["exact_match"]["all"] >= 0.95
        assert manifest["made_from"]["checkpoint"] == str(CHECKPOINT)
        assert codes in manifest["arithmetic"]
        (tmp_path / str(number)).mkdir()
        server = start_server(tmp_path / str(number), env={"TRIREME_ROOT": str(root)})
        try:
            with Client(server.grpc, timeout_s=60) as client:
                answers = {prompt: ask(client, prompt) for prompt in ASKED}
                assert sum(answers[prompt] == right for prompt, right in ASKED.items()) >= len(ASKED) - 1, answers
            counted = functools.partial(server.metric, "trireme_generated_tokens_total", version=str(number))
            wait_for(counted, what=f"version {number} counting tokens")
        finally:
            stop_server(server)
        make_writable(model / str(number))
        shutil.rmtree(model / str(number))


def shortened(folder: Path, original: Path) -> Path:
    """A committed recipe that asks fewer prompts."""
    text = original.read_text().replace('"../checkpoints', f'"{original.parent.parent}/checkpoints')
    (folder / original.name).write_text(text.replace("[verify]", "[verify]\nmax_answers = 12"))
    return folder / original.name


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


def test_ranks_put_together_are_the_model(root: Path, tmp_path: Path) -> None:
    """verify reads the TensorRT-LLM checkpoint of two ranks back and compares it as a whole."""
    checkpoint = tmp_path / "checkpoint"
    dimensions = Dimensions(hidden=256, intermediate=512, layers=1)
    write_checkpoint(checkpoint, load_tokenizer(CHECKPOINT), dimensions=dimensions)
    kinds = [quantization.value for quantization in Quantization]
    recipes = [recipe(tmp_path, checkpoint, kind, to=kind, tensor_parallel=2) for kind in kinds]
    uncalibrated = recipes[kinds.index("bf16")]
    uncalibrated.write_text(uncalibrated.read_text().replace('texts = "texts.txt"\nblocks = 2\nlength = 32\n', "", 1))
    done = build(root, *recipes)
    assert done.returncode == 0, done.stderr
    for kind in kinds:
        work = root / ".trireme" / "builds" / kind
        result = json.loads((work / "verify" / "manifest.json").read_text())["result"]
        whole, ranks = result["accuracy"], result["tensorrt_llm_accuracy"]
        print(kind, whole["kl"], ranks["kl"])
        assert ranks["kl"] == pytest.approx(whole["kl"], rel=0.2, abs=1e-4), kind
        assert (work / "export" / "tensorrt_llm" / "rank1.safetensors").is_file()


@pytest.mark.parametrize("damage", ["rotary_base", "rotary_scaling", "rank", "dtype", "vocab_size"])
def test_damage_to_a_tensorrt_llm_checkpoint_is_named(tmp_path: Path, damage: str) -> None:
    """Theta and scaling get lost where another release of transformers exports."""
    shape = DecoderShape.from_config(read_config(CHECKPOINT))
    export_tensorrt_llm(CHECKPOINT, CHECKPOINT, tmp_path / "out", 2)
    TensorRtLlmWeights(tmp_path / "out", shape)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    if damage == "rank":
        (tmp_path / "out" / "rank1.safetensors").unlink()
        words = r"holds rank0\.safetensors; config\.json says"
    elif damage == "dtype":
        rank = tmp_path / "out" / "rank1.safetensors"
        name = "transformer.layers.2.mlp.fc.weight"
        tensors = load_file(rank)
        save_file({**tensors, name: tensors[name].astype(np.int8)}, rank)
        words = rf"rank1\.safetensors: {name} is I8"
    else:
        config |= {"rotary_base": 20_000.0, "rotary_scaling": {"type": "linear", "factor": 2.0}, "vocab_size": 9}
        wrong = json.loads((tmp_path / "out" / "config.json").read_text()) | {damage: config[damage]}
        (tmp_path / "out" / "config.json").write_text(json.dumps(wrong))
        words = rf"config\.json: {damage} is "
    with pytest.raises(CheckpointError, match=words):
        TensorRtLlmWeights(tmp_path / "out", shape)


@long_form
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
