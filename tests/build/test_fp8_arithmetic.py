"""The exported FP8 checkpoint, its activations rounded too."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine_runs import exported
from support import CHECKPOINT
from trireme_build.errors import BuildError
from trireme_build.fp8_arithmetic import fp8_model, scaled_product
from trireme_build.quantization import Quantization

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]


def test_it_is_near_bfloat16(tmp_path: Path) -> None:
    folder = exported(tmp_path, Quantization.FP8)
    command = [sys.executable, "-m", "trireme_build.fp8_arithmetic", CHECKPOINT, folder]
    done = subprocess.run([*command, "--tasks", CHECKPOINT / "held_out.jsonl"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    print(figures)
    assert 0 < figures["kl"] < 0.01
    assert figures["top1"] > 0.99


def test_activations_are_really_rounded(tmp_path: Path) -> None:
    import torch

    folder = exported(tmp_path, Quantization.FP8)
    layer = fp8_model(CHECKPOINT, folder).model.layers[0].mlp.up_proj
    x = torch.linspace(-4, 4, 512 * 256, dtype=torch.bfloat16).reshape(512, 256)
    weight = layer.codes.float() * layer.weight_scale
    rounded = (x.float() / layer.input_scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * layer.input_scale
    assert not torch.equal(rounded, x.float())
    assert torch.allclose(layer(x).float(), rounded @ weight.t(), rtol=0.02, atol=0.05)


def test_the_product_is_torchs() -> None:
    """Which the CPU has too, far slower."""
    import torch

    torch.manual_seed(0)
    x, codes = (torch.randn(rows, 64).to(torch.float8_e4m3fn) for rows in (16, 32))
    scales = torch.tensor(0.5), torch.tensor(0.25)
    theirs = torch._scaled_mm(x, codes.t(), scale_a=scales[0], scale_b=scales[1], out_dtype=torch.bfloat16)
    assert torch.allclose(scaled_product(x, codes, *scales), theirs.float(), rtol=0.01, atol=0.01)


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="is stored as f32; fp8 is needed"):
        fp8_model(CHECKPOINT, CHECKPOINT)
