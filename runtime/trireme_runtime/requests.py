"""The tensors of a request to `tensorrt_llm` as one typed, validated value."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .admission import HIGHEST_PRIORITY, LOWEST_PRIORITY
from .contract import invalid
from .engines.base import EngineLimits, Guide, GuideKind, Sampling

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
        "stop_words_list",
        "exclude_input_in_output",
        "num_return_sequences",
        "return_num_input_tokens",
        "return_num_output_tokens",
        "return_finish_reason",
        "return_stop_reason",
        # Padding does not occur: sequences are batched without it.
        "pad_id",
        "priority",
        "deadline_ms",
    }
)

#: Values that ask for nothing, so that any engine honours them.
_NEUTRAL: dict[str, Callable[[NDArray[Any]], bool]] = {
    "beam_width": lambda v: bool((v == 1).all()),
    "repetition_penalty": lambda v: bool((v == 1).all()),
    "min_tokens": lambda v: bool((v <= 1).all() and (v >= 0).all()),
    "presence_penalty": lambda v: bool((v == 0).all()),
    "frequency_penalty": lambda v: bool((v == 0).all()),
    "len_penalty": lambda v: bool(np.isin(v, (0, 1)).all()),
    "best_of": lambda v: bool((v == 1).all()),
    "return_log_probs": lambda v: not v.any(),
    "return_context_logits": lambda v: not v.any(),
    "return_generation_logits": lambda v: not v.any(),
    "return_perf_metrics": lambda v: not v.any(),
    "ignore_eos": lambda v: not v.any(),
    "bad_strings": lambda v: not v.size or all(not text for text in v.flat),
    "embedding_bias_words": lambda v: not v.size or all(not text for text in v.flat),
    "decoder_text_input": lambda v: all(not text for text in v.flat),
    "embedding_bias_weights": lambda v: not v.any(),
    "embedding_bias": lambda v: not v.any(),
    "guided_decoding_guide_type": lambda v: all(not text for text in v.flat),
    "guided_decoding_guide": lambda v: all(not text for text in v.flat),
    "bad_words_list": lambda v: not v.size,
}


@dataclass(frozen=True)
class SamplingDefaults:
    """How ids are chosen where the client sends nothing; None: as the contract says."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None

    def given(self) -> dict[str, float]:
        """Those that there are, by the client's name of the tensor."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Defaults:
    """What holds where the client sends nothing."""

    end_id: int | None
    exclude_input_in_output: bool = True
    sampling: SamplingDefaults = SamplingDefaults()


#: Texts of token ids, for the lists of words that come as ids.
Decode = Callable[[list[int]], str]

#: How many stop or bad words are taken, and how many characters in all.
MAX_WORDS = 1024
MAX_WORD_CHARACTERS = 16_384

#: The longest guide that is taken, in bytes of UTF-8.
MAX_GUIDE_BYTES = 65_536


@dataclass(frozen=True)
class GenerationRequest:
    """One generation as the client asked for it.

    num_sequences: how many answers are returned; of a beam search, the best ones. log_probs and perf_metrics: whether
    they are asked for.
    """

    input_ids: tuple[int, ...]
    max_new_tokens: int
    end_id: int | None
    sampling: Sampling
    streaming: bool
    echo: bool
    stop_strings: tuple[str, ...] = ()
    bad_strings: tuple[str, ...] = ()
    guide: Guide | None = None
    num_sequences: int = 1
    log_probs: bool = False
    perf_metrics: bool = False
    priority: int = 0
    deadline_ms: int = 0

    @property
    def tokens(self) -> int:
        """The most that it can take of the KV cache, in tokens: its prompt, and all that each sequence may add."""
        return len(self.input_ids) + max(self.num_sequences, self.sampling.beam_width) * self.max_new_tokens


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

    def word_lists(self, name: str, decode: Decode) -> tuple[str, ...]:
        """The texts of a list of words as INT32 [1, 2, n]: ids, and where each word ends among them, padded with -1."""
        values = self._tensors.get(name)
        if values is None or not values.size:
            return ()
        ids, ends = values.reshape(2, -1).tolist()
        words = []
        start = 0
        for end in (end for end in ends if end > 0):
            if not start < end <= len(ids):
                raise invalid(f"{name}: {end} is no end of a word that begins at {start}, of {len(ids)} ids")
            words.append(decode(ids[start:end]))
            start = end
        if bad := next((word for word in words if not word or "\ufffd" in word), None):
            raise invalid(f"{name}: the ids of {bad!r} are no whole characters")
        return tuple(filter(None, words))


def _shown(values: NDArray[Any]) -> str:
    """A short form of a tensor's value: itself if it is one, its shape otherwise."""
    if values.size != 1:
        return f"(shape {list(values.shape)})"
    value = values.flat[0]
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return repr(text[:40]) if isinstance(value, bytes) else text


