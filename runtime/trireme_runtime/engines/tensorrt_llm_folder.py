"""A folder that `trtllm-build` wrote (TensorRT-LLM up to 1.2), judged by its files alone: nothing of it is loaded.

It holds config.json, an object of version, pretrained_config and build_config (`EngineConfig.to_dict` in upstream's
tensorrt_llm/builder.py), and one plan for each rank, rank0.engine and so on.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The newest TensorRT-LLM that has engines, as (major, minor).
NEWEST = (1, 2)

#: In PretrainedConfig.dtype.
DTYPES = ("float16", "bfloat16", "float32")

#: The members of `QuantAlgo`, upstream's tensorrt_llm/quantization/mode.py, that weights may have (QUANT_ALGO_LIST).
QUANT_ALGOS = (
    "W8A16",
    "W4A16",
    "W4A16_AWQ",
    "W4A8_AWQ",
    "W8A16_GPTQ",
    "W4A16_GPTQ",
    "W8A8_SQ_PER_CHANNEL",
    "W8A8_SQ_PER_TENSOR_PLUGIN",
    "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
    "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN",
    "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN",
    "W4A8_QSERVE_PER_GROUP",
    "W4A8_QSERVE_PER_CHANNEL",
    "FP8",
    "FP8_PER_CHANNEL_PER_TOKEN",
    "FP8_BLOCK_SCALES",
    "MIXED_PRECISION",
    "NVFP4",
    "W4A8_NVFP4_FP8",
    "W4A8_MXFP4_FP8",
    "W4A8_MXFP4_MXFP8",
    "W4A16_MXFP4",
    "NO_QUANT",
)

#: Those that a KV cache may have (KV_CACHE_QUANT_ALGO_LIST in the same file).
KV_CACHE_QUANT_ALGOS = ("FP8", "INT8", "NVFP4")

#: The first compute capabilities, as major * 10 + minor, whose tensor cores take FP8 and NVFP4.
FP8_SM = 89
NVFP4_SM = 100

#: GPUs on which upstream builds no engine with these (`build` in its tensorrt_llm/builder.py).
NO_INTEGERS_SM = range(100, 120)
_INTEGERS = (
    "W8A16",
    "W4A16",
    "W4A16_AWQ",
    "W4A8_AWQ",
    "W8A16_GPTQ",
    "W4A16_GPTQ",
    *(name for name in QUANT_ALGOS if name.startswith("W8A8_SQ_")),
    "FP8_PER_CHANNEL_PER_TOKEN",
    "INT8",
)

_KEYS = {"version", "pretrained_config", "build_config"}
_VERSION = re.compile(r"(\d+)\.(\d+)\.\w[\w.+-]*")
_PLAN = re.compile(r"rank(\d+)\.engine")
_PLAN_MAGIC = b"ftrt"
#: A plan's first bytes: the magic, a zero u32, 16 bytes that are not looked at, and TensorRT's version, a byte a part.
_PLAN_HEAD_BYTES = 28


class EngineFolderError(ValueError):
    """An engine folder that cannot be used; the message names the file, the key, the value and the limit."""


@dataclass(frozen=True)
class EngineFolder:
    """What a checked engine folder says of itself.

    world_size: how many GPUs it was built for. quant_algo, kv_cache_quant_algo: None where nothing is quantized.
    max_input_len and max_seq_len: tokens of a prompt, and of a prompt with its answer. max_num_tokens: tokens in one
    step. paged_context_fmha: whether prompts can be computed in chunks, and the blocks of equal prefixes be shared.
    """

    tensorrt_llm_version: str
    tensorrt_version: str
    world_size: int
    dtype: str
    quant_algo: str | None
    kv_cache_quant_algo: str | None
    vocab_size: int
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    max_beam_width: int
    tokens_per_block: int
    paged_context_fmha: bool
    size_bytes: int


def unsuitable(quant_algo: str | None, sm: int) -> str | None:
    """Why a GPU of compute capability `sm` cannot compute weights or a KV cache in this format; None where it can."""
    if quant_algo is None:
        return None
    if "NVFP4" in quant_algo and sm < NVFP4_SM:
        return f"it needs SM {NVFP4_SM} or above, and the target is SM {sm}"
    if ("FP8" in quant_algo or quant_algo == "W4A8_AWQ") and sm < FP8_SM:
        return f"it needs SM {FP8_SM} or above, and the target is SM {sm}"
    if quant_algo in _INTEGERS and sm in NO_INTEGERS_SM:
        return f"SM {NO_INTEGERS_SM[0]} to {NO_INTEGERS_SM[-1]} have no engines with it, and the target is SM {sm}"
    return None


class _Reader:
    """One object in config.json; every failure names the file and the key."""

    def __init__(self, path: Path, name: str, values: Any) -> None:
        self._path, self._name, self._values = path, name, values
        if not isinstance(values, dict):
            raise EngineFolderError(f"{path}: {name} is {_shown(values)}; an object is needed")

    def fail(self, key: str, limit: str) -> EngineFolderError:
        place = f"{self._name}.{key}" if self._name else key
        value = f"is {_shown(self._values[key])}" if key in self._values else "is missing"
        return EngineFolderError(f"{self._path}: {place} {value}; {limit}")

    def whole(self, key: str, default: int | None = None) -> int:
        value = self._values.get(key, default)
        if type(value) is not int or value < 1:
            raise self.fail(key, "a whole number above 0 is needed")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._values.get(key, default)
        if type(value) is not bool:
            raise self.fail(key, "true or false is needed")
        return value

    def text(self, key: str) -> str:
        value = self._values.get(key)
        if not isinstance(value, str) or not value:
            raise self.fail(key, "a text that is not empty is needed")
        return value

    def one_of(self, key: str, known: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in known:
            raise self.fail(key, f"known are {', '.join(known)}")
        return value

    def one_of_or_none(self, key: str, known: tuple[str, ...]) -> str | None:
        return None if self._values.get(key) is None else self.one_of(key, known)

    def inner(self, key: str) -> "_Reader":
        place = f"{self._name}.{key}" if self._name else key
        if key not in self._values:
            raise self.fail(key, "an object is needed")
        return _Reader(self._path, place, self._values[key])


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _read_config(path: Path) -> _Reader:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EngineFolderError(f"{path}: missing; trtllm-build writes it") from None
    except (OSError, ValueError) as error:
        raise EngineFolderError(f"{path}: no valid JSON ({error})") from None
    config = _Reader(path, "", values)
    if values.keys() != _KEYS:
        found = ", ".join(sorted(values)) or "none"
        raise EngineFolderError(f"{path}: the keys are {found}; {', '.join(sorted(_KEYS))} are needed, and no other")
    return config


def _check_version(config: _Reader) -> str:
    version = config.text("version")
    match = _VERSION.fullmatch(version)
    if match is None:
        raise config.fail("version", "a version such as 1.2.1 is needed")
    if (int(match[1]), int(match[2])) > NEWEST:
        raise config.fail("version", f"{NEWEST[0]}.{NEWEST[1]} is the newest whose engines are known")
    return version


def _check_plans(folder: Path, world_size: int) -> str:
    """TensorRT's version, which all plans share."""
    found = {int(match[1]): path for path in folder.iterdir() if (match := _PLAN.fullmatch(path.name))}
    others = [path for path in folder.glob("*.engine") if path not in found.values()]
    for path in [*others, *(found[rank] for rank in sorted(found) if rank >= world_size)]:
        raise EngineFolderError(f"{path}: not of this engine; it has the ranks 0 to {world_size - 1}")
    versions = {}
    for rank in range(world_size):
        path = folder / f"rank{rank}.engine"
        if not path.is_file():
            raise EngineFolderError(f"{path}: missing; pretrained_config.mapping asks for {world_size} ranks")
        versions[rank] = _plan_version(path)
    if len(set(versions.values())) > 1:
        told = ", ".join(f"rank {rank} of {version}" for rank, version in versions.items())
        raise EngineFolderError(f"{folder}: the plans are of different versions of TensorRT: {told}")
    return versions[0]


