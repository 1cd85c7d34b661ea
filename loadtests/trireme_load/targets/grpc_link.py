"""The link between a process of the load generator and the one that speaks gRPC for it."""

import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gevent
import msgpack
from gevent import socket, subprocess
from gevent.event import AsyncResult
from gevent.queue import SimpleQueue

from trireme_client import Unavailable

from ..grpc_reader import Kind, Outcome

#: How long the process may take to end, until it is killed.
_END_S = 2.0


class GrpcLink:
    """Starts the process; `close` ends it. One that dies is not started again: its calls raise Unavailable."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trireme_load.grpc_reader", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # Ctrl-C reaches it, too; those who wait for answers decide when it is over.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
            )
        self._waiting: dict[int, AsyncResult[Outcome]] = {}
        self._numbers = 0
        self._lost = ""
        #: Told how busy the process is: the share of a core, and by how much its timers came late.
        self.on_busy: Callable[[float, Sequence[float]], None] = lambda _busiest, _lags_s: None
        #: Told why, if the process ends before `close`.
        self.on_lost: Callable[[str], None] = lambda _why: None
        # One greenlet writes: what a user who is stopped was to send goes out whole.
        self._outgoing: SimpleQueue[bytes] = SimpleQueue()
        self._workers = [gevent.spawn(self._read), gevent.spawn(self._write)]

    def number(self) -> int:
        """One that was not given before."""
        self._numbers += 1
        return self._numbers

    def call(self, kind: Kind, *values: Any) -> Outcome:
        """Have something done, and wait until it is. Raises Unavailable if the process is gone."""
        call = self.number()
        waiting = self._waiting[call] = AsyncResult()
        try:
            self.tell(kind, call, *values)
            outcome: Outcome = waiting.get()
            return outcome
        except gevent.GreenletExit:
            self.tell(Kind.CANCEL, call)
            raise
        finally:
            del self._waiting[call]

    def tell(self, kind: Kind, *values: Any) -> None:
        """Have something done. Raises Unavailable if the process is gone."""
        if self._lost:
            raise Unavailable(self._lost)
        self._outgoing.put(msgpack.packb([kind, *values]))

    def _write(self) -> None:
        try:
            while True:
                parts = [self._outgoing.get()]
                while not self._outgoing.empty():
                    parts.append(self._outgoing.get())
                self._socket.sendall(b"".join(parts))
        except OSError as error:
            self._lose(str(error))

    def _read(self) -> None:
        unpacker = msgpack.Unpacker(max_buffer_size=0)
        try:
            while data := self._socket.recv(1 << 16):
                unpacker.feed(data)
                for kind, *values in unpacker:
                    if kind == Kind.BUSY:
                        self.on_busy(*values)
                    elif (waiting := self._waiting.get(values[0])) is not None:
                        waiting.set(Outcome.from_row(values[1:]))
        except OSError as error:
            self._lose(str(error))
        else:
            self._lose("it closed its socket")

    def _lose(self, why: str) -> None:
        if self._lost:
            return
        self._lost = f"the load generator's process for gRPC ended: {why}"
        self.on_lost(self._lost)
        for waiting in self._waiting.values():
            waiting.set_exception(Unavailable(self._lost))

    def close(self) -> None:
        """End the process."""
        gevent.killall(self._workers)
        self.on_lost = lambda _why: None
        self._lose("it was told to")
        self._socket.close()
        try:
            self._process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


_link: GrpcLink | None = None


def link() -> GrpcLink:
    """That of this process, started if it is not there."""
    global _link
    if _link is None:
        _link = GrpcLink()
    return _link


def close() -> None:
    """End that of this process, if there is one."""
    global _link
    if _link is not None:
        _link.close()
        _link = None