class Treatment(str, Enum):
    """What becomes of an input."""

    HONOURED = "honoured"
    NEUTRAL_ONLY = "refused, unless its value asks for nothing"
    REFUSED = "refused"


def treatment(tensor: str, honoured: frozenset[str]) -> Treatment:
    """What becomes of the input `tensor` of `tensorrt_llm` with an engine that honours `honoured`."""
    if tensor in honoured or tensor in _HONOURED_HERE:
        return Treatment.HONOURED
    return Treatment.NEUTRAL_ONLY if tensor in _NEUTRAL else Treatment.REFUSED


def refuse_unsupported(tensors: Tensors, honoured: frozenset[str], engine: str) -> None:
    """Raise Refusal naming the first tensor that neither `engine` nor the model around it can honour."""
    for name in sorted(tensors.keys() - honoured - _HONOURED_HERE):
        neutral = _NEUTRAL.get(name)
        if neutral is None or not neutral(tensors[name]):
            raise invalid(f"{client_name(name)} {_shown(tensors[name])} is not supported by the engine {engine}")


def check_sampling_defaults(defaults: SamplingDefaults, honoured: frozenset[str], engine: str) -> None:
    """Raise ValueError naming the first default that the engine would not honour: no request is refused for one."""
    tensors = {name: tensor for tensor, name in CLIENT_NAMES.items()}
    for name, value in defaults.given().items():
        tensor = tensors.get(name, name)
        neutral = _NEUTRAL.get(tensor)
        if tensor not in honoured and (neutral is None or not neutral(np.array(value))):
            raise ValueError(
                f"parameter 'default_{name}' has the value '{value:g}'; the engine {engine} does not honour it"
            )


def _sampling(read: _Reader, defaults: SamplingDefaults) -> Sampling:
    beam_width = read.integer("beam_width", 1, 1)
    if beam_width > 1:
        # A beam search goes together with none of them.
        defaults = SamplingDefaults()
    temperature = defaults.temperature
    if read.scalar("temperature") is not None:
        temperature = read.number("temperature", math.nan, 0.0)
    top_k = read.integer("runtime_top_k", defaults.top_k or 0, 0)
    top_p = read.number("runtime_top_p", defaults.top_p or 0.0, 0.0, 1.0)
    chosen = temperature is not None or top_k > 1 or top_p > 0
    # What clients of a beam search send along: it asks for nothing.
    neutral = beam_width > 1 and temperature == 1 and top_k == 0 and top_p in (0, 1)
    greedy = not chosen or temperature == 0 or top_k == 1 or neutral
    seed = read.scalar("seed")

    def penalty(name: str, default: float | None, neutral: float, lowest: float, highest: float = math.inf) -> float:
        return read.number(name, neutral if default is None else default, lowest, highest)

    return Sampling(
        temperature=0.0 if greedy else 1.0 if temperature is None else temperature,
        top_k=top_k,
        top_p=top_p or 1.0,
        seed=None if seed is None else int(seed),
        repetition_penalty=penalty("repetition_penalty", defaults.repetition_penalty, 1.0, 0.001),
        presence_penalty=penalty("presence_penalty", defaults.presence_penalty, 0.0, -2.0, 2.0),
        frequency_penalty=penalty("frequency_penalty", defaults.frequency_penalty, 0.0, -2.0, 2.0),
        min_tokens=read.integer("min_tokens", 0, 0),
        beam_width=beam_width,
        length_penalty=read.number("len_penalty", 1.0, -100.0, 100.0),
    )


def _guide(read: _Reader, end_id: int | None, default_end_id: int | None, sampling: Sampling) -> Guide | None:
    """The guide of a request. Raises Refusal also for what cannot go together with one."""
    kinds, guides = read.texts("guided_decoding_guide_type"), read.texts("guided_decoding_guide")
    if not kinds:
        if guides:
            raise invalid("guided_decoding_guide is given without guided_decoding_guide_type")
        return None
    allowed = [kind.value for kind in GuideKind]
    if kinds[0] not in allowed:
        raise invalid(f"guided_decoding_guide_type is {kinds[0][:40]!r}; allowed are {', '.join(allowed)}")
    kind = GuideKind(kinds[0])
    if not guides and kind is not GuideKind.JSON:
        raise invalid(f"guided_decoding_guide: missing; {kind.value} needs one")
    size = len(guides[0].encode("utf-8")) if guides else 0
    if size > MAX_GUIDE_BYTES:
        raise invalid(f"guided_decoding_guide has {size} bytes; at most {MAX_GUIDE_BYTES} are allowed")
    if end_id != default_end_id or end_id is None:
        raise invalid(f"end_id is {-1 if end_id is None else end_id}; guided decoding ends with {default_end_id} only")
    if sampling.min_tokens > 1:
        raise invalid(f"min_tokens is {sampling.min_tokens}; with guided decoding at most 1 is allowed")
    if kind is GuideKind.JSON:
        if guides:
            raise invalid("guided_decoding_guide: json takes none; json_schema takes a schema")
        return Guide(kind)
    return Guide(kind, guides[0])


