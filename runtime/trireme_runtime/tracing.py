"""What models tell of the requests that are traced, as spans below that of the caller.

A caller passes its context on as the request parameter `traceparent` (W3C Trace Context), which reaches every step of
an ensemble. Requests without one, or with one that is not sampled, leave no spans. Where the environment names no
collector there is no `ModelTraces`, and nothing is imported or asked for.
"""

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .answers import CancelCause, RunningAnswer
from .otlp import SpanSender, url_of_environment

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1

#: A stream of which nothing came for so long has ended: once one of its sequences has, and otherwise.
_QUIET_S, _LOST_S = 1.0, 60.0
_LOOK_EVERY_S = 0.25


def is_sampled(traceparent: str) -> bool:
    """Whether it is one, and spans are wanted below it."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return match is not None and bool(int(match[3], 16) & _SAMPLED)


class ModelTraces:
    """The spans of one model, in its process. Use `close` at its end."""

    def __init__(self, sender: SpanSender) -> None:
        self._sender = sender

    def span(
        self,
        traceparent: str,
        name: str,
        began_ns: int,
        ended_ns: int,
        attributes: "Mapping[str, AttributeValue] | None" = None,
        events: Mapping[str, int] | None = None,
        error: str | None = None,
    ) -> None:
        """A span that has ended; times, also those of events, in ns of time.time_ns(). error: the code of one."""
        from opentelemetry import trace

        match = _TRACEPARENT.fullmatch(traceparent)
        assert match is not None
        parent = trace.SpanContext(int(match[1], 16), int(match[2], 16), True, trace.TraceFlags(_SAMPLED))
        span = self._sender.tracer.start_span(
            name,
            trace.set_span_in_context(trace.NonRecordingSpan(parent)),
            trace.SpanKind.INTERNAL,
            attributes,
            start_time=began_ns,
        )
        for event, time_ns in (events or {}).items():
            span.add_event(event, timestamp=time_ns)
        if error is not None:
            span.set_attribute("error.type", error)
            span.set_status(trace.Status(trace.StatusCode.ERROR))
        span.end(max(began_ns, ended_ns))

    def close(self) -> None:
        """Send what is left."""
        self._sender.close()


def model_traces(role: str, args: Mapping[str, str], warn: Callable[[str], None]) -> ModelTraces | None:
    """Of a model in this process, if the environment says where they go. args: what Triton gives to `initialize`."""
    url = url_of_environment()
    if url is None:
        return None
    resource = {
        "service.name": f"trireme-{role}",
        "trireme.model": args["model_name"],
        "trireme.model.version": args["model_version"],
    }
    try:
        return ModelTraces(SpanSender(url, resource, warn))
    except ImportError as error:
        warn(f"no traces, though {url} is to get them: {error}")
        return None


class EngineSpans:
    """`queue`, `prefill` and `decode` of each generation: a `streams.Tap`."""

    def __init__(self, traces: ModelTraces, engine: str) -> None:
        self._traces = traces
        self._engine = engine

    def arrived(self, answer: RunningAnswer) -> None:
        """Nothing yet."""

    def ended(self, answer: RunningAnswer) -> None:
        """Of its times, which the engine tells at the end, unless it was lost or is not asked any more."""
        if not answer.traceparent:
            return
        now_ns = time.monotonic_ns()
        wall_ns = time.time_ns() - now_ns
        scheduled_ns = answer.first_scheduled_ns or answer.submitted_ns
        first_ns, last_ns = answer.token_times_ns
        prompt_tokens = len(answer.request.input_ids)
        phases: list[tuple[str, int, int, dict[str, AttributeValue]]] = [
            ("queue", answer.arrival_ns, scheduled_ns or now_ns, {})
        ]
        if scheduled_ns and (first_ns or not answer.generated):
            prompt: dict[str, AttributeValue] = {
                "gen_ai.usage.input_tokens": prompt_tokens,
                "gen_ai.usage.cache_read.input_tokens": answer.reused_tokens,
            }
            phases.append(("prefill", scheduled_ns, first_ns or now_ns, prompt))
        if scheduled_ns and (first_ns or answer.generated):
            whole: dict[str, AttributeValue] = {
                "gen_ai.usage.input_tokens": prompt_tokens,
                "gen_ai.usage.output_tokens": answer.generated,
                "gen_ai.response.finish_reasons": [
                    one.finish_reason.value for one in answer.sequences if one.finish_reason
                ],
            }
            phases.append(("decode", first_ns or scheduled_ns, last_ns or now_ns, whole))
        for name, began_ns, ended_ns, attributes in phases:
            self._traces.span(
                answer.traceparent,
                name,
                wall_ns + began_ns,
                wall_ns + ended_ns,
                {"trireme.engine": self._engine, "triton.request.id": answer.request_id, **attributes},
                {"first_token": wall_ns + first_ns} if name == "decode" and first_ns else {},
                # What went wrong did so in the last one.
                _error_of(answer) if name == phases[-1][0] else None,
            )


def _error_of(answer: RunningAnswer) -> str | None:
    """Why it did not come to its end."""
    if answer.error is not None:
        return answer.error.code.value
    if answer.cancelled_by is not None and answer.cancelled_by is not CancelCause.STOP:
        return f"cancelled_by_{answer.cancelled_by.value}"
    return None


@dataclass
class _Stream:
    traceparent: str
    began_ns: int
    ended_ns: int = 0
    seen_s: float = field(default_factory=time.monotonic)
    busy_ns: int = 0
    pieces: int = 0
    output_tokens: int = 0
    has_end: bool = False


class StreamSpans:
    """`postprocessing`: one span for each stream, from its first piece to its last one.

    A piece does not say whether another sequence of its answer follows, so that a stream has ended when nothing comes.
    """

    def __init__(self, traces: ModelTraces) -> None:
        self._traces = traces
        #: Those that are traced, by key.
        self._streams: dict[int, _Stream] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def piece(self, key: int, traceparent: Callable[[], str], began_ns: int, output_tokens: int, is_end: bool) -> None:
        """A piece of a stream was made into text, from `began_ns` (time.time_ns()) until now.

        traceparent: "" for one that is not traced; of one that is, it is asked for once. output_tokens: of the answer
        so far. is_end: whether a sequence ends with it.
        """
        with self._lock:
            stream = self._streams.get(key)
            if stream is None:
                parent = traceparent()
                if not parent:
                    return
                stream = self._streams[key] = _Stream(parent, began_ns)
            stream.ended_ns = time.time_ns()
            stream.seen_s = time.monotonic()
            stream.busy_ns += stream.ended_ns - began_ns
            stream.pieces += 1
            stream.output_tokens = output_tokens
            stream.has_end = stream.has_end or is_end

    def _run(self) -> None:
        while not self._closing.wait(_LOOK_EVERY_S):
            self._send()

    def _send(self, all_of_them: bool = False) -> None:
        now = time.monotonic()
        with self._lock:
            over = [
                key
                for key, stream in self._streams.items()
                if all_of_them or now - stream.seen_s > (_QUIET_S if stream.has_end else _LOST_S)
            ]
            streams = [self._streams.pop(key) for key in over]
        for stream in streams:
            attributes: dict[str, AttributeValue] = {
                "gen_ai.usage.output_tokens": stream.output_tokens,
                "trireme.pieces": stream.pieces,
                "trireme.busy_seconds": stream.busy_ns / 1e9,
            }
            self._traces.span(stream.traceparent, "postprocessing", stream.began_ns, stream.ended_ns, attributes)

    def close(self) -> None:
        """Tell of all that there are."""
        self._closing.set()
        self._thread.join()
        self._send(all_of_them=True)
        self._traces.close()
