"""The engine's metrics on Triton's metrics endpoint. Importable inside a stub only."""

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

from .admission import QueueLimits, QueueState
from .answers import CancelCause, RunningAnswer
from .contract import FinishReason, Refusal
from .engines.base import EngineDied, EngineLimits, EngineStep
from .model_names import model_and_release
from .shared_state import QueueFile, StatusFile

#: How often what was counted goes to Triton: each value is a message to the server.
_FLUSH_S = 0.2

#: How many values of each histogram are passed on at most each time; of more, the first ones.
_MAX_OBSERVATIONS = 200
_MAX_INTER_TOKEN_OBSERVATIONS = 10

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: Finer, for releases are held against each other by its median.
_TTFT_SECONDS = tuple(
    round(step * decade, 6) for decade in (0.001, 0.01, 0.1, 1.0, 10.0) for step in (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
)

_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)

#: Every metric of the engine model: name -> (kind, description, further label or buckets).
METRICS: dict[str, tuple[str, str, str | Sequence[float]]] = {
    "trireme_time_to_first_token_seconds": (
        "HISTOGRAM",
        "From the arrival of a streamed request at the engine model until its first ids are sent",
        _TTFT_SECONDS,
    ),
    "trireme_inter_token_seconds": (
        "HISTOGRAM",
        "Between two ids of a stream as they come from the engine; a sample, at most 50 a second",
        _SECONDS,
    ),
    "trireme_time_per_output_token_seconds": (
        "HISTOGRAM",
        "Of a request: from its first token to its last, as the engine had them, for each further token",
        _SECONDS,
    ),
    "trireme_queue_seconds": (
        "HISTOGRAM",
        "From the arrival of a request at the engine model until the engine first works on it",
        _SECONDS,
    ),
    "trireme_request_prompt_tokens": ("HISTOGRAM", "Prompt tokens of a request", _TOKENS),
    "trireme_request_output_tokens": ("HISTOGRAM", "Tokens that a request was answered with", _TOKENS),
    "trireme_requests_running": ("GAUGE", "Requests with the engine, or being sent", ""),
    "trireme_requests_waiting": ("GAUGE", "Requests that wait for room in the engine", ""),
    "trireme_kv_cache_blocks_used": ("GAUGE", "Blocks of the KV cache that requests hold", ""),
    "trireme_kv_cache_blocks_total": ("GAUGE", "Blocks that the KV cache is made of", ""),
    "trireme_engine_up": ("GAUGE", "1 while the engine takes requests, 0 while it is being started again", ""),
    "trireme_generated_tokens_total": ("COUNTER", "Token ids that the engine computed", ""),
    "trireme_reused_prompt_tokens_total": ("COUNTER", "Prompt tokens that came from the prefix cache", ""),
    "trireme_requests_finished_total": ("COUNTER", "Requests that ended, by finish reason", "finish_reason"),
    "trireme_requests_cancelled_total": ("COUNTER", "Requests that were cancelled, by cause", "cause"),
    "trireme_requests_refused_total": ("COUNTER", "Requests that the engine model refused, by code", "code"),
    "trireme_engine_restarts_total": ("COUNTER", "Times that the engine was lost, by cause", "cause"),
}


class _Families:
    """The metrics of one model, version and release, made as they are needed."""

    def __init__(self, labels: dict[str, str]) -> None:
        self._labels = labels
        self._metrics: dict[tuple[str, str], Any] = {}
        #: A metric lives as long as its family does.
        self._families: dict[str, Any] = {}

    def metric(self, name: str, value: str = "") -> Any:
        """The metric `name`, of those with a further label the one where it has `value`."""
        if (name, value) not in self._metrics:
            kind, description, extra = METRICS[name]
            if name not in self._families:
                code = getattr(pb_utils.MetricFamily, kind)
                self._families[name] = pb_utils.MetricFamily(name=name, description=description, kind=code)
            labels = {**self._labels, extra: value} if isinstance(extra, str) and extra else self._labels
            buckets = {"buckets": list(extra)} if not isinstance(extra, str) else {}
            self._metrics[name, value] = self._families[name].Metric(labels=labels, **buckets)
        return self._metrics[name, value]


def labels_of(args: dict[str, str]) -> dict[str, str]:
    """What every metric of a model is labelled with: its own name, its version, and its release, "" without one."""
    model, release = model_and_release(args["model_name"])
    return {"model": model, "version": args["model_version"], "release": release}


class RefusalCounter:
    """Counts what a model in front of the engine refuses, for the same metric as the engine model's."""

    def __init__(self, args: dict[str, str]) -> None:
        self._families = _Families(labels_of(args))

    def count(self, refusal: Refusal) -> None:
        """Count one."""
        self._families.metric("trireme_requests_refused_total", refusal.code.value).increment(1)