def _input_ids(tensors: Tensors, read: _Reader) -> tuple[int, ...]:
    if "input_ids" not in tensors:
        raise invalid("input_ids: missing")
    ids = tensors["input_ids"]
    check_batch_of_one("input_ids", ids.shape)
    length = read.scalar("input_lengths", ids.size)
    if length != ids.size:
        raise invalid(f"input_lengths is {length}; input_ids holds {ids.size}")
    return tuple(ids.reshape(-1).tolist())


def _check_together(request: GenerationRequest, limits: EngineLimits) -> None:
    """Raise Refusal for what each is allowed and cannot be had together."""
    beams = request.sampling.beam_width
    if max(beams, request.num_sequences) > limits.max_num_seqs:
        name, value = ("beam_width", beams) if beams > 1 else ("num_return_sequences", request.num_sequences)
        raise invalid(f"{name} is {value}; at most {limits.max_num_seqs} is allowed")
    if request.guide is not None and request.bad_strings:
        raise invalid("bad_words and guided_decoding_guide are both given; send one of them")
    if beams == 1:
        return
    if request.num_sequences > beams:
        raise invalid(f"num_return_sequences is {request.num_sequences}; at most beam_width, {beams}, is allowed")
    if request.sampling.temperature > 0:
        raise invalid(f"beam_width is {beams}; a beam search cannot be sampled: leave out temperature, top_k and top_p")
    sampling = request.sampling
    excluded = {
        "bad_words": bool(request.bad_strings),
        "guided_decoding_guide": request.guide is not None,
        "min_tokens": sampling.min_tokens > 1,
        "ignore_eos, or end_id -1,": request.end_id is None,
        "repetition_penalty": sampling.repetition_penalty != 1,
        "presence_penalty": sampling.presence_penalty != 0,
        "frequency_penalty": sampling.frequency_penalty != 0,
    }
    for name, given in excluded.items():
        if given:
            raise invalid(f"beam_width is {beams}; {name} cannot be combined with a beam search")


def _words(read: _Reader, texts_name: str, ids_name: str, decode: Decode) -> tuple[str, ...]:
    """Words that come as texts and as ids. Raises Refusal for more than can be searched for beside other requests."""
    words = (*read.texts(texts_name), *read.word_lists(ids_name, decode))
    characters = sum(map(len, words))
    if len(words) > MAX_WORDS or characters > MAX_WORD_CHARACTERS:
        raise invalid(
            f"{client_name(texts_name)} has {len(words)} texts of {characters} characters in all; "
            f"at most {MAX_WORDS} and {MAX_WORD_CHARACTERS} are allowed"
        )
    return words


def parse_generation(
    tensors: Tensors,
    defaults: Defaults,
    limits: EngineLimits,
    honoured: frozenset[str],
    engine: str,
    decode: Decode = lambda _: "",
) -> GenerationRequest:
    """Read the tensors of a generation; each comes with the batch dimension.

    Greedy unless a temperature above 0, top_k above 1 or top_p above 0 is given, or is the default; temperature 0 and
    top_k 1 are greedy whatever else is. A beam search takes no defaults of sampling. max_tokens is cut to what the
    context leaves. Raises Refusal (INVALID_ARGUMENT) naming the tensor, the value and the limit.
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
    sampling = _sampling(read, defaults.sampling)
    if sampling.min_tokens > max_new_tokens:
        raise invalid(f"min_tokens is {sampling.min_tokens}; at most max_tokens, {max_new_tokens}, is allowed")
    given = read.scalar("end_id", defaults.end_id)
    end_id = None if given in (None, -1) or read.scalar("ignore_eos", False) else int(given)
    request = GenerationRequest(
        input_ids=ids,
        max_new_tokens=min(max_new_tokens, room),
        end_id=end_id,
        sampling=replace(sampling, min_tokens=min(sampling.min_tokens, room)),
        streaming=bool(read.scalar("streaming", False)),
        echo=not read.scalar("exclude_input_in_output", defaults.exclude_input_in_output),
        stop_strings=_words(read, "stop_strings", "stop_words_list", decode),
        bad_strings=_words(read, "bad_strings", "bad_words_list", decode),
        guide=_guide(read, end_id, defaults.end_id, sampling),
        num_sequences=read.integer("num_return_sequences", sampling.beam_width, 1),
        log_probs=bool(read.scalar("return_log_probs", False)),
        perf_metrics=bool(read.scalar("return_perf_metrics", False)),
        priority=int(read.number("priority", 0, LOWEST_PRIORITY, HIGHEST_PRIORITY)),
        deadline_ms=read.integer("deadline_ms", 0, 0),
    )
    _check_together(request, limits)
    return request
