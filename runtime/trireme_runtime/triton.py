"""What every `model.py` needs of Triton's Python backend. Importable inside a stub only."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from .answers import Chunk, Metrics
from .contract import TRACEPARENT, Code, Refusal, invalid, token_text
from .packing import PackedChunk, pack
from .requests import SamplingDefaults
from .settings import NUMBERS, SAMPLING_DEFAULTS, WHOLE_NUMBERS, WHOLE_SAMPLING_DEFAULTS
from .tracing import ModelTraces, is_sampled, model_traces
from .versions import key_of_environment, verify_version

#: Triton's nearest code by name; it has fewer than the contract, and the message carries the exact one.
_TRITON_CODES = {
    Code.INVALID_ARGUMENT: "INVALID_ARG",
    Code.RESOURCE_EXHAUSTED: "UNAVAILABLE",
    Code.DEADLINE_EXCEEDED: "UNAVAILABLE",
    Code.UNAVAILABLE: "UNAVAILABLE",
    Code.CANCELLED: "CANCELLED",
    Code.NOT_FOUND: "NOT_FOUND",
    Code.INTERNAL: "INTERNAL",
}


class ModelConfig:
    """The configuration that a model was loaded with. `args` is what Triton gives to `initialize`."""

    def __init__(self, args: dict[str, str]) -> None:
        self._config = json.loads(args["model_config"])
        self.name = args["model_name"]
        # What a server sees are links, which change; the files stay, for an engine that is started again.
        self.version_folder = (Path(args["model_repository"]) / args["model_version"]).resolve()

    @classmethod
    def of_verified(cls, args: dict[str, str]) -> "ModelConfig":
        """The same, once the version is known to be what its manifest says, and signed where the server asks for it.

        Raises ManifestError otherwise, and ValueError for a version that was built for another engine.
        """
        config = cls(args)
        manifest = verify_version(config.version_folder, key_of_environment())
        engine = config._config.get("parameters", {}).get("engine", {}).get("string_value")
        if engine is not None and manifest.get("engine", engine) != engine:
            raise ValueError(
                f"{config.name}: version {config.version_folder.name} was built for the engine "
                f"{manifest['engine']!r}, and config.pbtxt says {engine!r}"
            )
        return config

    def text(self, key: str) -> str:
        """The parameter `key`. Raises ValueError naming it if it is missing."""
        parameter = self._config.get("parameters", {}).get(key)
        if parameter is None:
            raise ValueError(f"{self.name}: config.pbtxt has no parameter {key!r}")
        return str(parameter["string_value"])

    def folder(self, key: str) -> Path:
        """The parameter `key` as a path; a relative one starts in the version folder."""
        return self.version_folder / self.text(key)

    def integer(self, key: str) -> int:
        """The setting `key` as a whole number. Raises ValueError naming key, value and limits."""
        return self._whole_number(key, *WHOLE_NUMBERS[key])

    def number(self, key: str) -> float:
        """The setting `key` as a number. Raises ValueError naming key, value and limits."""
        return self._number(key, *NUMBERS[key])

    def sampling_defaults(self) -> SamplingDefaults:
        """The parameters `default_...`; none where they are missing or empty. Raises ValueError as for a setting."""
        parameters = self._config.get("parameters", {})
        given: dict[str, Any] = {}
        for name, limits in SAMPLING_DEFAULTS.items():
            key = f"default_{name}"
            if parameters.get(key, {}).get("string_value"):
                read = self._whole_number if name in WHOLE_SAMPLING_DEFAULTS else self._number
                given[name] = read(key, *limits)
        return SamplingDefaults(**given)

    def _whole_number(self, key: str, lowest: float, highest: float) -> int:
        value = self.text(key)
        if not value.isascii() or not value.isdecimal() or not lowest <= int(value[:20]) <= highest:
            raise ValueError(
                f"{self.name}: parameter {key!r} has the value {value[:40]!r}, not a whole number "
                f"from {lowest} to {highest}"
            )
        return int(value)

    def _number(self, key: str, lowest: float, highest: float) -> float:
        value = self.text(key)
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not lowest <= number <= highest:
            raise ValueError(
                f"{self.name}: parameter {key!r} has the value {value[:40]!r}, not a number from {lowest} to {highest}"
            )
        return number

    def flag(self, key: str) -> bool:
        """The parameter `key` as true or false. Raises ValueError naming key and value."""
        value = self.text(key)
        if value not in ("true", "false"):
            raise ValueError(f"{self.name}: parameter {key!r} has the value {value!r}, not true or false")
        return value == "true"


def tensors_of(request: Any) -> dict[str, NDArray[Any]]:
    """The input tensors of a request by name, batch dimension included."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def refuse_parameters(request: Any) -> None:
    """Raise Refusal naming a request parameter other than TRACEPARENT: no model takes any; unknown keys of `/generate`
    arrive here.
    """
    unknown = sorted(json.loads(request.parameters() or "{}").keys() - {TRACEPARENT})
    if unknown:
        raise invalid(f"{unknown[0]}: unknown input; GET /v2/models/MODEL lists those of the model")


