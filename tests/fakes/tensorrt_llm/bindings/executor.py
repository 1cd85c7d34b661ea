"""tensorrt_llm.bindings.executor, from upstream's cpp/tensorrt_llm/nanobind/executor/*.cpp.

nanobind refuses unknown keywords and wrong types with a TypeError; a C++ check that fails is a RuntimeError.
"""

import itertools
import json
import os
import queue
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any

from .._checks import check
from .._model import REFUSED, Draw, Job, Steps, answer, log_probs


class ModelType(Enum):
    """bindings.cpp, ModelType."""

    DECODER_ONLY = 0
    ENCODER_ONLY = 1
    ENCODER_DECODER = 2


class FinishReason(Enum):
    """request.cpp, FinishReason."""

    NOT_FINISHED = 0
    END_ID = 1
    STOP_WORDS = 2
    LENGTH = 3
    TIMED_OUT = 4
    CANCELLED = 5


class KvCacheConfig:
    """executorConfig.cpp, KvCacheConfig."""

    def __init__(
        self,
        enable_block_reuse: bool = True,
        max_tokens: int | None = None,
        max_attention_window: None = None,
        sink_token_length: None = None,
        free_gpu_memory_fraction: float | None = None,
    ) -> None:
        check("enable_block_reuse", enable_block_reuse, "bool")
        check("max_tokens", max_tokens, "int?")
        self.enable_block_reuse = enable_block_reuse
        self.max_tokens = max_tokens


class ExecutorConfig:
    """executorConfig.cpp, ExecutorConfig."""

    def __init__(
        self,
        max_beam_width: int = 1,
        scheduler_config: None = None,
        kv_cache_config: KvCacheConfig | None = None,
        enable_chunked_context: bool = False,
        normalize_log_probs: bool = True,
        iter_stats_max_iterations: int = 1000,
        request_stats_max_iterations: int = 0,
        batching_type: None = None,
        max_batch_size: int | None = None,
        max_num_tokens: int | None = None,
    ) -> None:
        check("max_beam_width", max_beam_width, "int")
        check("enable_chunked_context", enable_chunked_context, "bool")
        check("normalize_log_probs", normalize_log_probs, "bool")
        check("max_batch_size", max_batch_size, "int?")
        check("max_num_tokens", max_num_tokens, "int?")
        if kv_cache_config is not None and not isinstance(kv_cache_config, KvCacheConfig):
            raise TypeError(f"kv_cache_config: {kv_cache_config!r}")
        self.max_beam_width = max_beam_width
        self.kv_cache_config = kv_cache_config or KvCacheConfig()
        self.enable_chunked_context = enable_chunked_context
        self.max_batch_size = max_batch_size
        self.max_num_tokens = max_num_tokens


class SamplingConfig:
    """request.cpp, SamplingConfig; its C++ constructor checks the ranges (samplingConfig.cpp)."""

    def __init__(
        self,
        beam_width: int = 1,
        *,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        min_tokens: int | None = None,
        repetition_penalty: float | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        length_penalty: float | None = None,
        num_return_sequences: int | None = None,
    ) -> None:
        check("beam_width", beam_width, "int")
        for name in ("top_k", "seed", "min_tokens", "num_return_sequences"):
            check(name, locals()[name], "int?")
        for name in ("top_p", "temperature", "repetition_penalty", "presence_penalty", "frequency_penalty"):
            check(name, locals()[name], "float?")
        check("length_penalty", length_penalty, "float?")
        if beam_width < 1 or (num_return_sequences or 1) > beam_width:
            raise RuntimeError("numReturnSequences should not exceed the beam width")
        if (top_k or 0) < 0 or not 0 < (1 if top_p is None else top_p) <= 1 or (seed or 0) < 0:
            raise RuntimeError(f"top_k {top_k}, top_p {top_p}, seed {seed}")
        self.beam_width = beam_width
        self.num_return_sequences = num_return_sequences or beam_width
        self.min_tokens = min_tokens
        self.draw = Draw(None if top_k == 1 else seed, repetition_penalty, presence_penalty, frequency_penalty)


class OutputConfig:
    """request.cpp, OutputConfig."""

    def __init__(
        self,
        return_log_probs: bool = False,
        return_context_logits: bool = False,
        return_generation_logits: bool = False,
        exclude_input_from_output: bool = False,
        return_encoder_output: bool = False,
        return_perf_metrics: bool = False,
    ) -> None:
        for name in ("return_log_probs", "exclude_input_from_output", "return_perf_metrics"):
            check(name, locals()[name], "bool")
        self.return_log_probs = return_log_probs
        self.exclude_input_from_output = exclude_input_from_output
        self.return_perf_metrics = return_perf_metrics


class Request:
    """request.cpp, Request; its C++ constructor refuses an empty prompt and max_tokens below 1 (request.cpp, C++)."""

    def __init__(
        self,
        input_token_ids: list[int],
        max_tokens: int,
        *,
        streaming: bool = False,
        sampling_config: SamplingConfig | None = None,
        output_config: OutputConfig | None = None,
        end_id: int | None = None,
        pad_id: int | None = None,
        client_id: int | None = None,
    ) -> None:
        check("input_token_ids", input_token_ids, "ids")
        check("max_tokens", max_tokens, "int")
        check("streaming", streaming, "bool")
        check("end_id", end_id, "int?")
        check("pad_id", pad_id, "int?")
        check("client_id", client_id, "int?")
        if not isinstance(sampling_config, SamplingConfig) or not isinstance(output_config, OutputConfig):
            raise TypeError("sampling_config or output_config")
        if not input_token_ids or max_tokens < 1:
            raise RuntimeError("Assertion failed: !mInputTokenIds.empty() && mMaxNewTokens > 0")
        self.input_token_ids = input_token_ids
        self.max_tokens = max_tokens
        self.streaming = streaming
        self.sampling_config = sampling_config
        self.output_config = output_config
        self.end_id = -1 if end_id is None else end_id
        self.client_id = client_id


