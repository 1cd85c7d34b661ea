"""Two checkpoints compared on the same tokens."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine_runs import exported
from support import CHECKPOINT
from trireme_build.accuracy import Accuracy, Block, compare, load_float32, openvino_log_probs, torch_log_probs
from trireme_build.checkpoint import Tensors
from trireme_build.engine_folder import write_engine
from trireme_build.exact_match import chat_ids
from trireme_build.quantization import Quantization
from trireme_build.reference.tasks import held_out_examples

pytestmark = [pytest.mark.torch, pytest.mark.timeout(900)]


def blocks() -> list[Block]:
    """Whole conversations."""
    from transformers import AutoTokenizer

    tok = AutoTokenizer.from_pretrained(CHECKPOINT)
    return [
        Block([*chat_ids(tok, e.prompt), *tok.encode(e.answer, add_special_tokens=False), tok.eos_token_id])
        for e in held_out_examples(60, seed=1)
    ]


def compared(source: Path, candidate: Path) -> Accuracy:
    return compare(*(torch_log_probs(load_float32(folder)) for folder in (source, candidate)), blocks())


def test_a_checkpoint_is_as_it_is() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    result = compared(CHECKPOINT, CHECKPOINT)
    assert (result.kl, result.top1) == (0, 1)
    assert result.perplexity == result.source_perplexity
    theirs = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    ids = torch.tensor([blocks()[0].ids])
    with torch.inference_mode():
        assert torch.equal(load_float32(CHECKPOINT)(ids).logits, theirs(ids).logits)


def test_coarser_codes_are_farther_away(tmp_path: Path) -> None:
    results = {}
    for quantization in (Quantization.FP8, Quantization.NVFP4, Quantization.INT4_AWQ, Quantization.INT8_SQ):
        results[quantization] = compared(CHECKPOINT, exported(tmp_path / quantization.value, quantization))
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
    result = compared(CHECKPOINT, damaged)
    print(damage, result)
    assert result.kl > {"rope": 0.2, "scale": 1e-3}[damage]


def test_an_engine_is_compared_as_it_is_served(tmp_path: Path) -> None:
    source = torch_log_probs(load_float32(CHECKPOINT))
    results = {}
    for weights in ("f32", "int8", "int4"):
        (tmp_path / weights).mkdir()
        write_engine(CHECKPOINT, tmp_path / weights, weights)
        results[weights] = compare(source, openvino_log_probs(tmp_path / weights), blocks())
        print(weights, results[weights])
    assert results["f32"].kl < 1e-6
    assert results["f32"].kl < results["int8"].kl < results["int4"].kl < 0.2


def test_only_what_is_predicted_from_the_first_id_on_counts() -> None:
    score = torch_log_probs(load_float32(CHECKPOINT))
    whole = blocks()[0]
    end = Block(whole.ids, len(whole.ids) - 3)
    result = compare(score, score, [end])
    assert result.tokens == 3
    expected = score(whole.ids)[-3:][range(3), list(whole.ids[-3:])].mean()
    assert result.perplexity == pytest.approx(float(np.exp(-expected)), rel=1e-5)


def test_nothing_to_predict_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to predict"):
        Block([1])
    with pytest.raises(ValueError, match="no text"):
        compare(lambda ids: np.zeros((1, 1), np.float32), lambda ids: np.zeros((1, 1), np.float32), [])