def traceparent_of(request: Any) -> str:
    """Below which span a request is traced; "" if it is not."""
    given = json.loads(request.parameters() or "{}").get(TRACEPARENT, "")
    return given if isinstance(given, str) and is_sampled(given) else ""


def traces_of(role: str, args: dict[str, str]) -> ModelTraces | None:
    """The traces of this process's model; None where they are off."""
    return model_traces(role, args, pb_utils.Logger.log_warn)


def packed_outputs(chunk: Chunk, always_counts: bool) -> list[Any]:
    """The output tensors of `tensorrt_llm` for an ensemble: in the middle of an answer one, `chunk`, and no more.

    always_counts: whether the client wants num_input_tokens and num_output_tokens with every response.
    """
    outputs = [pb_utils.Tensor("chunk", np.array([pack(chunk, os.getpid())], np.int32))]
    ends = any(piece.finish_reason for piece in chunk.pieces)
    has_log_probs = chunk.pieces[0].log_probs is not None
    if ends or always_counts or has_log_probs:
        outputs += _counts(chunk)
    if ends:
        outputs += _reasons(chunk)
    if ends or has_log_probs:
        outputs.append(_lengths(chunk))
    return outputs + _reports(chunk)


def chunk_outputs(chunk: Chunk) -> list[Any]:
    """The output tensors of `tensorrt_llm` for a chunk; rows of unequal length are filled up with zeros."""
    pieces = chunk.pieces
    return [
        output("output_ids", [_even([piece.output_ids for piece in pieces], np.int32)], np.int32),
        _lengths(chunk),
        # Several sequences are sent whole, without a window.
        output("window_ids", [pieces[0].window_ids], np.int32),
        output("stream_key", [[chunk.stream_key]], np.uint64),
        *_counts(chunk),
        *_reasons(chunk),
        *_reports(chunk),
    ]


def unpacked_outputs(chunk: PackedChunk, stop_reasons: list[str]) -> list[Any]:
    """The output tensors of `postprocessing` that say what `tensorrt_llm` sent; see `chunk_outputs`."""
    return [
        output("CHUNK_OUTPUT_IDS", [_even([ids for ids, _ in chunk.rows], np.int32)], np.int32),
        output("CHUNK_SEQUENCE_LENGTH", [[len(ids) for ids, _ in chunk.rows]], np.int32),
        output("CHUNK_WINDOW_IDS", [chunk.window_ids], np.int32),
        output("CHUNK_STREAM_KEY", [[chunk.stream_key]], np.uint64),
        output("CHUNK_FINISH_REASON", [[reason.value if reason else "" for _, reason in chunk.rows]], object),
        output("CHUNK_STOP_REASON", [stop_reasons], object),
        output("CHUNK_NUM_INPUT_TOKENS", [[chunk.num_input_tokens]], np.int32),
        output("CHUNK_NUM_OUTPUT_TOKENS", [[chunk.num_output_tokens]], np.int32),
    ]


def _lengths(chunk: Chunk) -> Any:
    return output("sequence_length", [[len(piece.output_ids) for piece in chunk.pieces]], np.int32)


def _counts(chunk: Chunk) -> list[Any]:
    return [
        output("num_input_tokens", [[chunk.num_input_tokens]], np.int32),
        output("num_output_tokens", [[chunk.num_output_tokens]], np.int32),
    ]


