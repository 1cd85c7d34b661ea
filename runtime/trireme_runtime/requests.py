"""The tensors of a request to `tensorrt_llm` as one typed, validated value."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contract import invalid
from .engines.base import EngineLimits, Sampling

Tensors = Mapping[str, NDArray[Any]]

#: The name under which a client of `ensemble` knows an engine input, where it is another one.
CLIENT_NAMES = {
    "request_output_len": "max_tokens",
    "runtime_top_k": "top_k",
    "runtime_top_p": "top_p",
    "len_penalty": "length_penalty",
    "streaming": "stream",
    "stop_strings": "stop_words",
    "bad_strings": "bad_words",
}

#: Honoured by the model itself, whatever the engine.
_HONOURED_HERE = frozenset(
    {
        "input_ids",
        "input_lengths",
        "request_output_len",
        "streaming",
        "stop",
        "stream_key",
        "stop_strings",
        "exclude_input_in_output",
        "return_num_input_tokens",
        "return_num_output_tokens",
        # Padding does not occur: sequences are batched without it.
        "pad_id",
    }
)

#: Values that ask for nothing, so that any engine honours them.
_NEUTRAL: dict[str, Callable[[NDArray[Any]], bool]] = {
    "num_return_sequences": lambda v: bool((v == 1).all()),
    "beam_width": lambda v: bool((v == 1).all()),
    "repetition_penalty": lambda v: bool((v == 1).all()),
    "min_tokens": lambda v: bool((v <= 1).all() and (v >= 0).all()),
    "presence_penalty": lambda v: bool((v == 0).all()),
    "frequency_penalty": lambda v: bool((v == 0).all()),
    "len_penalty": lambda v: bool(np.isin(v, (0, 1)).all()),
    "return_log_probs": lambda v: not v.any(),
    "return_context_logits": lambda v: not v.any(),
    "return_generation_logits": lambda v: not v.any(),
    "return_perf_metrics": lambda v: not v.any(),
    "ignore_eos": lambda v: not v.any(),
    "bad_strings": lambda v: not v.size or all(not text for text in v.flat),
    "embedding_bias_words": lambda v: not v.size or all(not text for text in v.flat),
    "decoder_text_input": lambda v: all(not text for text in v.flat),
    "embedding_bias_weights": lambda v: not v.any(),
    "guided_decoding_guide_type": lambda v: all(not text for text in v.flat),
    "guided_decoding_guide": lambda v: all(not text for text in v.flat),
    "stop_words_list": lambda v: not v.size,
    "bad_words_list": lambda v: not v.size,
    "priority": lambda v: not v.any(),
    "deadline_ms": lambda v: not v.any(),
}


@dataclass(frozen=True)
class Defaults:
    """What holds where the client sends nothing."""

    end_id: int | None
    exclude_input_in_output: bool = True


@dataclass(frozen=True)
class GenerationRequest:
    """One generation as the client asked for it."""

    input_ids: tuple[int, ...]
    max_new_tokens: int
    end_id: int | None
    sampling: Sampling
    streaming: bool
    echo: bool
    stop_strings: tuple[str, ...]


def client_name(tensor: str) -> str:
    """The name that the client of `ensemble` knows `tensor` by."""
    return CLIENT_NAMES.get(tensor, tensor)


def check_batch_of_one(name: str, shape: tuple[int, ...]) -> None:
    """Raise Refusal if the leading dimension is not 1."""
    if not shape or shape[0] != 1:
        raise invalid(f"{name}: shape is {list(shape)}; the batch size must be 1")


def decode_text(name: str, value: bytes | str) -> str:
    """The text of a STRING tensor. Raises Refusal for bytes that are no valid UTF-8."""
    if isinstance(value, str):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise invalid(f"{name}: no valid UTF-8 (byte {value[error.start]:#04x} at position {error.start})") from None


class _Reader:
    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors

    def scalar(self, name: str, default: Any = None) -> Any:
        if name not in self._tensors:
            return default
        value = self._tensors[name]
        if value.size != 1:
            raise invalid(f"{client_name(name)}: shape is {list(value.shape)}; one value is needed")
        return value.reshape(-1)[0].item()

    def number(self, name: str, default: float, lowest: float, highest: float = math.inf) -> float:
        value = float(self.scalar(name, default))
        if not math.isfinite(value) or not lowest <= value <= highest:
            limit = f"at least {lowest:g}" if math.isinf(highest) else f"{lowest:g} to {highest:g}"
            raise invalid(f"{client_name(name)} is {value:g}; allowed is {limit}")
        return value

    def integer(self, name: str, default: int, lowest: int) -> int:
        value = int(self.scalar(name, default))
        if value < lowest:
            raise invalid(f"{client_name(name)} is {value}; at least {lowest} is needed")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        values = self._tensors.get(name)
        if values is None:
            return ()
        return tuple(text for value in values.reshape(-1) if (text := decode_text(client_name(name), value)))


def _shown(values: NDArray[Any]) -> str:
    """A short form of a tensor's value: itself if it is one, its shape otherwise."""
    if values.size != 1:
        return f"(shape {list(values.shape)})"
    value = values.flat[0]
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return repr(text[:40]) if isinstance(value, bytes) else text


