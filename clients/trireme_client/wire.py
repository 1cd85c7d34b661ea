"""The wire format, shared by both clients: a Generation to protobuf, protobuf to Deltas."""

import json
import re
from collections import defaultdict
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from trireme_runtime.contract import SIGNATURES, token_bytes

from .errors import InvalidArgument, error_from_text
from .types import Answer, Completion, Delta, Generation, Metrics

DEFAULT_URL = "127.0.0.1:8001"
DEFAULT_MODEL = "ensemble"

_DTYPES = {tensor.name: tensor.dtype for tensor in SIGNATURES["ensemble"][0]}
_NUMPY_DTYPES: dict[str, Any] = {
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "UINT64": np.uint64,
    "BOOL": np.bool_,
}


#: Of every channel: an answer may have any length.
CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1)]

#: What a balancer sends the requests of a session to one server by.
SESSION_HEADER = "x-trireme-session"


def metadata_of(generation: Generation) -> tuple[tuple[str, str], ...]:
    """What goes beside a request. Raises InvalidArgument for a session that no header can hold."""
    if generation.session is None:
        return ()
    if not re.fullmatch(r"[!-~]([ -~]{0,198}[!-~])?", generation.session):
        raise InvalidArgument(f"session is {generation.session[:60]!r}; 1 to 200 characters of ASCII are needed")
    return ((SESSION_HEADER, generation.session),)


def unary_model(model: str) -> str:
    """The name of the model that answers ModelInfer for the ensemble `model`."""
    return f"{model}_unary"


def tensors_of(generation: Generation, stream: bool) -> dict[str, list[Any]]:
    """The values of each input of `ensemble` that a generation sets. Raises InvalidArgument for what cannot be sent."""
    messages, kwargs, guide = generation.messages, generation.chat_template_kwargs, generation.guide
    values = {
        "text_input": generation.prompt,
        "messages": None if messages is None else json.dumps(messages, ensure_ascii=False),
        "chat_template_kwargs": None if kwargs is None else json.dumps(kwargs),
        "max_tokens": generation.max_tokens,
        "temperature": generation.temperature,
        "top_k": generation.top_k,
        "top_p": generation.top_p,
        "seed": generation.seed,
        "end_id": generation.end_id,
        "exclude_input_in_output": None if generation.echo is None else not generation.echo,
        "repetition_penalty": generation.repetition_penalty,
        "presence_penalty": generation.presence_penalty,
        "frequency_penalty": generation.frequency_penalty,
        "min_tokens": generation.min_tokens,
        "ignore_eos": generation.ignore_eos,
        "num_return_sequences": generation.n,
        "beam_width": generation.beam_width,
        "length_penalty": generation.length_penalty,
        "guided_decoding_guide_type": None if guide is None else guide.kind,
        "guided_decoding_guide": None if guide is None else guide.text or None,
        "return_log_probs": generation.log_probs,
        "return_perf_metrics": generation.metrics,
        "priority": generation.priority,
        "deadline_ms": generation.deadline_ms,
        "stream": stream or None,
    }
    tensors = {name: [value] for name, value in values.items() if value is not None}
    for name, texts in (("stop_words", generation.stop), ("bad_words", generation.bad_words)):
        if isinstance(texts, str):
            raise InvalidArgument(f"{name} is the text {texts!r}; a list of texts is needed")
        if texts:
            tensors[name] = list(texts)
    for name, further in generation.tensors.items():
        if name not in _DTYPES:
            raise InvalidArgument(f"tensors: {name!r} is no input of the contract")
        if name in tensors:
            raise InvalidArgument(f"tensors: {name!r} is given twice")
        tensors[name] = list(further)
    return tensors


def _numbers(name: str, dtype: str, values: list[Any]) -> Any:
    """Values as an array of the tensor's dtype. Raises InvalidArgument for one that it cannot hold."""
    kind = _NUMPY_DTYPES[dtype]
    if dtype == "BOOL":
        return np.array([values], dtype=kind)
    limits: Any = np.finfo(kind) if dtype.startswith("FP") else np.iinfo(kind)
    for value in values:
        # NaN and infinity are floats of any size; the server refuses them.
        if isinstance(value, int | float) and value - value == 0 and not limits.min <= value <= limits.max:
            raise InvalidArgument(f"{name} is {value}; {dtype} holds {limits.min} to {limits.max}")
    return np.array([values], dtype=kind)


def _utf8(name: str, value: str) -> bytes:
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{name}: {value[error.start]!a} is no character") from None


def request_of(generation: Generation, model: str, stream: bool, request_id: str) -> Any:
    """The ModelInferRequest of a generation. Raises InvalidArgument for what cannot be sent."""
    request = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    for name, values in tensors_of(generation, stream).items():
        dtype = _DTYPES[name]
        if dtype == "STRING":
            array = np.array([[_utf8(name, value) for value in values]], dtype=object)
            raw = serialize_byte_tensor(array).item()
        else:
            array = _numbers(name, dtype, values)
            raw = array.tobytes()
        request.inputs.add(name=name, datatype="BYTES" if dtype == "STRING" else dtype, shape=array.shape)
        request.raw_input_contents.append(raw)
    return request


def _texts(raw: bytes) -> list[str]:
    return [text.decode("utf-8") for text in deserialize_bytes_tensor(raw)]


