"""Quantized with modelopt, exported, read back without torch, and run by the CPU engine."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine_runs import exported, share_right
from support import CHECKPOINT
from trireme_build.checkpoint import Tensors
from trireme_build.errors import CheckpointError
from trireme_build.exported import ALGORITHMS, open_weights
from trireme_build.matrices import Codes, WeightFormat
from trireme_build.quantization import Quantization
from trireme_build.quantize import Calibration, calibrate

pytestmark = [pytest.mark.torch, pytest.mark.timeout(900)]

#: The type of the codes, and how far a matrix may be from the source (Frobenius norms), less than to nothing of it.
EXPECTED = {
    Quantization.FP8: (Codes.F8E4M3, 0.05),
    Quantization.FP8_KV: (Codes.F8E4M3, 0.05),
    Quantization.NVFP4: (Codes.F4E2M1, 0.15),
    Quantization.INT4_AWQ: (Codes.INT4, 0.2),
    # What smoothing takes from channels that carry little.
    Quantization.INT8_SQ: (Codes.INT8, 0.4),
}


@pytest.fixture(scope="module")
def export_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Quantization], Path]:
    """The reference checkpoint, quantized and exported; once each."""
    root = tmp_path_factory.mktemp("exported")

    @functools.cache
    def make(quantization: Quantization) -> Path:
        return exported(root / quantization.value, quantization)

    return make


@pytest.mark.parametrize("quantization", list(EXPECTED))
def test_what_was_exported_is_near_the_source_and_answers_right(
    export_of: Callable[[Quantization], Path], quantization: Quantization, tmp_path: Path
) -> None:
    folder = export_of(quantization)
    shape, weights, algorithm = open_weights(folder)
    assert algorithm == quantization.value.removesuffix("_kv")
    source = Tensors(CHECKPOINT)
    kind, far = EXPECTED[quantization]
    worst = 0.0
    for name in shape.linear_layers:
        matrix = weights.matrix(name, WeightFormat.F32)
        assert matrix.kind is kind
        expected = source[f"{name}.weight"]
        values = matrix.values()
        # What is folded into the norm before, with AWQ, is missing in the matrix.
        norm = {"qkv": "input_layernorm", "gu": "post_attention_layernorm"}
        part = name.rpartition(".")[2][0]
        layer = name.partition(".self_attn")[0].partition(".mlp")[0]
        for parts, norm_name in norm.items():
            if part in parts:
                folded = weights.vector(f"{layer}.{norm_name}.weight") / source[f"{layer}.{norm_name}.weight"]
                values = values * folded
        error = float(np.linalg.norm(values - expected) / np.linalg.norm(expected))
        assert error < far, (name, error)
        worst = max(worst, error)

    print(f"{quantization.value}: error {worst:.3f}")
    assert share_right(folder, tmp_path / "engine", 4) >= 0.95


def test_the_same_seed_gives_the_same_bytes(export_of: Callable[[Quantization], Path], tmp_path: Path) -> None:
    again = exported(tmp_path / "again", Quantization.FP8)
    first, again = (folder / "model.safetensors" for folder in (export_of(Quantization.FP8), again))
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("newer", [False, True])
def test_rope_comes_through_whichever_transformers_wrote_it(tmp_path: Path, newer: bool) -> None:
    """Read by another release, theta falls back to 10,000 without a word."""
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 512
    source = tmp_path / "source"
    shutil.copytree(CHECKPOINT, source)
    config = json.loads((source / "config.json").read_text())
    if newer:
        del config["rope_theta"]
        config.pop("rope_scaling", None)
        config["rope_parameters"] = {"rope_theta": 500_000.0, **scaling}
    else:
        config |= {"rope_theta": 500_000.0, "rope_scaling": scaling}
    (source / "config.json").write_text(json.dumps(config))
    written = json.loads((exported(tmp_path / "out", Quantization.FP8, source) / "config.json").read_text())
    assert written["rope_theta"] == 500_000.0
    assert written["rope_scaling"].items() >= scaling.items()


def test_too_little_to_calibrate_with_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="calibration texts have fewer than 256 tokens in all"):
        calibrate(CHECKPOINT, tmp_path / "out", Quantization.FP8, Calibration(["12345"]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quant_method": "gptq"}, "quant_method is 'gptq'; supported is 'modelopt'"),
        ({"quant_algo": "MXFP4"}, "quant_algo is 'MXFP4'; supported are FP8, NVFP4"),
        ({"quant_algo": "NVFP4"}, r"q_proj.weight is F8_E4M3 \[256, 256\]; NVFP4 has U8 \[256, 128\]"),
        ({"quant_algo": "W8A8_SQ_PER_CHANNEL"}, "q_proj.weight is F8_E4M3"),
    ],
)
def test_an_export_that_is_not_what_it_says_is_refused(
    export_of: Callable[[Quantization], Path], tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(export_of(Quantization.FP8), folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words):
        open_weights(folder)


def test_every_algorithm_has_a_name() -> None:
    assert {q.value.removesuffix("_kv") for q in EXPECTED} == set(ALGORITHMS.values())