def refuse_unsupported(tensors: Tensors, honoured: frozenset[str], engine: str) -> None:
    """Raise Refusal naming the first tensor that neither `engine` nor the model around it can honour."""
    for name in sorted(tensors.keys() - honoured - _HONOURED_HERE):
        neutral = _NEUTRAL.get(name)
        if neutral is None or not neutral(tensors[name]):
            raise invalid(f"{client_name(name)} {_shown(tensors[name])} is not supported by the engine {engine}")


def _sampling(read: _Reader) -> Sampling:
    temperature = read.number("temperature", math.nan, 0.0) if read.scalar("temperature") is not None else None
    top_k = read.integer("runtime_top_k", 0, 0)
    top_p = read.number("runtime_top_p", 0.0, 0.0, 1.0)
    chosen = temperature is not None or top_k > 1 or top_p > 0
    greedy = not chosen or temperature == 0 or top_k == 1
    seed = read.scalar("seed")
    return Sampling(
        temperature=0.0 if greedy else 1.0 if temperature is None else temperature,
        top_k=top_k,
        top_p=top_p or 1.0,
        seed=None if seed is None else int(seed),
        repetition_penalty=read.number("repetition_penalty", 1.0, 0.001),
        presence_penalty=read.number("presence_penalty", 0.0, -2.0, 2.0),
        frequency_penalty=read.number("frequency_penalty", 0.0, -2.0, 2.0),
        min_tokens=read.integer("min_tokens", 0, 0),
    )


def _input_ids(tensors: Tensors, read: _Reader) -> tuple[int, ...]:
    if "input_ids" not in tensors:
        raise invalid("input_ids: missing")
    ids = tensors["input_ids"]
    check_batch_of_one("input_ids", ids.shape)
    length = read.scalar("input_lengths", ids.size)
    if length != ids.size:
        raise invalid(f"input_lengths is {length}; input_ids holds {ids.size}")
    return tuple(ids.reshape(-1).tolist())


def parse_generation(
    tensors: Tensors, defaults: Defaults, limits: EngineLimits, honoured: frozenset[str], engine: str
) -> GenerationRequest:
    """Read the tensors of a generation; each comes with the batch dimension.

    Greedy unless a temperature above 0, top_k above 1 or top_p above 0 is given; temperature 0 and top_k 1 are greedy
    whatever else is. max_tokens is cut to what the context leaves. Raises Refusal (INVALID_ARGUMENT) naming the tensor,
    the value and the limit.
    """
    refuse_unsupported(tensors, honoured, engine)
    read = _Reader(tensors)
    ids = _input_ids(tensors, read)
    if "request_output_len" not in tensors:
        raise invalid("max_tokens: missing; it is required")
    max_new_tokens = read.integer("request_output_len", 1, 1)
    room = limits.max_context_tokens - len(ids)
    if room < 1:
        raise invalid(
            f"the prompt has {len(ids)} tokens; the model's context of {limits.max_context_tokens} tokens "
            f"leaves room for at most {limits.max_context_tokens - 1}"
        )
    sampling = _sampling(read)
    if sampling.min_tokens > max_new_tokens:
        raise invalid(f"min_tokens is {sampling.min_tokens}; at most max_tokens, {max_new_tokens}, is allowed")
    end_id = read.scalar("end_id", defaults.end_id)
    return GenerationRequest(
        input_ids=ids,
        max_new_tokens=min(max_new_tokens, room),
        end_id=None if end_id in (None, -1) or read.scalar("ignore_eos", False) else int(end_id),
        sampling=replace(sampling, min_tokens=min(sampling.min_tokens, room)),
        streaming=bool(read.scalar("streaming", False)),
        echo=not read.scalar("exclude_input_in_output", defaults.exclude_input_in_output),
        stop_strings=read.texts("stop_strings"),
    )
