"""What the files of an engine's version say of it, whatever engine it is for. Nothing of it is loaded."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trireme_runtime.engines.tensorrt_llm_folder import EngineFolder, EngineFolderError, read_engine_folder
from trireme_runtime.manifest import ManifestError, read_manifest

from ..errors import OperatorError
from ..layout import DEFAULT_ENGINE, engine_of

#: The engines that compute on a GPU.
GPU_ENGINES = ("tensorrt_llm", "tensorrt_llm_engine")

#: Bytes of a number, by what a config.json calls its type, or by the format of a KV cache that is quantized.
_BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "FP8": 1.0, "INT8": 1.0, "NVFP4": 0.5625}

#: Bytes of a parameter in an engine that is still to be made, by a WeightFormat; those of codes have their scales.
_BYTES_OF_WEIGHTS = {"f32": 4.0, "int8": 1.1, "int4": 0.6}

_SPECIAL = ("bos", "eos", "pad")


@dataclass(frozen=True)
class EngineFacts:
    """path: the config.json that says it. special: "bos", "eos" and "pad" -> the ids that it names, none or several.

    kv_bytes_per_token: of the KV cache, every layer. weight_bytes: of the files that hold the weights. widest: the
    numbers of the widest layer for one token. built: of an engine folder of TensorRT-LLM.
    """

    engine: str
    path: Path
    vocab_size: int
    context_tokens: int
    special: Mapping[str, frozenset[int]]
    kv_bytes_per_token: float
    weight_bytes: int
    widest: int
    built: EngineFolder | None = None

    @property
    def is_on_gpu(self) -> bool:
        """Whether weights and KV cache are in the memory of a GPU."""
        return self.engine in GPU_ENGINES

    @property
    def block_tokens(self) -> int:
        """Tokens in one block of the paged KV cache."""
        return self.built.tokens_per_block if self.built else 32


def read_facts(version: Path, root: Path, engine_dir: str = "engine", sm: int | None = None) -> EngineFacts:
    """The facts of a version. sm: the GPU's compute capability, 90 for 9.0, if an engine is to be judged by it.

    Of a version whose engine is still to be made from a checkpoint, those of the checkpoint. Raises OperatorError
    naming the file, the key and the value.
    """
    try:
        engine = engine_of(version)
        source = read_manifest(version).get("source")
        weights = str(read_manifest(version).get("weights", "f32"))
        folder = version / engine_dir
        if engine == "tensorrt_llm_engine":
            return _of_engine_folder(folder, sm)
        if folder.is_dir() or not source or engine != DEFAULT_ENGINE:
            return _of_checkpoint(engine, folder, _file_bytes(folder))
        checkpoint = root / source["checkpoint"]
        return _of_checkpoint(engine, checkpoint, _bytes_to_be(checkpoint, weights))
    except (EngineFolderError, ManifestError) as error:
        raise OperatorError(str(error)) from error


def _of_checkpoint(engine: str, folder: Path, weight_bytes: int) -> EngineFacts:
    """Of a folder with a config.json as Hugging Face has it; the null engine's says less."""
    config = _Config(folder / "config.json")
    generation = _Config(folder / "generation_config.json", missing_is_empty=True)
    kv = config.kv_values_per_token() if "num_hidden_layers" in config.values else 0
    return EngineFacts(
        engine,
        config.path,
        vocab_size=config.whole("vocab_size"),
        context_tokens=config.whole("max_position_embeddings"),
        special={name: config.ids(f"{name}_token_id") | generation.ids(f"{name}_token_id") for name in _SPECIAL},
        kv_bytes_per_token=kv * _kv_bytes(engine, folder, config),
        weight_bytes=weight_bytes,
        widest=config.whole("intermediate_size", 0),
    )


def _kv_bytes(engine: str, folder: Path, config: "_Config") -> float:
    if engine == DEFAULT_ENGINE:
        return _BYTES["float32"]
    quantized = _Config(folder / "hf_quant_config.json", missing_is_empty=True).values.get("quantization", {})
    kind = quantized.get("kv_cache_quant_algo") if isinstance(quantized, dict) else None
    dtype = config.values.get("dtype") or config.values.get("torch_dtype")
    return _BYTES.get(str(kind), _BYTES.get(str(dtype), 2.0))


def _of_engine_folder(folder: Path, sm: int | None) -> EngineFacts:
    built = read_engine_folder(folder, sm)
    model = _Config(folder / "config.json", inside="pretrained_config")
    return EngineFacts(
        "tensorrt_llm_engine",
        model.path,
        vocab_size=built.vocab_size,
        context_tokens=built.max_seq_len,
        special=dict.fromkeys(_SPECIAL, frozenset()),
        kv_bytes_per_token=model.kv_values_per_token() * _BYTES[built.kv_cache_quant_algo or built.dtype],
        weight_bytes=sum(path.stat().st_size for path in folder.glob("rank*.engine")),
        widest=model.whole("intermediate_size", 0),
        built=built,
    )


class _Config:
    """An object in a JSON file; every failure names the file and the key."""

    def __init__(self, path: Path, inside: str | None = None, missing_is_empty: bool = False) -> None:
        self.path = path
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            self.values: dict[str, Any] = dict(values[inside] if inside else values)
        except FileNotFoundError:
            if not missing_is_empty:
                raise OperatorError(f"{path}: missing") from None
            self.values = {}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise OperatorError(f"{path}: cannot be read: {error}") from error

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or value < 1:
            raise OperatorError(f"{self.path}: {key} is {value!r}; a whole number above 0 is needed")
        return value

    def ids(self, key: str) -> frozenset[int]:
        value = self.values.get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(one) is int for one in ids):
            raise OperatorError(f"{self.path}: {key} is {value!r}; an id, or a list of ids, is needed")
        return frozenset(ids)

    def kv_values_per_token(self) -> int:
        """Keys and values of every layer."""
        heads = self.whole("num_attention_heads")
        head_dim = self.whole("head_dim", self.whole("head_size", max(1, self.whole("hidden_size") // heads)))
        return 2 * self.whole("num_hidden_layers") * self.whole("num_key_value_heads", heads) * head_dim


def _file_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for kind in ("*.bin", "*.safetensors") for path in folder.glob(kind))


def _bytes_to_be(checkpoint: Path, weights: str) -> int:
    from trireme_build.checkpoint import DecoderShape, read_config
    from trireme_build.errors import CheckpointError

    try:
        shapes = DecoderShape.from_config(read_config(checkpoint)).weight_shapes
    except CheckpointError as error:
        raise OperatorError(f"{checkpoint}: its engine cannot be made: {error}") from error
    return round(sum(map(math.prod, shapes.values())) * _BYTES_OF_WEIGHTS.get(weights, 4.0))
