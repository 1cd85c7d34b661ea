"""The wire format, shared by both clients: a Generation to protobuf, protobuf to a Delta."""

import json
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from .errors import InvalidArgument, error_from_text
from .types import Completion, Delta, Generation

DEFAULT_URL = "127.0.0.1:8001"
DEFAULT_MODEL = "ensemble"

_NUMPY_DTYPES: dict[str, Any] = {"INT32": np.int32, "FP32": np.float32, "UINT64": np.uint64, "BOOL": np.bool_}


def _tensors(generation: Generation, stream: bool) -> list[tuple[str, str, list[Any]]]:
    messages, kwargs = generation.messages, generation.chat_template_kwargs
    echo = generation.echo
    values: list[tuple[str, str, Any]] = [
        ("text_input", "BYTES", generation.prompt),
        ("messages", "BYTES", None if messages is None else json.dumps(messages, ensure_ascii=False)),
        ("chat_template_kwargs", "BYTES", None if kwargs is None else json.dumps(kwargs)),
        ("max_tokens", "INT32", generation.max_tokens),
        ("temperature", "FP32", generation.temperature),
        ("top_k", "INT32", generation.top_k),
        ("top_p", "FP32", generation.top_p),
        ("seed", "UINT64", generation.seed),
        ("end_id", "INT32", generation.end_id),
        ("exclude_input_in_output", "BOOL", None if echo is None else not echo),
        ("stream", "BOOL", stream),
    ]
    tensors = [(name, dtype, [value]) for name, dtype, value in values if value is not None]
    if generation.stop:
        tensors.append(("stop_words", "BYTES", list(generation.stop)))
    return tensors


def _numbers(name: str, dtype: str, values: list[Any]) -> Any:
    """Values as an array of the tensor's dtype. Raises InvalidArgument for one that it cannot hold."""
    kind = _NUMPY_DTYPES[dtype]
    if dtype == "BOOL":
        return np.array([values], dtype=kind)
    limits: Any = np.finfo(kind) if dtype == "FP32" else np.iinfo(kind)
    for value in values:
        # NaN and infinity are floats of any size; the server refuses them.
        if isinstance(value, int | float) and value - value == 0 and not limits.min <= value <= limits.max:
            raise InvalidArgument(f"{name} is {value}; {dtype} holds {limits.min} to {limits.max}")
    return np.array([values], dtype=kind)


def request_of(generation: Generation, model: str, stream: bool, request_id: str) -> Any:
    """The ModelInferRequest of a generation."""
    request = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    for name, dtype, values in _tensors(generation, stream):
        request.inputs.add(name=name, datatype=dtype, shape=[1, len(values)])
        if dtype == "BYTES":
            encoded = np.array([[value.encode("utf-8") for value in values]], dtype=object)
            request.raw_input_contents.append(serialize_byte_tensor(encoded).item())
        else:
            request.raw_input_contents.append(_numbers(name, dtype, values).tobytes())
    return request


def delta_of(response: Any) -> Delta | None:
    """The piece that a ModelStreamInferResponse carries, or None for an empty one.

    Raises the TriremeError that the response carries instead.
    """
    if response.error_message:
        raise error_from_text(response.error_message)
    inference = response.infer_response
    raw = dict(zip((tensor.name for tensor in inference.outputs), inference.raw_output_contents, strict=True))
    if "text_output" not in raw:
        return None
    text = {
        name: deserialize_bytes_tensor(raw[name])[0].decode("utf-8")
        for name in ("text_output", "finish_reason", "stop_reason")
    }
    return Delta(
        text=text["text_output"],
        finish_reason=text["finish_reason"] or None,
        stop_reason=text["stop_reason"] or None,
        num_input_tokens=int.from_bytes(raw["num_input_tokens"], "little", signed=True),
        num_output_tokens=int.from_bytes(raw["num_output_tokens"], "little", signed=True),
    )


class Collector:
    """Joins the pieces of a stream to a Completion."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._last: Delta | None = None

    def add(self, delta: Delta) -> None:
        self._texts.append(delta.text)
        self._last = delta

    @property
    def completion(self) -> Completion:
        """What came so far."""
        last = self._last or Delta("", None, None, 0, 0)
        return Completion(
            "".join(self._texts), last.finish_reason, last.stop_reason, last.num_input_tokens, last.num_output_tokens
        )
