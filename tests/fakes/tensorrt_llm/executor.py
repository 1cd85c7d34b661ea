"""tensorrt_llm/executor: what a request yields (result.py), and the error that is one request's own (utils.py)."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from ._model import RequestPerfMetrics


class RequestError(RuntimeError):
    """tensorrt_llm/executor/utils.py, RequestError."""


@dataclass(slots=True)
class Logprob:
    """tensorrt_llm/executor/result.py, Logprob."""

    logprob: float
    rank: int | None = None


@dataclass(slots=True)
class CompletionOutput:
    """tensorrt_llm/executor/result.py, CompletionOutput: one sequence, its lists growing."""

    index: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    finish_reason: str | None = None
    request_perf_metrics: RequestPerfMetrics | None = None
    _last_token_ids_len: int = 0
    _last_logprobs_len: int = 0

    @property
    def token_ids_diff(self) -> list[int]:
        return self.token_ids[self._last_token_ids_len :]

    @property
    def logprobs_diff(self) -> list[dict[int, Logprob]]:
        return self.logprobs[self._last_logprobs_len :]


class GenerationResult:
    """tensorrt_llm/executor/result.py, GenerationResult: to be awaited in the event loop in which it was made."""

    def __init__(self, request_id: int, abort: Any) -> None:
        self.request_id = request_id
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._outputs = [CompletionOutput(0)]
        self._done = False
        self._abort = abort

    @property
    def outputs(self) -> list[CompletionOutput]:
        return self._outputs

    @property
    def finished(self) -> bool:
        return self._done

    def abort(self) -> None:
        self._abort(self.request_id)

    def __aiter__(self) -> "GenerationResult":
        return self

    async def __anext__(self) -> "GenerationResult":
        if self._done:
            raise StopAsyncIteration
        response = await self._queue.get()
        if isinstance(response, Exception):
            raise response
        ids, logprobs, reason, metrics = response
        output = self._outputs[0]
        output._last_token_ids_len = len(output.token_ids)
        output._last_logprobs_len = len(output.logprobs)
        output.token_ids.extend(ids)
        output.logprobs.extend(logprobs)
        if reason is not None:
            self._done = True
            output.finish_reason = {"END_ID": "stop", "LENGTH": "length", "CANCELLED": "cancelled"}[reason]
            output.request_perf_metrics = metrics
        return self

    def put(self, response: Any) -> None:
        """From the engine's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, response)
