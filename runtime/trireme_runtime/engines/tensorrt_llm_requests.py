"""What both adapters of TensorRT-LLM know of the requests that the engine has. Imports nothing of it."""

import itertools
import random
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from trireme_runtime.contract import Code, FinishReason, Refusal

from .base import Beam, CacheUse, EngineEvent, EngineLimits, EngineRequest, EngineTimes, Sampling


@dataclass(frozen=True)
class News:
    """What the engine said of one request: further ids, the end id perhaps the last, and log_probs as long or none.

    reason: at the end. beams: of a beam search, best first. metrics: upstream's RequestPerfMetrics, with the last news.
    error: its words, at the end.
    """

    ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    reason: FinishReason | None = None
    beams: tuple[Beam, ...] = ()
    metrics: Any = None
    error: str | None = None


def sampling_arguments(request: EngineRequest) -> dict[str, Any]:
    """The keywords that SamplingParams and executor.SamplingConfig share, for what the request asks; else left out.

    Greedy is top_k 1, beside which upstream's decoder looks at no other. A seed is drawn where none is given: without
    one upstream takes 0, the same text every time.
    """
    sampling = request.sampling
    arguments: dict[str, Any] = _choice(sampling) if sampling.beam_width == 1 else {}
    neutral = Sampling()
    for name in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
        if getattr(sampling, name) != getattr(neutral, name):
            arguments[name] = getattr(sampling, name)
    # Without an end id there is none to hold back.
    if sampling.min_tokens > 1 and request.end_id is not None:
        arguments["min_tokens"] = sampling.min_tokens
    return arguments


def _choice(sampling: Sampling) -> dict[str, Any]:
    if sampling.temperature == 0:
        return {"top_k": 1}
    seed = random.getrandbits(63) if sampling.seed is None else sampling.seed
    return {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "seed": seed,
    }


def without_end_id(
    ids: tuple[int, ...], log_probs: tuple[float, ...], reason: FinishReason | None, end_id: int | None
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Ids and log-probs of a sequence without the end id that stopped it, if they hold it."""
    if reason is FinishReason.STOP and ids and ids[-1] == end_id:
        ids = ids[:-1]
    return ids, log_probs[: len(ids)]


@dataclass
class _Running:
    """A request that the engine has. count: ids so far."""

    request: EngineRequest
    number: int
    submitted_ns: int
    count: int = 0
    blocks: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0


class RunningRequests:
    """Requests by the number under which the engine has them: keys are used again, numbers are not."""

    def __init__(self, limits: EngineLimits) -> None:
        self._limits = limits
        self._numbers = itertools.count(1)
        self._by_number: dict[int, _Running] = {}
        self._numbers_of_keys: dict[int, int] = {}
        #: Blocks that requests hold, as if they shared none.
        self.kv_blocks_used = 0

    def add(self, request: EngineRequest) -> int:
        """Note a request; the number for the engine."""
        running = _Running(request, next(self._numbers), time.monotonic_ns())
        self._by_number[running.number] = running
        self._numbers_of_keys[request.key] = running.number
        return running.number

    def cancel(self, key: int) -> tuple[int, EngineEvent] | None:
        """Forget a request; its number, and its last event. None if it is not there."""
        number = self._numbers_of_keys.get(key)
        if number is None:
            return None
        running = self._by_number[number]
        event = self._event(running, News(reason=FinishReason.CANCELLED))
        self._forget(running)
        return number, event

    def take(self, number: int, news: News) -> EngineEvent | None:
        """The event that news make; None where there is nothing to say, or the request is forgotten."""
        running = self._by_number.get(number)
        if running is None:
            return None
        now_ns = time.monotonic_ns()
        ids_of_beams = [len(beam.ids) for beam in news.beams]
        if news.ids or ids_of_beams:
            running.first_token_ns = running.first_token_ns or now_ns
            running.last_token_ns = now_ns
        running.count += len(news.ids) + max(ids_of_beams, default=0)
        blocks = self._limits.blocks_for(len(running.request.input_ids) + running.count)
        self.kv_blocks_used += blocks - running.blocks
        running.blocks = blocks
        if not (news.ids or news.reason or news.error):
            return None
        event = self._event(running, news)
        if event.is_last:
            self._forget(running)
        return event

    def _forget(self, running: _Running) -> None:
        del self._by_number[running.number]
        del self._numbers_of_keys[running.request.key]
        self.kv_blocks_used -= running.blocks

    def _event(self, running: _Running, news: News) -> EngineEvent:
        request = running.request
        if news.error is not None:
            return EngineEvent(request.key, error=_refusal(running, news.error))
        ids, log_probs = without_end_id(news.ids, news.log_probs, news.reason, request.end_id)
        if request.log_probs and len(log_probs) != len(ids):
            message = f"the engine gave {len(log_probs)} log-probs for {len(ids)} ids"
            return EngineEvent(request.key, error=Refusal(Code.INTERNAL, message))
        times, cache = None, None
        if news.reason is not None or request.reports:
            times, cache = _times(running, news.metrics), _cache(running, news.metrics, self._limits)
        return EngineEvent(
            request.key,
            ids,
            news.reason,
            log_probs=log_probs if request.log_probs else (),
            beams=news.beams,
            times=times,
            cache=cache,
        )


def _refusal(running: _Running, message: str) -> Refusal:
    words = message.strip().splitlines()[-1] if message.strip() else "no reason given"
    if running.count == 0:
        return Refusal(Code.INVALID_ARGUMENT, f"the engine refuses: {words}")
    return Refusal(Code.INTERNAL, f"the engine gave the request up: {words}")


def _ns(time_point: timedelta, earliest_ns: int) -> int | None:
    """A time of upstream's steady clock, which is time.monotonic() on Linux; None where it cannot be one."""
    value_ns = (time_point // timedelta(microseconds=1)) * 1000
    return value_ns if earliest_ns <= value_ns + 1000 and value_ns <= time.monotonic_ns() else None


def _times(running: _Running, metrics: Any) -> EngineTimes:
    """Upstream's times where it tells them; else when the news came here."""
    first_scheduled_ns = None
    if metrics is not None:
        first_scheduled_ns = _ns(metrics.timing_metrics.first_scheduled_time, running.submitted_ns)
    if first_scheduled_ns is None:
        first_scheduled_ns = running.submitted_ns if running.count else 0
    if running.first_token_ns:
        first_scheduled_ns = min(first_scheduled_ns, running.first_token_ns)
    return EngineTimes(first_scheduled_ns, running.first_token_ns, running.last_token_ns)


def _cache(running: _Running, metrics: Any, limits: EngineLimits) -> CacheUse:
    if metrics is None:
        return CacheUse(new_blocks=running.blocks)
    counts = metrics.kv_cache_metrics
    reused = int(counts.num_reused_blocks)
    return CacheUse(
        reused_tokens=min(reused * limits.kv_block_tokens, len(running.request.input_ids)),
        reused_blocks=reused,
        new_blocks=int(counts.num_new_allocated_blocks),
    )
