"""What tests of traces share: a collector that takes OTLP over HTTP, and what it was sent."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from support import wait_for


@dataclass(frozen=True)
class Event:
    """Of a span."""

    name: str
    time_ns: int


@dataclass(frozen=True)
class Span:
    """As it was received; ids in hex, parent "" at the root. kind: OTLP's number; is_error: its status."""

    name: str
    service: str
    resource: Mapping[str, Any]
    trace: str
    id: str
    parent: str
    kind: int
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, Any]
    events: tuple[Event, ...]
    is_error: bool


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)


def _values(attributes: Any) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _spans_of(body: bytes) -> Iterator[Span]:
    for of_process in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _values(of_process.resource.attributes)
        for span in (span for scope in of_process.scope_spans for span in scope.spans):
            yield Span(
                span.name,
                resource["service.name"],
                resource,
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                span.kind,
                span.start_time_unix_nano,
                span.end_time_unix_nano,
                _values(span.attributes),
                tuple(Event(event.name, event.time_unix_nano) for event in span.events),
                span.status.code == span.status.STATUS_CODE_ERROR,
            )


@dataclass
class Collector:
    """A running one. url: its base. bodies: as they came; paths: where to."""

    url: str
    bodies: list[bytes] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)
    spans: list[Span] = field(default_factory=list)

    def named(self, name: str, trace: str | None = None) -> list[Span]:
        """The spans of a name, of one trace or of all."""
        return [span for span in self.spans if span.name == name and trace in (None, span.trace)]

    def wait(self, is_there: Callable[[Span], bool], count: int = 1) -> list[Span]:
        """Wait until so many spans are there that are asked for."""
        return list(
            wait_for(lambda: len(found := [one for one in self.spans if is_there(one)]) >= count and found, 15, "spans")
        )


@contextmanager
def collector() -> Iterator[Collector]:
    """A collector on a free port of the loopback address, until the end."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.paths.add(self.path)
            found.bodies.append(body)
            found.spans += _spans_of(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        found = Collector(f"http://127.0.0.1:{serving.server_port}")
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield found
        finally:
            serving.shutdown()
            thread.join()