def _count(raw: dict[str, bytes], name: str) -> int:
    """A count, 0 where it has not come yet."""
    return int.from_bytes(raw.get(name, b""), "little", signed=True)


def _metrics(raw: dict[str, bytes]) -> Metrics | None:
    if "arrival_time_ns" not in raw:
        return None
    values = {name: int.from_bytes(raw[name], "little", signed=True) for name in Metrics.__dataclass_fields__}
    return Metrics(**values)


def deltas_of(inference: Any) -> list[Delta]:
    """The pieces that a ModelInferResponse carries: one of a stream, one of each sequence otherwise, none if empty."""
    raw = dict(zip((tensor.name for tensor in inference.outputs), inference.raw_output_contents, strict=True))
    if "text_output" not in raw:
        return []
    texts = _texts(raw["text_output"])
    # They come with the last response of a sequence only.
    finish_reasons, stop_reasons = (
        _texts(raw[name]) if name in raw else [""] * len(texts) for name in ("finish_reason", "stop_reason")
    )
    first = int.from_bytes(raw.get("sequence_index", b""), "little")
    log_probs: list[Any] = [None] * len(texts)
    tokens: list[Any] = [None] * len(texts)
    cum_log_probs: list[Any] = [None] * len(texts)
    if "output_log_probs" in raw:
        rows = np.frombuffer(raw["output_log_probs"], np.float32).reshape(len(texts), -1)
        lengths = np.frombuffer(raw["sequence_length"], np.int32).tolist()
        prompt = _count(raw, "num_input_tokens")
        # Rows of unequal length are filled up; a prompt that is repeated has no log-probs.
        counts = [length if length <= rows.shape[1] else length - prompt for length in lengths]
        log_probs = [tuple(row[:count].tolist()) for row, count in zip(rows, counts, strict=True)]
        if "output_tokens" in raw:
            every, width = _texts(raw["output_tokens"]), rows.shape[1]
            tokens = [
                tuple(map(token_bytes, every[row * width : row * width + count])) for row, count in enumerate(counts)
            ]
        cum_log_probs = np.frombuffer(raw["cum_log_probs"], np.float32).tolist()
    metrics = _metrics(raw)
    return [
        Delta(
            text=text,
            finish_reason=finish_reasons[row] or None,
            stop_reason=stop_reasons[row] or None,
            num_input_tokens=_count(raw, "num_input_tokens"),
            num_output_tokens=_count(raw, "num_output_tokens"),
            log_probs=log_probs[row],
            tokens=tokens[row],
            cum_log_prob=cum_log_probs[row],
            metrics=metrics,
            index=first + row,
        )
        for row, text in enumerate(texts)
    ]


def sequences_of(request: Any) -> int:
    """How many sequences the answer to a ModelInferRequest has."""
    given = dict(zip((tensor.name for tensor in request.inputs), request.raw_input_contents, strict=True))
    content = given.get("num_return_sequences") or given.get("beam_width")
    return int.from_bytes(content[:4], "little", signed=True) if content else 1


def streamed_deltas_of(response: Any) -> list[Delta]:
    """The pieces that a ModelStreamInferResponse carries. Raises the TriremeError that it carries instead."""
    if response.error_message:
        raise error_from_text(response.error_message)
    return deltas_of(response.infer_response)


def completion_of(inference: Any) -> Completion:
    """The whole answer that a ModelInferResponse carries."""
    collector = Collector()
    for delta in deltas_of(inference):
        collector.add(delta)
    return collector.completion


class Collector:
    """Joins pieces to a Completion."""

    def __init__(self) -> None:
        self._deltas: defaultdict[int, list[Delta]] = defaultdict(list)
        self._last: Delta | None = None

    def add(self, delta: Delta) -> None:
        """Take a further piece."""
        self._deltas[delta.index].append(delta)
        self._last = delta

    @property
    def counts(self) -> tuple[int, int]:
        """Tokens of the prompt, and of what came so far; 0 and 0 until they are known, at the latest in the end."""
        return (0, 0) if self._last is None else (self._last.num_input_tokens, self._last.num_output_tokens)

    @property
    def finish_reason(self) -> str | None:
        """Why the sequence of the latest piece ended; None while it has not."""
        return None if self._last is None else self._last.finish_reason

    @property
    def completion(self) -> Completion:
        """What came so far."""
        answers = tuple(self._answer(self._deltas[index]) for index in sorted(self._deltas))
        first = answers[0] if answers else Answer("", None, None)
        last = self._last or Delta("", None, None, 0, 0)
        return Completion(
            text=first.text,
            finish_reason=first.finish_reason,
            stop_reason=first.stop_reason,
            num_input_tokens=last.num_input_tokens,
            num_output_tokens=last.num_output_tokens,
            log_probs=first.log_probs,
            tokens=first.tokens,
            cum_log_prob=first.cum_log_prob,
            metrics=last.metrics,
            answers=answers,
        )

    @staticmethod
    def _answer(deltas: list[Delta]) -> Answer:
        last = deltas[-1]
        has_log_probs = last.log_probs is not None
        return Answer(
            text="".join(delta.text for delta in deltas),
            finish_reason=last.finish_reason,
            stop_reason=last.stop_reason,
            log_probs=tuple(p for delta in deltas for p in delta.log_probs or ()) if has_log_probs else None,
            tokens=tuple(t for delta in deltas for t in delta.tokens or ()) if last.tokens is not None else None,
            cum_log_prob=last.cum_log_prob,
        )
