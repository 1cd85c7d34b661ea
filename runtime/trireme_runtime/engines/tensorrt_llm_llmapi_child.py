"""The process in which TensorRT-LLM's LLM API generates: token ids in, token ids out, no tokenizer.

Written to TensorRT-LLM 1.2: LLM and generate_async in tensorrt_llm/llmapi/llm.py, its arguments in llmapi/llm_args.py
(TorchLlmArgs, KvCacheConfig), SamplingParams in sampling_params.py, and what comes back (GenerationResult,
CompletionOutput) in executor/result.py.
"""

import asyncio
import json
import queue
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from trireme_runtime.contract import FinishReason
from trireme_runtime.engines.asynchronous_child import run
from trireme_runtime.engines.base import EngineEvent, EngineLimits, EngineRequest, EngineSettings
from trireme_runtime.engines.tensorrt_llm_package import import_tensorrt_llm
from trireme_runtime.engines.tensorrt_llm_requests import News, RunningRequests, sampling_arguments

#: Tokens in one block of the paged KV cache; upstream's own default.
BLOCK_TOKENS = 32

_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "cancelled": FinishReason.CANCELLED,
}


def read_limits(folder: Path, settings: EngineSettings) -> EngineLimits:
    """The limits of the checkpoint in `folder`, from its config.json. Raises ValueError naming the file and the key."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    for key in ("vocab_size", "max_position_embeddings"):
        if type(config.get(key)) is not int or config[key] < 1:
            raise ValueError(f"{path}: {key} is {config.get(key)!r}; a whole number above 0 is needed")
    return EngineLimits(
        vocab_size=config["vocab_size"],
        max_context_tokens=config["max_position_embeddings"],
        kv_cache_tokens=settings.kv_cache_tokens // BLOCK_TOKENS * BLOCK_TOKENS,
        max_num_seqs=settings.max_num_seqs,
        kv_block_tokens=BLOCK_TOKENS,
    )


class LlmApiEngine:
    """Requests run as tasks of an event loop in a thread of its own; what they yield goes into one queue."""

    def __init__(self, folder: Path, settings: EngineSettings) -> None:
        package = import_tensorrt_llm()
        from tensorrt_llm.llmapi import KvCacheConfig, RequestError

        self.limits = read_limits(folder, settings)
        self._sampling_params = package.SamplingParams
        self._request_error = RequestError
        self._llm = package.LLM(
            model=str(folder),
            skip_tokenizer_init=True,
            trust_remote_code=False,
            tensor_parallel_size=1,
            max_batch_size=settings.max_num_seqs,
            max_num_tokens=settings.max_num_tokens,
            max_seq_len=self.limits.max_context_tokens,
            # Else a prompt longer than max_num_tokens is refused.
            enable_chunked_prefill=True,
            # In 1.2 the other one, TorchSampler, knows neither penalties nor a seed for each request.
            sampler_type="TRTLLMSampler",
            kv_cache_config=KvCacheConfig(
                enable_block_reuse=settings.reuse_kv_blocks,
                max_tokens=self.limits.kv_cache_tokens,
                tokens_per_block=BLOCK_TOKENS,
            ),
        )
        self._requests = RunningRequests(self.limits)
        self._news: queue.SimpleQueue[tuple[int, News | Exception]] = queue.SimpleQueue()
        self._results: dict[int, Any] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="results", daemon=True).start()

    @property
    def kv_blocks_used(self) -> int:
        return self._requests.kv_blocks_used

    def submit(self, request: EngineRequest) -> list[EngineEvent]:
        number = self._requests.add(request)
        self._loop.call_soon_threadsafe(self._start, number, request)
        return []

    def cancel(self, key: int) -> list[EngineEvent]:
        cancelled = self._requests.cancel(key)
        if cancelled is None:
            return []
        number, event = cancelled
        self._loop.call_soon_threadsafe(self._abort, number)
        return [event]

    def wait(self) -> list[tuple[int, News]]:
        news = [self._news.get()]
        while not self._news.empty():
            news.append(self._news.get())
        for _, item in news:
            if isinstance(item, Exception):
                raise item
        return [(number, item) for number, item in news if isinstance(item, News)]

    def take(self, news: list[tuple[int, News]]) -> list[EngineEvent]:
        events = (self._requests.take(number, item) for number, item in news)
        return [event for event in events if event is not None]

    def close(self) -> None:
        self._llm.shutdown()

    def params(self, request: EngineRequest) -> Any:
        """Upstream's parameters of one request. An end id is always given: without one upstream asks a tokenizer."""
        return self._sampling_params(
            max_tokens=request.max_new_tokens,
            end_id=-1 if request.end_id is None else request.end_id,
            pad_id=request.end_id or 0,
            ignore_eos=request.end_id is None,
            # 1 is the chosen id's own.
            logprobs=1 if request.log_probs else None,
            return_perf_metrics=True,
            detokenize=False,
            **sampling_arguments(request),
        )

    def _start(self, number: int, request: EngineRequest) -> None:
        """In the event loop, so that upstream's results can be awaited there."""
        try:
            result = self._llm.generate_async(
                list(request.input_ids), sampling_params=self.params(request), streaming=True
            )
        except (ValueError, TypeError, self._request_error) as error:
            self._news.put((number, News(error=str(error))))
            return
        except Exception as error:
            self._news.put((number, error))
            return
        self._results[number] = result
        self._tasks[number] = self._loop.create_task(self._follow(number, result))

    def _abort(self, number: int) -> None:
        result = self._results.pop(number, None)
        if result is not None:
            result.abort()
            self._tasks.pop(number).cancel()

    async def _follow(self, number: int, result: Any) -> None:
        """Pass on what a request yields. An error that is not the request's own is the engine's end."""
        try:
            async for _ in result:
                self._news.put((number, _news(result)))
        except self._request_error as error:
            self._news.put((number, News(error=str(error))))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._news.put((number, error))
        self._results.pop(number, None)
        self._tasks.pop(number, None)


def _news(result: Any) -> News:
    """What came last. The lists are upstream's own and grow, so they are copied."""
    (output,) = result.outputs
    ids = tuple(output.token_ids_diff)
    news = News(ids, metrics=output.request_perf_metrics if result.finished else None)
    if output.logprobs:
        news = replace(news, log_probs=tuple(map(_log_prob, ids, output.logprobs_diff)))
    if not result.finished:
        return news
    reason = _FINISH_REASONS.get(output.finish_reason)
    if reason is None:
        return News(error=f"it ended with {output.finish_reason!r}")
    return replace(news, reason=reason)


def _log_prob(token: int, entry: Any) -> float:
    """One step's: an object by token id, or a number."""
    return float(entry[token].logprob if isinstance(entry, dict) else entry)


if __name__ == "__main__":
    run(LlmApiEngine)
