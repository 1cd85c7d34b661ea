"""Two checkpoints compared on the same tokens."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from support import CHECKPOINT
from trireme_build.accuracy import compare, load_float32
from trireme_build.checkpoint import Tensors
from trireme_build.quantize import Calibration, Quantization, quantize
from trireme_build.reference.tasks import held_out_examples, training_examples

pytestmark = [pytest.mark.torch, pytest.mark.timeout(900)]


def blocks() -> list[list[int]]:
    from transformers import AutoTokenizer

    from trireme_build.reference.evaluate import chat_ids

    tok = AutoTokenizer.from_pretrained(CHECKPOINT)
    return [
        [*chat_ids(tok, example.prompt), *tok.encode(example.answer, add_special_tokens=False), tok.eos_token_id]
        for example in held_out_examples(60, seed=1)
    ]


def test_a_checkpoint_is_as_it_is() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    result = compare(CHECKPOINT, CHECKPOINT, blocks())
    assert (result.kl, result.top1) == (0, 1)
    assert result.perplexity == result.source_perplexity
    theirs = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    ids = torch.tensor([blocks()[0]])
    with torch.inference_mode():
        assert torch.equal(load_float32(CHECKPOINT)(ids).logits, theirs(ids).logits)


def test_coarser_codes_are_farther_away(tmp_path: Path) -> None:
    results = {}
    for quantization in (Quantization.FP8, Quantization.NVFP4, Quantization.INT4_AWQ, Quantization.INT8_SQ):
        texts = (f"{example.prompt} {example.answer}" for example in training_examples(seed=5))
        quantize(CHECKPOINT, tmp_path / quantization.value, quantization, Calibration(texts, blocks=8, length=128))
        results[quantization] = compare(CHECKPOINT, tmp_path / quantization.value, blocks())
        print(quantization.value, results[quantization])
    assert 0 < results[Quantization.FP8].kl < results[Quantization.NVFP4].kl < 0.2
    assert all(result.top1 > 0.93 for result in results.values())
    assert all(result.perplexity < 1.3 * result.source_perplexity for result in results.values())


@pytest.mark.parametrize("damage", ["rope", "scale"])
def test_silent_corruption_shows(tmp_path: Path, damage: str) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(CHECKPOINT, damaged)
    if damage == "rope":
        config = json.loads((damaged / "config.json").read_text())
        (damaged / "config.json").write_text(json.dumps({**config, "rope_theta": 500_000.0}))
    else:
        weights = dict(Tensors(damaged).items())
        weights["model.layers.3.mlp.up_proj.weight"] *= 1.5
        save_file(weights, damaged / "model.safetensors")
    result = compare(CHECKPOINT, damaged, blocks())
    print(damage, result)
    assert result.kl > {"rope": 0.2, "scale": 1e-3}[damage]


def test_nothing_to_predict_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least two"):
        compare(CHECKPOINT, CHECKPOINT, [[1]])
