"""Sends the spans of a process to an OpenTelemetry collector, by OTLP over HTTP. Knows nothing of requests.

Spans go into a bounded queue, and from there in a thread of its own: a collector that is slow or gone costs spans, and
nothing else. OpenTelemetry is imported by `SpanSender` only.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.sampling import Sampler

#: The standard's variables: the whole URL for traces, or one for everything, to which the path is added.
TRACES_ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
DISABLED_VARIABLE = "OTEL_SDK_DISABLED"

_PATH = "/v1/traces"

#: How many spans may wait, how many go together, and how long they collect where the standard's variable does not say.
_MAX_WAITING = 2048
_MAX_BATCH = 256
_COLLECT_MS = 1000
COLLECT_VARIABLE = "OTEL_BSP_SCHEDULE_DELAY"

#: For the collector to answer; and for what is left, at the end.
_TIMEOUT_S = 3.0
_END_S = 1.0

#: How much of a text is kept.
_MAX_TEXT = 1024

_LOG_EVERY_S = 60.0


def traces_url(base: str) -> str:
    """Where traces go, of a collector's base URL."""
    return base.rstrip("/") + _PATH


def url_of_environment() -> str | None:
    """Where traces go; None: nowhere."""
    if os.environ.get(DISABLED_VARIABLE, "").strip().lower() == "true":
        return None
    if url := os.environ.get(TRACES_ENDPOINT_VARIABLE, "").strip():
        return url
    base = os.environ.get(ENDPOINT_VARIABLE, "").strip()
    return traces_url(base) if base else None


class _SeldomHandler(logging.Handler):
    """Passes on what OpenTelemetry has to say, once a minute at most."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._warn = warn
        self._last = float("-inf")

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now - self._last >= _LOG_EVERY_S:
            self._last = now
            self._warn(f"traces: {record.getMessage()}")


class SpanSender:
    """Sends to `url`. resource: what each span says of its process. warn: a line for the log.

    `tracer` makes spans, which are sent when they end. Raises ImportError where OpenTelemetry is not installed.
    """

    def __init__(
        self,
        url: str,
        resource: Mapping[str, str],
        warn: Callable[[str], None],
        sampler: "Sampler | None" = None,
    ) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        log = logging.getLogger("opentelemetry")
        log.handlers[:] = [_SeldomHandler(warn)]
        log.propagate = False
        self._provider = TracerProvider(
            sampler=sampler or ALWAYS_ON,
            resource=Resource.create(dict(resource)),
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_span_attribute_length=_MAX_TEXT),
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(endpoint=url, timeout=_TIMEOUT_S),
                max_queue_size=_MAX_WAITING,
                schedule_delay_millis=None if os.environ.get(COLLECT_VARIABLE) else _COLLECT_MS,
                max_export_batch_size=_MAX_BATCH,
            )
        )
        self.tracer = self._provider.get_tracer("trireme")

    def close(self) -> None:
        """Send what is left, as far as it can be sent in a second."""
        # Its own way of ending waits 30 s for a collector that does not answer.
        ending = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        ending.start()
        ending.join(_END_S)
