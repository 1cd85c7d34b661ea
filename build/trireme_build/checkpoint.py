"""Reads a Hugging Face checkpoint folder: its configuration and its safetensors, without torch."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from .errors import CheckpointError
from .rope import Rope

#: The architectures that are supported, and what each calls its family. Their decoders differ in biases and norms only.
ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}

#: The types of safetensors (by the names that its header has for them) that can be read.
_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "I64": np.int64,
    "I32": np.int32,
    "I8": np.int8,
    "U8": np.uint8,
}
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"

#: How files of weights end that run code when they are read.
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class DecoderShape:
    """The dimensions of a decoder-only checkpoint, and what tells the families apart.

    max_positions: the longest context, in tokens; with a sliding window no longer than that, for within it every family
    attends to all that came before. qk_norm: whether queries and keys are normed, each head by itself.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    rms_norm_eps: float
    tied_embeddings: bool
    rope: Rope
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    @property
    def heads_per_kv_head(self) -> int:
        """How many query heads share one key-value head."""
        return self.num_heads // self.num_kv_heads

    @property
    def linear_layers(self) -> list[str]:
        """The names of the matrices that are multiplied with, but for the embeddings and the head."""
        parts = [f"self_attn.{part}_proj" for part in "qkvo"] + [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
        return [f"model.layers.{layer}.{part}" for layer in range(self.num_layers) for part in parts]

    @property
    def weight_shapes(self) -> dict[str, list[int]]:
        """The tensors that a checkpoint of this shape has."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        matrices = {
            "self_attn.q_proj": ([queries, hidden], self.qkv_bias),
            "self_attn.k_proj": ([keys, hidden], self.qkv_bias),
            "self_attn.v_proj": ([keys, hidden], self.qkv_bias),
            "self_attn.o_proj": ([hidden, queries], self.output_bias),
            "mlp.gate_proj": ([inner, hidden], self.mlp_bias),
            "mlp.up_proj": ([inner, hidden], self.mlp_bias),
            "mlp.down_proj": ([hidden, inner], self.mlp_bias),
        }
        parts = {f"{name}.weight": shape for name, (shape, _) in matrices.items()}
        parts |= {f"{name}.bias": shape[:1] for name, (shape, bias) in matrices.items() if bias}
        parts |= {f"{name}.weight": [hidden] for name in ("input_layernorm", "post_attention_layernorm")}
        if self.qk_norm:
            parts |= {f"self_attn.{name}_norm.weight": [self.head_dim] for name in "qk"}
        shapes = {"model.embed_tokens.weight": [self.vocab_size, hidden], "model.norm.weight": [hidden]}
        if not self.tied_embeddings:
            shapes["lm_head.weight"] = [self.vocab_size, hidden]
        for layer in range(self.num_layers):
            shapes |= {f"model.layers.{layer}.{part}": shape for part, shape in parts.items()}
        return shapes

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "DecoderShape":
        """Read `config.json`. Raises CheckpointError for an architecture or a feature that is not supported."""
        architectures = config.get("architectures")
        if not isinstance(architectures, list) or len(architectures) != 1 or architectures[0] not in ARCHITECTURES:
            raise CheckpointError(
                f"config.json: architectures is {architectures}; supported are {', '.join(ARCHITECTURES)}, one of them"
            )
        family = ARCHITECTURES[architectures[0]]
        if config.get("hidden_act", "silu") != "silu":
            raise CheckpointError(f"config.json: hidden_act is {config['hidden_act']!r}; supported is 'silu'")
        for key, neutral in (("partial_rotary_factor", 1.0), ("pretraining_tp", 1)):
            if config.get(key, neutral) != neutral:
                raise CheckpointError(f"config.json: {key} is {config[key]!r}; supported is {neutral!r}")
        heads = _positive(config, "num_attention_heads")
        kv_heads = _positive(config, "num_key_value_heads", heads)
        if heads % kv_heads:
            raise CheckpointError(
                f"config.json: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}"
            )
        hidden = _positive(config, "hidden_size")
        # Where a Qwen 3 names none it is not what the others take, so it must name it.
        head_dim = _positive(config, "head_dim", None if family == "qwen3" else max(1, hidden // heads))
        if head_dim % 2:
            raise CheckpointError(f"config.json: head_dim is {head_dim}; rotary embeddings need an even one")
        attention_bias = _flag(config, "attention_bias") if family in ("llama", "qwen3") else False
        positions = _positive(config, "max_position_embeddings")
        return cls(
            family=family,
            vocab_size=_positive(config, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=_positive(config, "intermediate_size"),
            num_layers=_positive(config, "num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            max_positions=min(positions, _sliding_window(config, family) or positions),
            rms_norm_eps=_number(config, "rms_norm_eps", 1e-6),
            tied_embeddings=_flag(config, "tie_word_embeddings"),
            rope=Rope.from_config(config, positions),
            qkv_bias=attention_bias or family == "qwen2",
            output_bias=attention_bias,
            mlp_bias=_flag(config, "mlp_bias") if family == "llama" else False,
            qk_norm=family == "qwen3",
        )


def _sliding_window(config: dict[str, Any], family: str) -> int | None:
    """The window that attention is limited to, in any of the layers."""
    if config.get("sliding_window") is None or family == "llama":
        return None
    if family in ("qwen2", "qwen3") and not _flag(config, "use_sliding_window"):
        return None
    return _positive(config, "sliding_window")


def _flag(config: dict[str, Any], key: str) -> bool:
    value = config.get(key, False)
    if type(value) is not bool:
        raise CheckpointError(f"config.json: {key} is {value!r}; true or false is needed")
    return value


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
    try:
        return read_object(folder / "config.json")
    except FileNotFoundError as error:
        raise CheckpointError(f"{error.filename}: not found; a Hugging Face checkpoint folder has one") from None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object in a file. Raises CheckpointError if it is none, FileNotFoundError if there is no file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: no valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds {type(value).__name__}, not an object")
    return value


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: one, or those that its index names.

    Raises CheckpointError if there are none (pickled weights are never read), and for an index that leads elsewhere.
    """
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    try:
        index = read_object(folder / _INDEX)
    except FileNotFoundError:
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLED)
        instead = f", and {pickled[0]} holds Python objects" if pickled else ""
        raise CheckpointError(
            f"{folder}: has neither {_SINGLE} nor {_INDEX}{instead}; only safetensors are read"
        ) from None
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{folder / _INDEX}: has no object 'weight_map'")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{folder / _INDEX}: names {name!r}, which is no safetensors file beside it")
    files = [folder / name for name in sorted(set(weight_map.values()))]
    for path in files:
        if not path.is_file():
            raise CheckpointError(f"{path}: not found; {_INDEX} names it")
    return files


