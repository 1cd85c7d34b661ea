"""Connections that cannot be held open for nothing: uvicorn's own protocol, with limits that it does not have."""

import asyncio
import fcntl
import json
import socket
import struct
import termios
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ..api.errors import error_object
from ..metrics import Metrics
from ..settings import Limits

#: What the kernel keeps of what a client has not read, in bytes (Linux doubles it); it would grow to megabytes.
_SEND_BUFFER = 128 << 10

#: How often connections are looked at whose client may have stopped reading, in s.
_SWEEP_S = 1.0


def plain_response(status: str, message: str, kind: str) -> bytes:
    """An error in OpenAI's shape, as it goes over the wire, after which the connection is closed."""
    body = json.dumps(error_object(message, kind)).encode()
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    )
    return head.encode() + b"\r\n" + body


class GuardedProtocol(HttpToolsProtocol):
    """One connection. A request's headers must come in time and be short, and what is sent must be read in time.

    Headers are due from the end of one request to the end of the next one's headers, whatever is being answered.
    """

    limits: ClassVar[Limits]
    metrics: ClassVar[Metrics]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._in_headers = True
        #: Requests whose headers came.
        self._heads = 0
        self._header_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        #: What is being answered; uvicorn's own `cycle` is the last that was read.
        self._running: RequestResponseCycle | None = None
        #: What waited to be read by the client at the last look, in bytes, and for how many looks it did not shrink.
        self.unread = 0
        self.stalled_looks = 0

    def connection_made(self, transport: Any) -> None:
        """uvicorn's, and the clock for the headers."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self.metrics.cut("too_many")
            message = f"{self.limits.max_connections} connections are open, the most that may be"
            transport.write(plain_response("503 Service Unavailable", message, "server_error"))
            transport.close()
            return
        if (connected := transport.get_extra_info("socket")) is not None and connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn's, which tells the request that was read last; here all are told, the one that is answered too."""
        self._stop_timer()
        super().connection_lost(exc)
        for cycle in (self._running, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        """uvicorn's, and the length of the headers."""
        were_due, heads = self._in_headers, self._heads
        super().data_received(data)
        if not were_due or heads != self._heads or self.transport.is_closing():
            return
        # All of it was headers, or what is none yet.
        if self._timer is None:
            self._expect_headers()
        self._header_bytes += len(data)
        if self._header_bytes > self.limits.max_header_bytes:
            self.metrics.cut("long_headers")
            message = f"the request's headers have more than {self.limits.max_header_bytes} bytes"
            self._refuse("431 Request Header Fields Too Large", message)

    def on_message_begin(self) -> None:
        """uvicorn's, and the clock for the headers."""
        super().on_message_begin()
        if self._timer is None:
            self._expect_headers()

    def on_headers_complete(self) -> None:
        """uvicorn's; the headers are there."""
        self._in_headers = False
        self._heads += 1
        self._header_bytes = 0
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """uvicorn's; what comes next are headers."""
        super().on_message_complete()
        self._in_headers = True
        if self.cycle is not None and self.cycle.response_complete and self.timeout_keep_alive_task is None:
            # Answered before its body was there, which has stopped the clock of an idle connection.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """What uvicorn says to what is no HTTP, as JSON."""
        self._refuse("400 Bad Request", msg)

    def _refuse(self, status: str, message: str) -> None:
        if self._running is not None and not self._running.response_complete:
            # It would stand in the middle of an answer.
            self.transport.abort()
            return
        self.transport.write(plain_response(status, message, "invalid_request_error"))
        self.transport.close()

    def _expect_headers(self) -> None:
        self._timer = self.loop.call_later(self.limits.header_timeout_s, self._late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self._in_headers and not self.transport.is_closing():
            self.metrics.cut("late_headers")
            self._refuse(
                "408 Request Timeout",
                f"the request's headers did not come within {self.limits.header_timeout_s:g} s",
            )

    def _is_left_open(self) -> bool:
        # Closed here and all of it received, but with TLS the client is to agree, which many never do.
        connected = self.transport.get_extra_info("socket")
        if not self.transport.is_closing() or connected is None or connected.fileno() < 0:
            return False
        (unsent,) = struct.unpack("i", fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4)))
        return not unsent and not self.transport.get_write_buffer_size()

    def look(self) -> None:
        """Cut the connection if its client has read nothing for too long, or does not close its side."""
        if self._is_left_open():
            self.transport.abort()
            return
        size = self.transport.get_write_buffer_size()
        self.stalled_looks = self.stalled_looks + 1 if size and size >= self.unread else 0
        self.unread = size
        if self.stalled_looks * _SWEEP_S >= self.limits.write_timeout_s:
            self.metrics.cut("not_read")
            self.transport.abort()


def guarded(limits: Limits, metrics: Metrics) -> type[GuardedProtocol]:
    """The protocol with these limits."""
    return type("Guarded", (GuardedProtocol,), {"limits": limits, "metrics": metrics})


async def sweep(connections: set[Any]) -> None:
    """Look at all connections, again and again."""
    while True:
        await asyncio.sleep(_SWEEP_S)
        for connection in list(connections):
            connection.look()