def _reasons(chunk: Chunk) -> list[Any]:
    reasons = [piece.finish_reason.value if piece.finish_reason else "" for piece in chunk.pieces]
    return [
        output("finish_reason", [reasons], object),
        output("stop_reason", [[piece.stop_reason for piece in chunk.pieces]], object),
    ]


def _reports(chunk: Chunk) -> list[Any]:
    """What comes where it is asked for."""
    pieces = chunk.pieces
    outputs = []
    if chunk.num_sequences > 1:
        outputs.append(output("sequence_index", [[pieces[0].sequence_index]], np.int32))
        outputs.append(output("batch_index", [[0]], np.int32))
    if pieces[0].log_probs is not None:
        rows = _even([piece.log_probs or [] for piece in pieces], np.float32)
        outputs.append(output("output_log_probs", [rows], np.float32))
        outputs.append(_texts("output_tokens", [piece.tokens or [] for piece in pieces]))
        outputs.append(output("cum_log_probs", [[piece.cum_log_prob for piece in pieces]], np.float32))
    if chunk.metrics is not None:
        outputs += _metrics_outputs(chunk.metrics)
    return outputs


def _even(rows: list[Any], dtype: Any) -> NDArray[Any]:
    width = max(map(len, rows))
    even = np.zeros((len(rows), width), dtype)
    for index, row in enumerate(rows):
        even[index, : len(row)] = row
    return even


def _texts(name: str, rows: list[list[bytes]]) -> Any:
    """Rows of tokens as texts [1, rows, longest row], filled up with empty ones."""
    width = max(map(len, rows))
    even = [[token_text(token).encode("utf-8") for token in row] + [b""] * (width - len(row)) for row in rows]
    return pb_utils.Tensor(name, np.array(even, dtype=object).reshape(1, len(rows), width))


def _metrics_outputs(metrics: Metrics) -> list[Any]:
    cache = metrics.cache
    times = {
        "arrival_time_ns": metrics.arrival_ns,
        "first_scheduled_time_ns": metrics.first_scheduled_ns,
        "first_token_time_ns": metrics.first_token_ns,
        "last_token_time_ns": metrics.last_token_ns,
    }
    counts = {
        "kv_cache_reused_blocks": cache.reused_blocks,
        "kv_cache_alloc_new_blocks": cache.new_blocks,
        "kv_cache_alloc_total_blocks": cache.total_blocks,
        "num_reused_tokens": cache.reused_tokens,
        # No engine here drafts tokens.
        "total_draft_tokens": 0,
        "total_accepted_draft_tokens": 0,
    }
    return [
        *(output(name, [[value]], np.int64) for name, value in times.items()),
        *(output(name, [[value]], np.int32) for name, value in counts.items()),
        output("acceptance_rate", [[0.0]], np.float32),
    ]


def output(name: str, values: Any, dtype: Any) -> Any:
    """An output tensor; `values` includes the batch dimension, texts are encoded as UTF-8."""
    if dtype is object:
        values = [[text.encode("utf-8") for text in row] for row in values]
    return pb_utils.Tensor(name, np.array(values, dtype=dtype))


def response(*outputs: Any) -> Any:
    """A response with these output tensors."""
    return pb_utils.InferenceResponse(output_tensors=list(outputs))


def error_response(refusal: Refusal) -> Any:
    """A response that carries the refusal, worded as the contract says."""
    code = getattr(pb_utils.TritonError, _TRITON_CODES[refusal.code])
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(refusal), code))


def as_refusal(error: Exception) -> Refusal:
    """`error` as a Refusal that holds no traceback; anything else than one is INTERNAL and logged.

    A traceback holds the requests of the frames in it, in a circle that stands until the next garbage collection; and
    Triton unloads no model of which there is a request.
    """
    if isinstance(error, Refusal):
        return Refusal(error.code, error.message, error.retry_after_ms)
    pb_utils.Logger.log_error(f"unexpected {type(error).__name__}: {error}")
    return Refusal(Code.INTERNAL, f"unexpected {type(error).__name__} in the server; its log has more")
