"""The engine's metrics on Triton's metrics endpoint. Importable inside a stub only."""

from typing import Any

import triton_python_backend_utils as pb_utils

from .engines.base import EngineDied


class EngineMetrics:
    """An `Observer` that keeps gauges and counters, labelled with the model and its version."""

    def __init__(self, args: dict[str, str]) -> None:
        labels = {"model": args["model_name"], "version": args["model_version"]}
        self._families: list[Any] = []
        self._running = self._metric("trireme_requests_running", "Generations in flight", "GAUGE", labels)
        self._generated = self._metric(
            "trireme_generated_tokens_total", "Token ids that the engine computed", "COUNTER", labels
        )

        self._reused = self._metric(
            "trireme_reused_prompt_tokens_total",
            "Prompt tokens that came from the engine's prefix cache",
            "COUNTER",
            labels,
        )

    def _metric(self, name: str, description: str, kind: str, labels: dict[str, str]) -> Any:
        family = pb_utils.MetricFamily(name=name, description=description, kind=getattr(pb_utils.MetricFamily, kind))
        # A metric lives as long as its family does.
        self._families.append(family)
        return family.Metric(labels=labels)

    def running(self, count: int) -> None:
        """`count` generations are running or being sent now."""
        self._running.set(count)

    def generated(self, count: int) -> None:
        """`count` further ids came from the engine."""
        if count:
            self._generated.increment(count)

    def reused(self, count: int) -> None:
        """A request ended, `count` tokens of whose prompt came from the engine's cache."""
        if count:
            self._reused.increment(count)

    def send_failed(self, error: Exception) -> None:
        """Say so in the server's log."""
        pb_utils.Logger.log_error(f"a chunk could not be sent: {type(error).__name__}: {error}")

    def engine_lost(self, error: EngineDied) -> None:
        """Say so in the server's log."""
        pb_utils.Logger.log_error(f"the engine was lost: {error}")
