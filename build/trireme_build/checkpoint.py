"""Reads a Hugging Face checkpoint folder: its configuration and its safetensors, without torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize, safe_open

_NUMPY_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


class CheckpointError(ValueError):
    """A checkpoint folder that cannot be used; the message names the file, the key and the value."""


@dataclass(frozen=True)
class LlamaShape:
    """The dimensions of a Llama-architecture checkpoint."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    rope_theta: float
    rms_norm_eps: float
    tied_embeddings: bool

    @property
    def heads_per_kv_head(self) -> int:
        """How many query heads share one key-value head."""
        return self.num_heads // self.num_kv_heads

    @property
    def weight_shapes(self) -> dict[str, list[int]]:
        """The tensors that a checkpoint of this shape has."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        parts = {
            "self_attn.q_proj": [queries, hidden],
            "self_attn.k_proj": [keys, hidden],
            "self_attn.v_proj": [keys, hidden],
            "self_attn.o_proj": [hidden, queries],
            "mlp.gate_proj": [inner, hidden],
            "mlp.up_proj": [inner, hidden],
            "mlp.down_proj": [hidden, inner],
            "input_layernorm": [hidden],
            "post_attention_layernorm": [hidden],
        }
        shapes = {"model.embed_tokens.weight": [self.vocab_size, hidden], "model.norm.weight": [hidden]}
        if not self.tied_embeddings:
            shapes["lm_head.weight"] = [self.vocab_size, hidden]
        for layer in range(self.num_layers):
            shapes |= {f"model.layers.{layer}.{part}.weight": shape for part, shape in parts.items()}
        return shapes

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LlamaShape":
        """Read `config.json`. Raises CheckpointError for an architecture or a feature that is not supported."""
        architectures = config.get("architectures")
        if architectures != ["LlamaForCausalLM"]:
            raise CheckpointError(f"config.json: architectures is {architectures}; supported is ['LlamaForCausalLM']")
        for key, neutral in (("rope_scaling", None), ("attention_bias", False), ("mlp_bias", False)):
            if config.get(key, neutral) != neutral:
                raise CheckpointError(f"config.json: {key} is {config[key]!r}; supported is {neutral!r}")
        if config.get("hidden_act", "silu") != "silu":
            raise CheckpointError(f"config.json: hidden_act is {config['hidden_act']!r}; supported is 'silu'")
        heads = _positive(config, "num_attention_heads")
        kv_heads = _positive(config, "num_key_value_heads", heads)
        if heads % kv_heads:
            raise CheckpointError(
                f"config.json: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}"
            )
        hidden = _positive(config, "hidden_size")
        return cls(
            vocab_size=_positive(config, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=_positive(config, "intermediate_size"),
            num_layers=_positive(config, "num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=_positive(config, "head_dim", max(1, hidden // heads)),
            max_positions=_positive(config, "max_position_embeddings"),
            rope_theta=_number(config, "rope_theta", 10_000.0),
            rms_norm_eps=_number(config, "rms_norm_eps"),
            tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        )


def _positive(config: dict[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or value < 1:
        raise CheckpointError(f"config.json: {key} is {value!r}; a whole number above 0 is needed")
    return value


def _number(config: dict[str, Any], key: str, default: float | None = None) -> float:
    value: Any = config.get(key, default)
    if type(value) not in (int, float) or not value > 0:
        raise CheckpointError(f"config.json: {key} is {value!r}; a number above 0 is needed")
    return float(value)


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a checkpoint folder. Raises CheckpointError if it is missing or no JSON object."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found; a Hugging Face checkpoint folder has one") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: no valid JSON ({error})") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: holds {type(config).__name__}, not an object")
    return config


def check_weights(folder: Path, shape: LlamaShape) -> None:
    """Raise CheckpointError if the tensors in `model.safetensors` are not those of `shape`; none is loaded."""
    path = folder / "model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{path}: not found; only safetensors are read, in one file")
    try:
        with safe_open(path, framework="numpy") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    expected = shape.weight_shapes
    for name, dims in expected.items():
        if name not in found:
            raise CheckpointError(f"{path}: {name} is missing")
        if found[name] != dims:
            raise CheckpointError(f"{path}: {name} has the shape {found[name]}; config.json says {dims}")
    unknown = sorted(name for name in found.keys() - expected.keys() if not name.endswith("rotary_emb.inv_freq"))
    if shape.tied_embeddings and "lm_head.weight" in unknown:
        unknown.remove("lm_head.weight")
    if unknown:
        raise CheckpointError(f"{path}: {unknown[0]} is not part of the model that config.json describes")


def read_weights(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Every tensor of `model.safetensors` as float32, by name; bfloat16 is widened exactly.

    Raises CheckpointError if there is no such file (pickled weights are never read) or for a dtype that is no float.
    """
    path = folder / "model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{path}: not found; only safetensors are read, in one file")
    weights: dict[str, NDArray[np.float32]] = {}
    for name, tensor in deserialize(path.read_bytes()):  # type: ignore[no-untyped-call]
        dtype, shape, data = tensor["dtype"], tensor["shape"], tensor["data"]
        if dtype == "BF16":
            wide = np.frombuffer(data, dtype=np.uint16).astype(np.uint32) << 16
            weights[name] = wide.view(np.float32).reshape(shape)
        elif dtype in _NUMPY_DTYPES:
            weights[name] = np.frombuffer(data, dtype=_NUMPY_DTYPES[dtype]).astype(np.float32).reshape(shape)
        else:
            raise CheckpointError(f"{path}: tensor {name} has dtype {dtype}; supported are BF16, F16, F32 and F64")
    return weights