class Result:
    """request.cpp, Result."""

    is_final = False
    output_token_ids: list[list[int]]
    log_probs: list[list[float]] | None = None
    finish_reasons: list[FinishReason]
    request_perf_metrics: Any = None


class Response:
    """request.cpp, Response."""

    def __init__(self, client_id: int | None, result: Result | None, error_msg: str | None = None) -> None:
        self.client_id = client_id
        self._result, self._error = result, error_msg

    def has_error(self) -> bool:
        return self._error is not None

    @property
    def error_msg(self) -> str:
        if self._error is None:
            raise RuntimeError("there is no error")
        return self._error

    @property
    def result(self) -> Result:
        if self._result is None:
            raise RuntimeError("there is no result")
        return self._result


class Executor:
    """executor.cpp, Executor."""

    def __init__(self, model_path: Any, model_type: ModelType, executor_config: ExecutorConfig) -> None:
        if model_type is not ModelType.DECODER_ONLY or not isinstance(executor_config, ExecutorConfig):
            raise TypeError("model_type or executor_config")
        folder = Path(os.fspath(model_path))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not (folder / "rank0.engine").is_file():
            raise RuntimeError(f"Error opening engine file: {folder}/rank0.engine")
        self._build = build = config["build_config"]
        for name in ("max_batch_size", "max_num_tokens", "max_beam_width"):
            if (getattr(executor_config, name) or 1) > build[name]:
                raise RuntimeError(f"{name} is larger than the engine's, {build[name]}")
        paged = build["plugin_config"]["use_paged_context_fmha"]
        if not paged and (executor_config.enable_chunked_context or executor_config.kv_cache_config.enable_block_reuse):
            raise RuntimeError("KV cache reuse and chunked context require paged context FMHA")
        self._vocab_size = config["pretrained_config"]["vocab_size"]
        self._max_beam_width = executor_config.max_beam_width
        self._numbers = itertools.count(1)
        self._responses: queue.SimpleQueue[Response | Exception] = queue.SimpleQueue()
        self._steps: Steps | None = Steps(executor_config.max_batch_size or 1, self._responses.put)

    def _alive(self) -> Steps:
        if self._steps is None:
            raise RuntimeError("the executor was shut down")
        return self._steps

    def enqueue_request(self, request: Request) -> int:
        if not isinstance(request, Request):
            raise TypeError("request")
        steps = self._alive()
        number = next(self._numbers)
        sampling, output, prompt = request.sampling_config, request.output_config, request.input_token_ids
        error = None
        if prompt[0] == REFUSED:
            error = "Prompt refused.\nThe model is in no mood"
        elif any(not 0 <= token < self._vocab_size for token in prompt):
            error = "Input token ids out of range"
        elif len(prompt) + request.max_tokens > self._build["max_seq_len"]:
            error = "Prompt length and max_tokens exceed max_seq_len"
        elif sampling.beam_width > self._max_beam_width:
            error = f"Requested beam width {sampling.beam_width} is larger than {self._max_beam_width}"
        if error is not None:
            self._responses.put(Response(request.client_id, None, error))
            return number
        ids = answer(
            prompt, request.max_tokens, self._vocab_size, sampling.draw, request.end_id, sampling.min_tokens or 0
        )
        so_far: list[int] = [] if output.exclude_input_from_output else list(prompt)

        def tell(new: list[int], reason: str | None, error: str | None) -> None:
            so_far.extend(new)
            if error is not None:
                self._responses.put(Response(request.client_id, None, error))
                return
            if not request.streaming and reason is None:
                return
            beams = sampling.num_return_sequences if sampling.beam_width > 1 else 1
            told = new if request.streaming else so_far
            result = Result()
            result.is_final = reason is not None
            # The beams differ in their last id.
            result.output_token_ids = [
                [*told[:-1], (told[-1] + beam) % self._vocab_size] if told else [] for beam in range(beams)
            ]
            if output.return_log_probs:
                result.log_probs = [log_probs(len(so_far)) for _ in range(beams)]
            result.finish_reasons = [FinishReason[reason or "NOT_FINISHED"]] * beams
            if result.is_final and output.return_perf_metrics:
                result.request_perf_metrics = job.metrics
            self._responses.put(Response(request.client_id, result))

        job = Job(prompt, ids, "END_ID" if ids[-1] == request.end_id else "LENGTH", tell)
        steps.add(number, job)
        return number

    def await_responses(self, timeout: timedelta | None = None) -> list[Response]:
        self._alive()
        if timeout is not None and not isinstance(timeout, timedelta):
            raise TypeError("timeout")
        responses: list[Response] = []
        try:
            first = self._responses.get(timeout=None if timeout is None else timeout.total_seconds())
            for response in [first, *(self._responses.get() for _ in range(self._responses.qsize()))]:
                if isinstance(response, Exception):
                    raise response
                responses.append(response)
        except queue.Empty:
            pass
        return responses

    def cancel_request(self, id: int | None = None) -> None:  # noqa: A002
        check("id", id, "int?")
        if id is not None:
            self._alive().cancel(id)

    def shutdown(self) -> None:
        self._alive().stop()
        self._steps = None
