"""The process in which TensorRT-LLM's executor runs an engine folder: token ids in, token ids out.

Written to the Python bindings of TensorRT-LLM 1.2, tensorrt_llm.bindings.executor: Executor in upstream's
cpp/tensorrt_llm/nanobind/executor/executor.cpp, ExecutorConfig and KvCacheConfig in executorConfig.cpp, Request,
SamplingConfig, OutputConfig, Response and Result in request.cpp, ModelType in bindings.cpp.
"""

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

from trireme_runtime.contract import FinishReason, invalid
from trireme_runtime.engines.asynchronous_child import run
from trireme_runtime.engines.base import Beam, EngineEvent, EngineLimits, EngineRequest, EngineSettings
from trireme_runtime.engines.tensorrt_llm_folder import EngineFolder, read_engine_folder
from trireme_runtime.engines.tensorrt_llm_package import import_tensorrt_llm
from trireme_runtime.engines.tensorrt_llm_requests import News, RunningRequests, sampling_arguments, without_end_id

#: How long to wait for news at a time; the wait itself is upstream's, without the interpreter's lock.
_WAIT = timedelta(milliseconds=500)


def limits_of(built: EngineFolder, settings: EngineSettings) -> EngineLimits:
    """What requests may ask: the lesser of what the engine was built for and what the settings allow."""
    return EngineLimits(
        vocab_size=built.vocab_size,
        max_context_tokens=built.max_seq_len,
        kv_cache_tokens=settings.kv_cache_tokens // built.tokens_per_block * built.tokens_per_block,
        max_num_seqs=min(settings.max_num_seqs, built.max_batch_size),
        kv_block_tokens=built.tokens_per_block,
    )


