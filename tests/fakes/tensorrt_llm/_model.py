"""What the fake generates, and the thread that generates it: one id a step for each request, in their order.

The i-th id of an answer is (sum of the prompt + shift + 7 * i) modulo the vocabulary, and one more where that is an end
id that must not come yet. shift is 3 * seed where it is sampled, and tells the penalties apart.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

#: A prompt that begins with one of these comes to a bad end.
REFUSED = 90
FAILS = 91
KILLS = 92
BREAKS = 93
HANGS = 94

#: How many ids FAILS, KILLS and BREAKS leave a request.
LAST_STEP = 3

STEP_S = float(os.environ.get("FAKE_TENSORRT_LLM_STEP_S", "0.0005"))


@dataclass(frozen=True)
class Draw:
    """What decides on the ids of an answer."""

    seed: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None

    @property
    def shift(self) -> int:
        penalties = (self.repetition_penalty or 1) - 1, self.presence_penalty or 0, self.frequency_penalty or 0
        return 3 * (self.seed or 0) + sum(
            round(100 * value) * weight for value, weight in zip(penalties, (1, 5, 11), strict=True)
        )


def answer(
    prompt: list[int], count: int, vocab_size: int, draw: Draw = Draw(), end_id: int = -1, min_tokens: int = 0
) -> list[int]:
    """The first `count` ids, up to and with the end id."""
    ids: list[int] = []
    while len(ids) < count:
        token = (sum(prompt) + draw.shift + 7 * len(ids)) % vocab_size
        if token == end_id and len(ids) < min_tokens:
            token = (token + 1) % vocab_size
        ids.append(token)
        if token == end_id:
            break
    return ids


def log_probs(count: int) -> list[float]:
    """Those of the first `count` ids."""
    return [-0.01 * (index + 1) for index in range(count)]


class TimingMetrics:
    """RequestPerfMetrics.TimingMetrics: times of the steady clock."""

    arrival_time = first_scheduled_time = first_token_time = last_token_time = timedelta()


class KvCacheMetrics:
    """RequestPerfMetrics.KvCacheMetrics."""

    num_total_allocated_blocks = num_new_allocated_blocks = num_reused_blocks = num_missed_blocks = 0


class RequestPerfMetrics:
    """cpp/tensorrt_llm/nanobind/executor/request.cpp, RequestPerfMetrics."""

    def __init__(self) -> None:
        self.timing_metrics = TimingMetrics()
        self.kv_cache_metrics = KvCacheMetrics()


def now() -> timedelta:
    return timedelta(seconds=time.monotonic())


@dataclass
class Job:
    """A request in the thread. tell(new ids, END_ID, LENGTH, CANCELLED or None, error)."""

    prompt: list[int]
    ids: list[int]
    ended_by: str
    tell: Callable[[list[int], str | None, str | None], None]
    position: int = 0
    metrics: RequestPerfMetrics = field(default_factory=RequestPerfMetrics)


class Steps:
    """The thread. `broken` hears of an error that is not one request's own."""

    def __init__(self, max_batch_size: int, broken: Callable[[Exception], None]) -> None:
        self._max_batch_size = max_batch_size
        self._broken = broken
        self._jobs: dict[int, Job] = {}
        self._changed = threading.Condition()
        self._running = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(self, number: int, job: Job) -> None:
        with self._changed:
            job.metrics.timing_metrics.arrival_time = now()
            self._jobs[number] = job
            self._changed.notify()

    def cancel(self, number: int) -> None:
        with self._changed:
            job = self._jobs.pop(number, None)
        if job is not None:
            job.tell([], "CANCELLED", None)

    def stop(self) -> None:
        with self._changed:
            self._running = False
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._running:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or not self._running)
                now_running = list(self._jobs.items())[: self._max_batch_size]
            for number, job in now_running:
                self._step(number, job)
            time.sleep(STEP_S)

    def _step(self, number: int, job: Job) -> None:
        kind = job.prompt[0]
        if kind == HANGS:
            return
        if job.position == LAST_STEP and kind in (FAILS, KILLS, BREAKS):
            if kind == KILLS:
                os._exit(13)
            if kind == BREAKS:
                self._broken(RuntimeError("CUDA error: an illegal memory access was encountered"))
                return
            self._jobs.pop(number, None)
            job.tell([], None, "out of luck")
            return
        if job.position == 0:
            job.metrics.timing_metrics.first_scheduled_time = now()
        token = job.ids[job.position]
        job.position += 1
        job.metrics.timing_metrics.last_token_time = now()
        if job.position == 1:
            job.metrics.timing_metrics.first_token_time = now()
        ended = job.position == len(job.ids)
        if ended:
            with self._changed:
                if self._jobs.pop(number, None) is None:
                    return
            job.metrics.kv_cache_metrics.num_new_allocated_blocks = -(-(len(job.prompt) + job.position) // 32)
        job.tell([token], job.ended_by if ended else None, None)