def _plan_version(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(_PLAN_HEAD_BYTES)
    if len(head) < _PLAN_HEAD_BYTES:
        raise EngineFolderError(f"{path}: has {len(head)} bytes; a plan has at least {_PLAN_HEAD_BYTES}")
    if head[:4] != _PLAN_MAGIC:
        raise EngineFolderError(f"{path}: begins with {head[:4]!r}; a TensorRT plan begins with {_PLAN_MAGIC!r}")
    if head[4:8] != bytes(4):
        raise EngineFolderError(f"{path}: bytes 4 to 7 are {head[4:8].hex()}; a TensorRT plan has zeros there")
    return ".".join(str(part) for part in head[24:28])


def read_engine_folder(folder: Path, sm: int | None = None) -> EngineFolder:
    """Check an engine folder, and that a GPU of compute capability `sm` (89 for 8.9), if given, can run it.

    Raises EngineFolderError.
    """
    path = folder / "config.json"
    config = _read_config(path)
    version = _check_version(config)
    model, build = config.inner("pretrained_config"), config.inner("build_config")
    model.text("architecture")
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
        model.whole(key)
    quantization = model.inner("quantization")
    quant_algo = quantization.one_of_or_none("quant_algo", QUANT_ALGOS)
    kv_cache_quant_algo = quantization.one_of_or_none("kv_cache_quant_algo", KV_CACHE_QUANT_ALGOS)
    if sm is not None:
        for key, value in (("quant_algo", quant_algo), ("kv_cache_quant_algo", kv_cache_quant_algo)):
            reason = unsuitable(value, sm)
            if reason is not None:
                raise quantization.fail(key, reason)
    mapping = model.inner("mapping")
    world_size = mapping.whole("tp_size") * mapping.whole("pp_size", 1) * mapping.whole("cp_size", 1)
    max_input_len, max_seq_len = build.whole("max_input_len"), build.whole("max_seq_len")
    if max_input_len > max_seq_len:
        raise build.fail("max_input_len", f"at most max_seq_len, {max_seq_len}, is allowed")
    plugins = build.inner("plugin_config")
    return EngineFolder(
        tensorrt_llm_version=version,
        tensorrt_version=_check_plans(folder, world_size),
        world_size=world_size,
        dtype=model.one_of("dtype", DTYPES),
        quant_algo=quant_algo,
        kv_cache_quant_algo=kv_cache_quant_algo,
        vocab_size=model.whole("vocab_size"),
        max_batch_size=build.whole("max_batch_size"),
        max_input_len=max_input_len,
        max_seq_len=max_seq_len,
        max_num_tokens=build.whole("max_num_tokens"),
        max_beam_width=build.whole("max_beam_width"),
        tokens_per_block=plugins.whole("tokens_per_block", 32),
        paged_context_fmha=plugins.flag("use_paged_context_fmha", True),
        size_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    )