class ExecutorEngine:
    """Requests have a number of ours as client id: a response may come before the executor's own id is known."""

    def __init__(self, folder: Path, settings: EngineSettings) -> None:
        # The package itself loads the plugins that engines need.
        import_tensorrt_llm()
        from tensorrt_llm.bindings import executor

        self._bindings = executor
        self._reasons = {
            executor.FinishReason.END_ID: FinishReason.STOP,
            executor.FinishReason.STOP_WORDS: FinishReason.STOP,
            executor.FinishReason.LENGTH: FinishReason.LENGTH,
            executor.FinishReason.CANCELLED: FinishReason.CANCELLED,
        }
        built = read_engine_folder(folder)
        self._max_beam_width = built.max_beam_width
        self.limits = limits_of(built, settings)
        self._requests = RunningRequests(self.limits)
        #: Number -> the request, and the executor's id for it, while it has it.
        self._asked: dict[int, EngineRequest] = {}
        self._ids: dict[int, int] = {}
        self._log_probs_taken: Counter[int] = Counter()
        self._executor = executor.Executor(folder, executor.ModelType.DECODER_ONLY, self._config(built, settings))

    def _config(self, built: EngineFolder, settings: EngineSettings) -> Any:
        return self._bindings.ExecutorConfig(
            max_beam_width=built.max_beam_width,
            kv_cache_config=self._bindings.KvCacheConfig(
                # Both need attention over paged context, which is chosen when the engine is built.
                enable_block_reuse=settings.reuse_kv_blocks and built.paged_context_fmha,
                max_tokens=self.limits.kv_cache_tokens,
            ),
            enable_chunked_context=built.paged_context_fmha,
            # Log-probabilities are those of all ids, not of the ones that top_k and top_p leave.
            normalize_log_probs=False,
            max_batch_size=self.limits.max_num_seqs,
            max_num_tokens=min(settings.max_num_tokens, built.max_num_tokens),
        )

    @property
    def kv_blocks_used(self) -> int:
        return self._requests.kv_blocks_used

    def submit(self, request: EngineRequest) -> list[EngineEvent]:
        beams = request.sampling.beam_width
        if beams > self._max_beam_width:
            refusal = invalid(f"beam_width is {beams}; at most {self._max_beam_width} is allowed")
            return [EngineEvent(request.key, error=refusal)]
        number = self._requests.add(request)
        self._asked[number] = request
        try:
            self._ids[number] = self._executor.enqueue_request(self._request(number, request))
        except (ValueError, TypeError, RuntimeError) as error:
            return self.take([(number, News(error=str(error)))])
        return []

    def _request(self, number: int, request: EngineRequest) -> Any:
        sampling = request.sampling
        arguments = sampling_arguments(request)
        if sampling.beam_width > 1:
            arguments["length_penalty"] = sampling.length_penalty
            arguments["num_return_sequences"] = request.num_beams_returned
        return self._bindings.Request(
            list(request.input_ids),
            request.max_new_tokens,
            streaming=sampling.beam_width == 1,
            sampling_config=self._bindings.SamplingConfig(sampling.beam_width, **arguments),
            output_config=self._bindings.OutputConfig(
                return_log_probs=request.log_probs or sampling.beam_width > 1,
                exclude_input_from_output=True,
                return_perf_metrics=True,
            ),
            end_id=-1 if request.end_id is None else request.end_id,
            pad_id=request.end_id or 0,
            client_id=number,
        )

    def cancel(self, key: int) -> list[EngineEvent]:
        cancelled = self._requests.cancel(key)
        if cancelled is None:
            return []
        number, event = cancelled
        self._executor.cancel_request(self._ids[number])
        self._forget(number)
        return [event]

    def _forget(self, number: int) -> None:
        self._asked.pop(number, None)
        self._ids.pop(number, None)
        self._log_probs_taken.pop(number, None)

    def wait(self) -> list[Any]:
        return list(self._executor.await_responses(timeout=_WAIT))

    def take(self, news: list[Any]) -> list[EngineEvent]:
        """Of responses, or of pairs of a number and News."""
        events = []
        for item in news:
            number, told = item if isinstance(item, tuple) else (item.client_id, self._news(item))
            event = self._requests.take(number, told)
            if event is not None:
                events.append(event)
                if event.is_last:
                    self._forget(number)
        return events

    def close(self) -> None:
        self._executor.shutdown()

    def _news(self, response: Any) -> News:
        if response.has_error():
            return News(error=response.error_msg)
        result, request = response.result, self._asked.get(response.client_id)
        if request is None:
            return News()
        reason = None
        if result.is_final:
            reason = self._reasons.get(result.finish_reasons[0])
            if reason is None:
                return News(error=f"it ended with {result.finish_reasons[0]}")
        metrics = result.request_perf_metrics if result.is_final else None
        if request.sampling.beam_width > 1:
            return News(reason=reason, beams=self._beams(result, request) if result.is_final else (), metrics=metrics)
        ids = tuple(result.output_token_ids[0])
        log_probs = self._new_log_probs(response.client_id, result, len(ids)) if request.log_probs else ()
        return News(ids, log_probs, reason, metrics=metrics)

    def _new_log_probs(self, number: int, result: Any, count: int) -> tuple[float, ...]:
        """Those of the last `count` ids: a response holds those of all ids so far, or of its own only."""
        told = result.log_probs[0] if result.log_probs else ()
        begin = self._log_probs_taken[number] if len(told) > count else 0
        self._log_probs_taken[number] += count
        return tuple(told[begin : begin + count])

    def _beams(self, result: Any, request: EngineRequest) -> tuple[Beam, ...]:
        beams = []
        for ids, log_probs, ended in zip(result.output_token_ids, result.log_probs, result.finish_reasons, strict=True):
            reason = self._reasons.get(ended, FinishReason.LENGTH)
            kept = without_end_id(tuple(ids), tuple(log_probs), reason, request.end_id)
            beams.append(Beam(*kept, reason))
        return tuple(beams[: request.num_beams_returned])


if __name__ == "__main__":
    run(ExecutorEngine)
