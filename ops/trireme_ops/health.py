"""The supervisor's own endpoint: readiness that knows of dead processes, and its metrics.

Triton calls itself ready while a stub of its Python backend is dead, and does not know of the engine's process at all.
"""

import json
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from .embedded import CONTROL_HEADER, Ports

#: Readiness of a model, or with None of everything; and whether there is such a model, in such a version.
Ready = Callable[[str | None], bool]
HasModel = Callable[[str, str | None], bool]

#: Answers a call of the control API: the key that was given, the act, the body -> the status, and what to answer.
Control = Callable[[str, str, bytes], tuple[int, dict[str, Any]]]

#: What balancers ask: 200 where new requests may come, 404 where none may and those under way go on. HAProxy knows the
#: difference to no answer at all, with `http-check disable-on-404`; `/v2/health/ready` says 503, as Triton does.
BALANCER_PATH = ["v2", "trireme", "balancer"]

#: Below which path that is, and the longest body that is read, in bytes.
CONTROL_PATH = ["v2", "trireme", "releases"]
MAX_BODY = 4 << 20


class SupervisorMetrics:
    """What the supervisor counts."""

    def __init__(self, ready: Ready) -> None:
        self.registry = CollectorRegistry()
        self._restarts = Counter(
            "trireme_server_restarts",
            "Times that tritonserver was started again, by what had died",
            ["cause"],
            registry=self.registry,
        )
        for cause in ("tritonserver", "stub"):
            self._restarts.labels(cause)
        gauge = Gauge("trireme_server_ready", "1 while the server and all its models serve", registry=self.registry)
        gauge.set_function(lambda: float(ready(None)))

    def restarted(self, cause: str) -> None:
        """Count one."""
        self._restarts.labels(cause).inc()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """As usual, but for balancers that do not wait for the answer."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class HealthEndpoint:
    """HTTP beside the server: Triton's health paths, /metrics and the control API. Use `start` and `stop`."""

    def __init__(self, ports: Ports, ready: Ready, has_model: HasModel, control: Control | None = None) -> None:
        self.metrics = SupervisorMetrics(ready)
        metrics = self.metrics

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                parts = self.path.partition("?")[0].strip("/").split("/")
                if parts == ["v2", "health", "live"]:
                    self._answer(200)
                elif parts == ["v2", "health", "ready"]:
                    self._answer(200 if ready(None) else 503)
                elif parts == BALANCER_PATH:
                    self._answer(200 if ready(None) else 404)
                elif len(parts) in (4, 6) and parts[:2] == ["v2", "models"] and parts[-1] == "ready":
                    version = parts[4] if parts[3] == "versions" else None
                    if has_model(parts[2], version):
                        self._answer(200 if ready(parts[2]) else 503)
                    else:
                        self._answer(404)
                elif parts == CONTROL_PATH:
                    self._control("", b"")
                elif parts == ["metrics"]:
                    self._answer(200, generate_latest(metrics.registry), CONTENT_TYPE_LATEST)
                else:
                    self._answer(404)

            def do_POST(self) -> None:
                parts = self.path.partition("?")[0].strip("/").split("/")
                length = self.headers.get("Content-Length", "0")
                if parts[:-1] != CONTROL_PATH:
                    self._answer(404)
                elif not length.isdecimal() or int(length) > MAX_BODY:
                    self.close_connection = True
                    self._answer(413)
                else:
                    self._control(parts[-1], self.rfile.read(int(length)))

            def _control(self, act: str, body: bytes) -> None:
                if control is None:
                    self._answer(404)
                    return
                status, document = control(self.headers.get(CONTROL_HEADER, ""), act, body)
                self._answer(status, json.dumps(document, ensure_ascii=False).encode(), "application/json")

            def _answer(self, status: int, body: bytes = b"", content_type: str = "text/plain") -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                """Nothing: balancers ask every second."""

        self._server = _Server((ports.address, ports.health), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
