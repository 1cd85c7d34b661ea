"""TensorRT-LLM checkpoints, as trtllm-build reads them: a config.json and a rankN.safetensors for each rank.

A rank holds a share of the rows of the matrices that come in first (queries, keys and values joined as `qkv`, `fc` the
gate and `gate` the up projection), of the columns of those that come after them (`dense`, `proj`), and of the
vocabulary. Beside `NAME.weight` stand its scales, as modelopt 0.47.0 writes them:

- FP8: weight F8_E4M3 [out, in], weights_scaling_factor F32 [1]
- NVFP4: weight U8 [out, in / 2], weights_scaling_factor F8_E4M3 [out, in / 16], weights_scaling_factor_2 F32 []
- W4A16_AWQ: weight I8 [out / 2, in], weights_scaling_factor [out, in / group], prequant_scaling_factor [in]
- W8A8_SQ_PER_CHANNEL: weight I8 [out, in], weights_scaling_factor F32 [out], prequant_scaling_factor [in]
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checkpoint import DecoderShape, Tensors, read_config
from .errors import CheckpointError
from .exported import ALGORITHMS
from .matrices import Codes, Matrix, WeightFormat, two_rows_of_a_byte, unpacked

#: What TensorRT-LLM calls the parts of a layer; q, k and v are rows of one matrix.
_PARTS = {"o_proj": "dense", "gate_proj": "fc", "up_proj": "gate", "down_proj": "proj"}
_NORMS = {
    "input_layernorm": "input_layernorm",
    "post_attention_layernorm": "post_layernorm",
    "self_attn.q_norm": "attention.q_layernorm",
    "self_attn.k_norm": "attention.k_layernorm",
}
#: Those of which a rank has a share of the columns.
_BY_COLUMNS = ("o_proj", "down_proj")


class TensorRtLlmWeights:
    """The weights of such a checkpoint, its ranks put together; implements `exported.Weights`.

    Raises CheckpointError if it is not that of `shape`: another dimension, other rotary embeddings, a rank or a tensor
    missing, or one of another type or shape.
    """

    def __init__(self, folder: Path, shape: DecoderShape) -> None:
        self._folder = folder
        self._shape = shape
        config = read_config(folder)
        self._check_config(config)
        self.algorithm: str | None = config.get("quantization", {}).get("quant_algo")
        if self.algorithm is not None and self.algorithm not in ALGORITHMS:
            raise self._error(f"quant_algo is {self.algorithm!r}; known are {', '.join(ALGORITHMS)}")
        self.world_size = int(config["mapping"]["world_size"])
        found = sorted(path.name for path in folder.glob("*.safetensors"))
        wanted = [f"rank{rank}.safetensors" for rank in range(self.world_size)]
        if found != sorted(wanted):
            raise CheckpointError(f"{folder}: holds {', '.join(found) or 'no ranks'}; config.json says {wanted}")
        self._ranks = [Tensors(folder, [folder / name]) for name in wanted]
        for name in shape.weight_shapes:
            self._check_tensor(name)

    def _error(self, words: str) -> CheckpointError:
        return CheckpointError(f"{self._folder / 'config.json'}: {words}")

    def _check_config(self, config: dict[str, Any]) -> None:
        shape = self._shape
        expected = {
            "vocab_size": shape.vocab_size,
            "hidden_size": shape.hidden_size,
            "intermediate_size": shape.intermediate_size,
            "num_hidden_layers": shape.num_layers,
            "num_attention_heads": shape.num_heads,
            "num_key_value_heads": shape.num_kv_heads,
            "head_size": shape.head_dim,
            "norm_epsilon": shape.rms_norm_eps,
            "rotary_base": shape.rope.theta,
            "position_embedding_type": "rope_gpt_neox",
        }
        for key, value in expected.items():
            if config.get(key) != value:
                raise self._error(f"{key} is {config.get(key)!r}, and the source's is {value!r}")
        scaling = dict(config.get("rotary_scaling") or {})
        kinds = {scaling.pop(key) for key in ("rope_type", "type") if key in scaling} or {"default"}
        if kinds != {shape.rope.kind} or scaling != dict(shape.rope.parameters):
            raise self._error(
                f"rotary_scaling is {config.get('rotary_scaling')}, and the source has "
                f"{shape.rope.kind} {dict(shape.rope.parameters)}"
            )

    def _check_tensor(self, name: str) -> None:
        """Types and shapes, of every rank; nothing is read."""
        matrix, _, kind = name.rpartition(".")
        dims = self._shape.weight_shapes[name]
        if kind == "bias" or len(dims) == 1:
            for rank in self._ranks:
                self._expect(rank, self._renamed(name), None, ("BF16", "F16", "F32"))
            return
        for rank in self._ranks:
            target = self._renamed(matrix)
            rows, columns = self._share(matrix, dims)
            if matrix not in self._shape.linear_layers or self.algorithm is None:
                self._expect(rank, f"{target}.weight", [rows, columns], ("BF16", "F16", "F32"))
                continue
            stored = {
                "FP8": ([rows, columns], "F8_E4M3"),
                "NVFP4": ([rows, columns // 2], "U8"),
                "W4A16_AWQ": ([rows // 2, columns], "I8"),
                "W8A8_SQ_PER_CHANNEL": ([rows, columns], "I8"),
            }[self.algorithm]
            self._expect(rank, f"{target}.weight", stored[0], (stored[1],))
            self._expect(rank, f"{target}.weights_scaling_factor", None, ("F32", "F8_E4M3", "BF16", "F16"))

    def _share(self, name: str, dims: list[int]) -> tuple[int, int]:
        rows, columns = dims
        if name.endswith(_BY_COLUMNS):
            return rows, columns // self.world_size
        if name.endswith(("q_proj", "k_proj", "v_proj")):
            rows = (self._shape.num_heads + 2 * self._shape.num_kv_heads) * self._shape.head_dim
        return rows // self.world_size, columns

    def _expect(self, rank: Tensors, name: str, dims: list[int] | None, dtypes: tuple[str, ...]) -> None:
        if name not in rank:
            raise CheckpointError(f"{self._folder}: {name} is missing in a rank; a {self._shape.family} has it")
        if rank.dtype(name) not in dtypes or (dims is not None and rank.shape(name) != dims):
            raise CheckpointError(
                f"{rank.file(name)}: {name} is {rank.dtype(name)} {rank.shape(name)}; expected is "
                f"{' or '.join(dtypes)}{'' if dims is None else f' {dims}'}"
            )

    def _renamed(self, name: str) -> str:
        """The name in a rank of a tensor (with .weight or .bias) or of a matrix (without)."""
        stem, _, end = name.rpartition(".")
        if end in ("weight", "bias"):
            return f"{self._renamed(stem)}.{end}"
        top = {"model.embed_tokens": "vocab_embedding", "model.norm": "ln_f"}
        if name == "lm_head":
            return name
        if name in top:
            return f"transformer.{top[name]}"
        _, _, layer, part = name.split(".", 3)
        block, _, last = part.partition(".")
        if part in _NORMS:
            inside = _NORMS[part]
        elif last in _PARTS:
            inside = f"{'attention' if block == 'self_attn' else 'mlp'}.{_PARTS[last]}"
        else:
            inside = "attention.qkv"
        return f"transformer.layers.{layer}.{inside}"

    def vector(self, name: str) -> NDArray[np.float32]:
        """See `exported.Weights`."""
        renamed = self._renamed(name)
        parts = [rank[renamed] for rank in self._ranks]
        if not renamed.endswith("qkv.bias"):
            if name.endswith(".bias") and not name.removesuffix(".bias").endswith(_BY_COLUMNS):
                return np.concatenate(parts)
            return parts[0]
        return np.concatenate([self._part_of_qkv(part, name.removesuffix(".bias")) for part in parts])

    def matrix(self, name: str, weight_format: WeightFormat) -> Matrix:
        """See `exported.Weights`; multiplied out to float32, whatever the format."""
        parts = [self._values(rank, self._renamed(name), name in self._shape.linear_layers) for rank in self._ranks]
        if name.endswith(("q_proj", "k_proj", "v_proj")):
            parts = [self._part_of_qkv(part, name) for part in parts]
        return Matrix(Codes.F32, np.concatenate(parts, axis=int(name.endswith(_BY_COLUMNS)))[:, np.newaxis])

    def _part_of_qkv(self, joined: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        """The rows of one rank's queries, keys or values."""
        queries = self._shape.num_heads * self._shape.head_dim // self.world_size
        keys = self._shape.num_kv_heads * self._shape.head_dim // self.world_size
        first = {"q_proj": 0, "k_proj": queries, "v_proj": queries + keys}[name.rpartition(".")[2]]
        return joined[first : first + (queries if name.endswith("q_proj") else keys)]

    def _values(self, rank: Tensors, name: str, quantized: bool) -> NDArray[np.float32]:
        """float32 [out, in] of one rank: codes times scales, and times what the input is multiplied with before."""
        if not quantized or self.algorithm is None:
            return rank[f"{name}.weight"]
        codes = np.asarray(rank.stored(f"{name}.weight"))
        scales = np.asarray(rank.stored(f"{name}.weights_scaling_factor")).astype(np.float32)
        kind = Codes.F8E4M3 if self.algorithm == "FP8" else Codes.INT8
        if self.algorithm == "NVFP4":
            kind, codes = Codes.F4E2M1, unpacked(codes)
            scales = scales * rank[f"{name}.weights_scaling_factor_2"]
        elif self.algorithm == "W4A16_AWQ":
            kind, codes = Codes.INT4, two_rows_of_a_byte(codes)
        groups = scales.shape[1] if scales.ndim == 2 else 1
        factors = rank.get(f"{name}.prequant_scaling_factor")
        grouped = codes.reshape(codes.shape[0], groups, -1)
        return Matrix(kind, grouped, scales.reshape(-1, groups, 1), factors).values()
