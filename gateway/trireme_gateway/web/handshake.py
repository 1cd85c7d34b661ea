"""Connections whose TLS handshake is under way: bounded in time and number, and whoever waits longest gives way."""

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable
from typing import Any

from uvloop.loop import SSLProtocol  # type: ignore[attr-defined]

from ..metrics import Metrics
from ..settings import Limits
from .guard import plain_response

#: At once. A client that means it is done after two round trips; one more than these costs the oldest its place.
_MAX_UNDER_WAY = 1024


class Handshakes:
    """Those of one gateway; makes the protocol of a connection, as uvicorn asks for it.

    context: of the next handshake. behind: makes the protocol that speaks once it is done.
    """

    def __init__(
        self, context: Callable[[], ssl.SSLContext], limits: Limits, metrics: Metrics, behind: Callable[..., Any]
    ) -> None:
        self._context = context
        self._behind = behind
        self.limits = limits
        self.metrics = metrics
        self._under_way: dict[_Handshake, None] = {}

    def __call__(self, **named: Any) -> asyncio.Protocol:
        """The protocol of a connection that was accepted."""
        context = self._context()
        context.sslobject_class = _TellingObject
        return _Handshake(self, context, self._behind(**named))

    def began(self, handshake: "_Handshake") -> None:
        """One more; another one may have to go."""
        self._under_way[handshake] = None
        if len(self._under_way) > _MAX_UNDER_WAY:
            next(iter(self._under_way)).cut()

    def ended(self, handshake: "_Handshake") -> None:
        """One less."""
        self._under_way.pop(handshake, None)

    def cut_all(self) -> None:
        """Of those that are under way."""
        for handshake in list(self._under_way):
            handshake.cut()


class _TellingObject(ssl.SSLObject):
    """TLS that tells when its handshake failed."""

    failed: Callable[[ssl.SSLError], None]

    def do_handshake(self) -> None:
        """Go on with it."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self.failed(error)
            raise


class _Handshake(asyncio.Protocol):
    """One of them; stands in for the context as well, to see what is about to be sent."""

    def __init__(self, all_of_them: Handshakes, context: ssl.SSLContext, behind: asyncio.Protocol) -> None:
        self._all = all_of_them
        self._context = context
        self._behind: asyncio.Protocol | None = behind
        self._transport: Any = None
        self._outgoing: ssl.MemoryBIO | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted: hand over to uvloop's TLS, as its own server does."""
        self._transport = transport
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        done.add_done_callback(self._ended)
        self._all.began(self)
        tls = SSLProtocol(
            loop,
            self._behind,
            self,
            done,
            server_side=True,
            ssl_handshake_timeout=self._all.limits.header_timeout_s,
            ssl_shutdown_timeout=self._all.limits.write_timeout_s,
        )
        # Else a connection that is closed would be kept by what it was made of.
        self._behind = None
        self._transport.set_protocol(tls)
        tls.connection_made(transport)

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **named: Any) -> ssl.SSLObject:
        """What SSLProtocol asks a context for."""
        self._outgoing = outgoing
        made = self._context.wrap_bio(incoming, outgoing, **named)
        assert isinstance(made, _TellingObject)
        made.failed = self._refuse
        return made

    def _refuse(self, error: ssl.SSLError) -> None:
        # Say why, which uvloop would not; at once, as it closes the connection next.
        assert self._outgoing is not None
        last = self._outgoing.read()
        if error.reason == "HTTP_REQUEST":
            last = plain_response("400 Bad Request", "this port speaks HTTPS", "invalid_request_error")
        with contextlib.suppress(OSError):
            os.write(self._transport.get_extra_info("socket").fileno(), last)

    def cut(self) -> None:
        """Its place is needed."""
        self._all.ended(self)
        self._all.metrics.cut("late_handshake")
        self._transport.abort()

    def _ended(self, done: "asyncio.Future[None]") -> None:
        self._all.ended(self)
        self._transport = self._outgoing = None
        if (error := done.exception()) is not None:
            late = isinstance(error, ConnectionAbortedError)
            self._all.metrics.cut("late_handshake" if late else "no_handshake")
