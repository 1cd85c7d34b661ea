import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from support import CHECKPOINT
from trireme_build.checkpoint import CheckpointError, LlamaShape, read_config, read_weights

CONFIG = json.loads((CHECKPOINT / "config.json").read_text())


def test_the_reference_checkpoint_is_what_the_exports_like() -> None:
    shape = LlamaShape.from_config(CONFIG)
    weights = read_weights(CHECKPOINT)
    assert sum(weight.size for weight in weights.values()) <= 5_000_000
    assert (shape.hidden_size, shape.intermediate_size, shape.head_dim) == (256, 768, 64)
    assert (shape.num_heads, shape.num_kv_heads, shape.num_layers) == (4, 2, 6)
    assert weights["model.embed_tokens.weight"].shape == (shape.vocab_size, 256)
    assert all(np.isfinite(weight).all() for weight in weights.values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, ["architectures", "GPT2LMHeadModel"]),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, ["rope_scaling", "linear"]),
        ({"attention_bias": True}, ["attention_bias", "True"]),
        ({"hidden_act": "gelu"}, ["hidden_act", "gelu"]),
        ({"num_key_value_heads": 3}, ["num_attention_heads 4", "num_key_value_heads 3"]),
    ],
)
def test_what_is_not_supported_is_named(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(CheckpointError) as caught:
        LlamaShape.from_config({**CONFIG, **changes})
    assert all(word in str(caught.value) for word in words)


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: not found"):
        read_config(tmp_path)


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match="only safetensors are read"):
        read_weights(tmp_path)


def test_a_dtype_that_is_no_float_is_named(tmp_path: Path) -> None:
    save_file({"w": np.zeros(3, np.int64)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="tensor w has dtype I64"):
        read_weights(tmp_path)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_read_as_float32(tmp_path: Path, dtype: Any) -> None:
    values = np.array([[1.5, -2.25]], dtype)
    save_file({"w": values}, tmp_path / "model.safetensors")
    read = read_weights(tmp_path)["w"]
    assert read.dtype == np.float32
    assert read.tolist() == [[1.5, -2.25]]
