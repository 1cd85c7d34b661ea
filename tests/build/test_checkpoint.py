import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from support import CHECKPOINT
from trireme_build.checkpoint import DecoderShape, Tensors, check_weights, read_config
from trireme_build.errors import CheckpointError

CONFIG = json.loads((CHECKPOINT / "config.json").read_text())


def test_the_reference_checkpoint_is_what_the_exports_like() -> None:
    shape = DecoderShape.from_config(CONFIG)
    weights = Tensors(CHECKPOINT)
    assert sum(weight.size for weight in weights.values()) <= 5_000_000
    assert (shape.hidden_size, shape.intermediate_size, shape.head_dim) == (256, 768, 64)
    assert (shape.num_heads, shape.num_kv_heads, shape.num_layers) == (4, 2, 6)
    assert weights["model.embed_tokens.weight"].shape == (shape.vocab_size, 256)
    assert all(np.isfinite(weight).all() for weight in weights.values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, ["architectures", "GPT2LMHeadModel"]),
        ({"rope_scaling": {"type": "longrope", "factor": 2}}, ["rope type", "longrope", "llama3"]),
        ({"rope_scaling": {"type": "linear"}}, ["rope_scaling", "linear", "no factor"]),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, ["factor", "0.5", "at least 1"]),
        ({"rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2}}, ["rope type"]),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2, "beta": 1}}, ["linear", "unknown beta"]),
        ({"rope_scaling": 2}, ["rope_scaling is 2"]),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, ["10000", "500000"]),
        ({"rope_theta": "big"}, ["rope_theta", "'big'"]),
        ({"attention_bias": "yes"}, ["attention_bias", "'yes'"]),
        ({"architectures": ["Qwen3ForCausalLM"], "head_dim": None}, ["head_dim", "None"]),
        ({"head_dim": 63}, ["head_dim", "63", "even"]),
        ({"hidden_act": "gelu"}, ["hidden_act", "gelu"]),
        ({"num_key_value_heads": 3}, ["num_attention_heads 4", "num_key_value_heads 3"]),
    ],
)
def test_what_is_not_supported_is_named(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(CheckpointError) as caught:
        DecoderShape.from_config({**CONFIG, **changes})
    assert all(word in str(caught.value) for word in words)


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: not found"):
        read_config(tmp_path)


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match="only safetensors are read"):
        Tensors(tmp_path)


def test_a_dtype_that_is_no_float_is_named(tmp_path: Path) -> None:
    save_file({"w": np.zeros(3, np.int64)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="tensor w has dtype I64"):
        Tensors(tmp_path)["w"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_floats_are_read_as_float32(tmp_path: Path, dtype: Any) -> None:
    values = np.array([[1.5, -2.25]], dtype)
    if dtype is ml_dtypes.bfloat16:
        header = json.dumps({"w": {"dtype": "BF16", "shape": values.shape, "data_offsets": [0, 4]}}).encode()
        data = len(header).to_bytes(8, "little") + header + values.tobytes()
        (tmp_path / "model.safetensors").write_bytes(data)
    else:
        save_file({"w": values}, tmp_path / "model.safetensors")
    read = Tensors(tmp_path)["w"]
    assert read.dtype == np.float32
    assert read.tolist() == [[1.5, -2.25]]


def write_shards(folder: Path, weight_map: dict[str, str] | None = None) -> None:
    """The reference checkpoint in two files and an index."""
    tensors = Tensors(CHECKPOINT)
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    found = {name: file for file, held in shards.items() for name in held}
    index = {"metadata": {"total_size": 0}, "weight_map": {**found, **(weight_map or {})}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    write_shards(tmp_path)
    whole, shards = Tensors(CHECKPOINT), Tensors(tmp_path)
    assert set(shards) == set(whole)
    assert all((shards[name] == whole[name]).all() for name in whole)
    check_weights(Tensors(tmp_path), DecoderShape.from_config(CONFIG))


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "weights.bin", "missing.safetensors", 7])
def test_an_index_that_leads_elsewhere_is_refused(tmp_path: Path, name: Any) -> None:
    write_shards(tmp_path, {"model.norm.weight": name})
    with pytest.raises(CheckpointError, match=r"names|not found"):
        Tensors(tmp_path)


def test_a_shard_that_is_cut_off_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: cannot be read"):
        Tensors(tmp_path)


def test_families_differ_in_biases_norms_and_windows() -> None:
    def shape(architecture: str, **changes: Any) -> DecoderShape:
        return DecoderShape.from_config({**CONFIG, "architectures": [architecture], **changes})

    qwen2 = shape("Qwen2ForCausalLM", sliding_window=64, use_sliding_window=False)
    assert "model.layers.0.self_attn.q_proj.bias" in qwen2.weight_shapes
    assert "model.layers.0.self_attn.o_proj.bias" not in qwen2.weight_shapes
    assert qwen2.max_positions == CONFIG["max_position_embeddings"]
    qwen3 = shape("Qwen3ForCausalLM")
    assert qwen3.weight_shapes["model.layers.0.self_attn.k_norm.weight"] == [qwen3.head_dim]
    llama = shape("LlamaForCausalLM", attention_bias=True, mlp_bias=True)
    assert {"self_attn.o_proj.bias", "mlp.down_proj.bias"} <= {
        name.removeprefix("model.layers.0.") for name in llama.weight_shapes
    }
    assert shape("MistralForCausalLM", sliding_window=64).max_positions == 64
    assert shape("MistralForCausalLM", sliding_window=None).max_positions == CONFIG["max_position_embeddings"]