@dataclass(frozen=True)
class _Entry:
    """Where a tensor lies: dtype as in the header, offset in bytes from the beginning of the file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


class Tensors(Mapping[str, NDArray[np.float32]]):
    """The tensors of a checkpoint folder by name, each read when it is asked for, floats widened exactly to float32.

    files: those of the folder that hold them; the checkpoint's weight files where none are named. Raises
    CheckpointError for files that are no safetensors, and for a dtype that is no float where one is asked for.
    """

    def __init__(self, folder: Path, files: Sequence[Path] | None = None) -> None:
        self.folder = folder
        self._entries: dict[str, _Entry] = {}
        for path in weight_files(folder) if files is None else files:
            for name, entry in _entries(path).items():
                if name in self._entries:
                    raise CheckpointError(f"{path}: {name} is in {self._entries[name].path.name} too")
                self._entries[name] = entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        entry = self._entries[name]
        if entry.dtype not in _FLOATS:
            raise CheckpointError(
                f"{entry.path}: tensor {name} has dtype {entry.dtype}; supported are {', '.join(sorted(_FLOATS))}"
            )
        return self.stored(name).astype(np.float32)

    def stored(self, name: str) -> NDArray[Any]:
        """A tensor in the type that it is stored in, read from the file as it is used."""
        entry = self._entries[name]
        if entry.dtype not in _DTYPES:
            raise CheckpointError(f"{entry.path}: tensor {name} has dtype {entry.dtype}, which cannot be read")
        if 0 in entry.shape:
            return np.zeros(entry.shape, _DTYPES[entry.dtype])
        return np.memmap(entry.path, _DTYPES[entry.dtype], "r", entry.offset, entry.shape)

    def dtype(self, name: str) -> str:
        """The type of a tensor as the header names it: BF16, F8_E4M3 and so on."""
        return self._entries[name].dtype

    def shape(self, name: str) -> list[int]:
        """The dimensions of a tensor; nothing is read."""
        return list(self._entries[name].shape)

    def file(self, name: str) -> Path:
        """Where a tensor is."""
        return self._entries[name].path


def _entries(path: Path) -> dict[str, _Entry]:
    try:
        # The library checks the header: that it is whole, and that each tensor lies within the file.
        with safe_open(path, framework="numpy") as file:
            file.keys()
    except SafetensorError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    # The format: the length of the header in 8 bytes, little-endian, the header as JSON, the data.
    with path.open("rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        header = json.loads(raw.read(length))
    return {
        name: _Entry(path, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def check_names(tensors: Tensors, shape: DecoderShape, further: Collection[str], whole: str) -> None:
    """Raise CheckpointError if a tensor of `shape` is missing, or one is there that is neither of it nor in `further`.

    whole: what such a one is no part of, in words.
    """
    expected = shape.weight_shapes
    for name in expected:
        if name not in tensors:
            raise CheckpointError(f"{tensors.folder}: {name} is missing; a {shape.family} of this config.json has it")
    for name in sorted(tensors):
        tied = shape.tied_embeddings and name == "lm_head.weight"
        if not (name in expected or name in further or tied):
            raise CheckpointError(f"{tensors.file(name)}: {name} is not part of {whole}")


def check_weights(tensors: Tensors, shape: DecoderShape) -> None:
    """Raise CheckpointError if the tensors of a checkpoint are not those of `shape`, or no floats; none is loaded."""
    derived = [name for name in tensors if name.endswith("rotary_emb.inv_freq")]
    check_names(tensors, shape, derived, "the model that config.json describes")
    for name, dims in shape.weight_shapes.items():
        if tensors.shape(name) != dims:
            raise CheckpointError(
                f"{tensors.file(name)}: {name} has the shape {tensors.shape(name)}; config.json says {dims}"
            )
        if tensors.dtype(name) not in _FLOATS:
            raise CheckpointError(
                f"{tensors.file(name)}: {name} has dtype {tensors.dtype(name)}; "
                f"supported are {', '.join(sorted(_FLOATS))}"
            )