class EngineMetrics:
    """An `Observer` that keeps metrics, labelled with the model, its version and release, and the shared state."""

    def __init__(self, args: dict[str, str], queue_limits: QueueLimits) -> None:
        self._model, self._version = args["model_name"], args["model_version"]
        self._families = _Families(labels_of(args))
        self._status: StatusFile | None = None
        self._serves = True
        self._queue_file = QueueFile(self._model, self._version, queue_limits)
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._gauges: dict[str, float] = {"trireme_engine_up": 1}
        self._observations: dict[str, list[float]] = {}
        self._closing = threading.Event()
        for name, (kind, _, extra) in METRICS.items():
            if not isinstance(extra, str) or not extra:
                metric = self._families.metric(name)
                if kind == "COUNTER":
                    metric.increment(0)
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def loaded(self, limits: EngineLimits) -> None:
        """The model is loaded, and this is what its engine has. A death before would not be that of a server."""
        self._set("trireme_kv_cache_blocks_total", limits.kv_blocks)
        status = StatusFile(self._model, self._version)
        with self._lock:
            self._status = status
            status.serving(self._serves)

    def _serve(self, serves: bool) -> None:
        with self._lock:
            self._serves = serves
            if self._status is not None:
                self._status.serving(serves)

    def _count(self, name: str, value: str = "", count: float = 1) -> None:
        with self._lock:
            self._counts[name, value] += count  # type: ignore[assignment]

    def _set(self, name: str, value: float) -> None:
        with self._lock:
            self._gauges[name] = value

    def _observe(self, name: str, value: float, most: int = _MAX_OBSERVATIONS) -> None:
        with self._lock:
            values = self._observations.setdefault(name, [])
            if len(values) < most:
                values.append(value)

    def _run(self) -> None:
        while not self._closing.wait(_FLUSH_S):
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            counts, gauges, observations = self._counts, self._gauges, self._observations
            self._counts, self._gauges, self._observations = Counter(), {}, {}
        for (name, label), count in counts.items():
            self._families.metric(name, label).increment(count)
        for name, value in gauges.items():
            self._families.metric(name).set(value)
        for name, values in observations.items():
            metric = self._families.metric(name)
            for value in values:
                metric.observe(value)

    def load(self, running: int, waiting: int) -> None:
        with self._lock:
            self._gauges["trireme_requests_running"] = running
            self._gauges["trireme_requests_waiting"] = waiting

    def queue(self, state: QueueState) -> None:
        self._queue_file.write(state)

    def refused(self, refusal: Refusal) -> None:
        self._count("trireme_requests_refused_total", refusal.code.value)

    def step(self, step: EngineStep) -> None:
        reused = sum(event.cache.reused_tokens for event in step.events if event.cache is not None and event.is_last)
        with self._lock:
            self._counts["trireme_generated_tokens_total", ""] += step.num_ids
            if reused:
                self._counts["trireme_reused_prompt_tokens_total", ""] += reused
            self._gauges["trireme_kv_cache_blocks_used"] = step.kv_blocks_used

    def inter_token(self, gap_s: float) -> None:
        self._observe("trireme_inter_token_seconds", gap_s, _MAX_INTER_TOKEN_OBSERVATIONS)

    def first_token(self, delay_s: float) -> None:
        self._observe("trireme_time_to_first_token_seconds", delay_s)

    def cancelled(self, cause: CancelCause) -> None:
        self._count("trireme_requests_cancelled_total", cause.value)

    def ended(self, answer: RunningAnswer) -> None:
        reasons = {sequence.finish_reason for sequence in answer.sequences}
        reason = FinishReason.ERROR if answer.error else reasons.pop() or FinishReason.ERROR
        self._count("trireme_requests_finished_total", reason.value)
        self._observe("trireme_request_prompt_tokens", len(answer.request.input_ids))
        self._observe("trireme_request_output_tokens", answer.generated)
        if (token_time_s := answer.time_per_output_token_s) is not None:
            self._observe("trireme_time_per_output_token_seconds", token_time_s)
        if answer.first_scheduled_ns:
            self._observe("trireme_queue_seconds", max(0, answer.first_scheduled_ns - answer.arrival_ns) / 1e9)

    def send_failed(self, error: Exception) -> None:
        pb_utils.Logger.log_error(f"a chunk could not be sent: {type(error).__name__}: {error}")

    def engine_lost(self, error: EngineDied) -> None:
        self._serve(False)
        self._set("trireme_engine_up", 0)
        self._set("trireme_kv_cache_blocks_used", 0)
        self._count("trireme_engine_restarts_total", error.cause)
        pb_utils.Logger.log_error(f"the engine was lost ({error.cause}): {error}")

    def engine_started(self) -> None:
        self._serve(True)
        self._set("trireme_engine_up", 1)
        pb_utils.Logger.log_info("the engine was started again")

    def close(self) -> None:
        """Unloaded in good order."""
        self._closing.set()
        self._thread.join(timeout=5)
        if self._status is not None:
            self._status.close()
        self._queue_file.close()
