"""Traces of requests, by OpenTelemetry and with its names for generative AI. No prompt, answer or key is in them.

Where they are off there is no `Traces`, and nothing is imported; a request that is not sampled has no `RequestTrace`.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trireme_client import Answer, Generation
from trireme_runtime.contract import TRACEPARENT
from trireme_runtime.otlp import SpanSender, traces_url, url_of_environment

from .api.errors import CLIENT_LEFT
from .api.translate import ALL_THAT_IS_LEFT
from .errors import SettingError
from .log import log
from .settings import TraceSettings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

_PROVIDER = "trireme"

#: By endpoint: the name of the operation, and the path.
_OPERATIONS = {
    "chat": ("chat", "/v1/chat/completions"),
    "completions": ("text_completion", "/v1/completions"),
}

#: What a client says of its own span.
_CONTEXT = ("traceparent", "tracestate")

#: From this status on a request counts as failed; below it is its client's fault.
_FAILED = 500


def traces_of(settings: TraceSettings) -> "Traces | None":
    """None where nothing says where they go. Raises SettingError if they cannot be had."""
    url = traces_url(settings.endpoint) if settings.endpoint is not None else url_of_environment()
    if url is None:
        return None
    try:
        return Traces(url, settings.sample)
    except ImportError as error:
        raise SettingError(f"{url} is to get traces, and {error.name} is not installed; type: make setup") from None


class Traces:
    """Makes the spans of requests and sends them to `url`; sample: the share of those whose client does not decide."""

    def __init__(self, url: str, sample: float) -> None:
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        sampler = ParentBased(TraceIdRatioBased(sample))
        self._sender = SpanSender(url, {"service.name": "trireme-gateway"}, log.warning, sampler)
        self._propagator = TraceContextTextMapPropagator()

    def request(
        self, endpoint: str, headers: Mapping[bytes, bytes], request_id: str, server: Any
    ) -> "RequestTrace | None":
        """Of one that begins now, below the span of its client if that names one; server: (host, port), if known."""
        from opentelemetry import trace
        from opentelemetry.context import Context

        operation, route = _OPERATIONS[endpoint]
        given = {name: headers[name.encode()].decode("latin-1") for name in _CONTEXT if name.encode() in headers}
        span = self._sender.tracer.start_span(
            operation, self._propagator.extract(given, Context()), trace.SpanKind.SERVER
        )
        if not span.is_recording():
            return None
        span.set_attributes(
            {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": _PROVIDER,
                "http.request.method": "POST",
                "http.route": route,
                "trireme.request.id": request_id,
            }
        )
        if server is not None:
            span.set_attributes(_address(*server[:2]))
        return RequestTrace(self, span, operation)

    def start(self, name: str, context: "Context", kind: Any) -> "Span":
        """A further span."""
        return self._sender.tracer.start_span(name, context, kind)

    def close(self) -> None:
        """Send what is left."""
        self._sender.close()


def _address(host: str, port: int | None) -> dict[str, str | int]:
    return {"server.address": host, **({} if port is None else {"server.port": port})}


class RequestTrace:
    """The spans of one request that is sampled. Use `end`."""

    def __init__(self, traces: Traces, span: "Span", operation: str) -> None:
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        self._traces = traces
        self._span = span
        self._operation = operation
        self._began_s = time.perf_counter()
        self._context = set_span_in_context(span, Context())

    def asked(self, model: str, generation: Generation, choices: int, stream: bool) -> None:
        """What is asked for is known. model: a name of the API; generation: the first one."""
        self._span.update_name(f"{self._operation} {model}")
        tokens, seed = generation.max_tokens, generation.seed
        given = {
            "gen_ai.request.model": model,
            "gen_ai.request.max_tokens": None if tokens == ALL_THAT_IS_LEFT else tokens,
            "gen_ai.request.temperature": generation.temperature,
            "gen_ai.request.top_p": generation.top_p,
            "gen_ai.request.top_k": generation.top_k,
            "gen_ai.request.frequency_penalty": generation.frequency_penalty,
            "gen_ai.request.presence_penalty": generation.presence_penalty,
            # As the client wrote it: attributes are whole numbers with a sign.
            "gen_ai.request.seed": None if seed is None else (seed + 2**63) % 2**64 - 2**63,
            "gen_ai.request.stop_sequences": list(generation.stop) or None,
            "gen_ai.request.choice.count": choices if choices != 1 else None,
            "gen_ai.request.stream": stream or None,
        }
        self._span.set_attributes({name: value for name, value in given.items() if value is not None})

    def first_token(self) -> None:
        """The first piece of a stream is there."""
        self._span.set_attribute("gen_ai.response.time_to_first_chunk", time.perf_counter() - self._began_s)
        self._span.add_event("gen_ai.first_token")

    def answered(self, response_id: str, answers: Iterable[Answer]) -> None:
        """What came of it."""
        self._span.set_attribute("gen_ai.response.id", response_id)
        reasons = [answer.finish_reason for answer in answers if answer.finish_reason]
        if reasons:
            self._span.set_attribute("gen_ai.response.finish_reasons", reasons)

    def failed(self, kind: str) -> None:
        """It has failed; kind: the code of the error."""
        self._span.set_attribute("error.type", kind)

    def end(self, status: int, tokens: tuple[int, int], release: str | None, cache: str | None) -> None:
        """Of HTTP, and what the answer had; None where there is none."""
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attribute("http.response.status_code", status)
        if status == CLIENT_LEFT:
            self.failed("client_left")
        if release is not None and cache is not None:
            self._span.set_attributes(
                {
                    "gen_ai.response.model": release,
                    "gen_ai.usage.input_tokens": tokens[0],
                    "gen_ai.usage.output_tokens": tokens[1],
                    "trireme.cache": cache,
                }
            )
        if status >= _FAILED:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """For room on a server."""
        from opentelemetry.trace import SpanKind

        span = self._traces.start("queue", self._context, SpanKind.INTERNAL)
        try:
            yield
        except BaseException as error:
            _fail(span, error)
            raise
        finally:
            span.end()

    def call(self, server: str, address: str) -> "CallTrace":
        """Of a server, which begins now. address: host:port."""
        from opentelemetry.trace import SpanKind

        span = self._traces.start(f"infer {server}", self._context, SpanKind.CLIENT)
        host, _, port = address.rpartition(":")
        span.set_attributes({"trireme.server": server, "rpc.system": "grpc", **_address(host.strip("[]"), int(port))})
        return CallTrace(span)


class CallTrace:
    """The span of one call. parameters: of the request to Triton."""

    def __init__(self, span: "Span") -> None:
        context = span.get_span_context()
        self._span = span
        self.parameters = {
            TRACEPARENT: f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
        }

    def end(self, error: BaseException | None = None) -> None:
        """It has ended, with an error or in order; nothing happens the second time."""
        if self._span.is_recording():
            if error is not None:
                _fail(self._span, error)
            self._span.end()


def _fail(span: "Span", error: BaseException) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("error.type", type(error).__name__)
    span.set_status(Status(StatusCode.ERROR))


def waiting(trace: RequestTrace | None) -> contextlib.AbstractContextManager[None]:
    """Around waiting for room on a server."""
    return contextlib.nullcontext() if trace is None else trace.waiting()
