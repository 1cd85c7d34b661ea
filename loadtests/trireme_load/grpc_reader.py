"""Speaks gRPC for a process of the load generator, in a process of its own: run by `targets.grpc_link`.

    python -m trireme_load.grpc_reader FD

Greenlets, which Locust's users are, and gRPC's blocking client meet in threads: each message wakes one up. gRPC's
client for asyncio takes a third of the processor time, and it cannot be had in a process whose threads are greenlets.
So it reads here, notes when each message came, and tells once, at the end, what came of a request.

FD is a Unix socket. What goes over it are msgpack arrays, a kind first; `Kind` says what follows.
"""

import asyncio
import contextlib
import gc
import os
import socket
import sys
import time
from enum import IntEnum
from typing import Any

import grpc.aio
import msgpack
from tritonclient.grpc import service_pb2

from .busyness import TICK_S, Busyness

_SERVICE = "/inference.GRPCInferenceService/"

#: How often it tells how busy it is, in s.
_TELL_S = 0.5

#: What only a last message, or one with an error, holds.
_TEXT, _LAST = "text_output", "finish_reason"

#: What a channel is made with: a connection of its own, and answers of any size.
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


class Kind(IntEnum):
    """What a message is.

    To the reader: CONNECT call, connection, address, timeout_s; ASK call, connection, streamed, body, timeout_s,
    leave_after or nil; CANCEL call; CLOSE connection. From it: DONE call and the fields of `Outcome` in their order;
    BUSY busiest, lags_s as in `Busyness`, since the last of its kind.
    """

    CONNECT = 1
    ASK = 2
    CANCEL = 3
    CLOSE = 4
    DONE = 5
    BUSY = 6


class Outcome:
    """What came of a call. Times are those of the monotonic clock, in s.

    status: the name of gRPC's, empty if all went well; with detail. error_text: that a message of a stream carried,
    else empty. sent: when it went out. text_at: when each message with text came. messages: that came. left: whether
    the client hung up. last: the ModelInferResponse that ended it, serialized; empty if none did.
    """

    __slots__ = ("detail", "error_text", "last", "left", "messages", "sent", "status", "text_at")

    def __init__(self) -> None:
        self.status = self.detail = self.error_text = ""
        self.sent = 0.0
        self.text_at: list[float] = []
        self.messages = 0
        self.left = False
        self.last = b""

    def to_row(self) -> list[Any]:
        """Its fields, in the order of their names."""
        return [getattr(self, name) for name in self.__slots__]

    @classmethod
    def from_row(cls, row: list[Any]) -> "Outcome":
        """Of such fields."""
        outcome = cls()
        for name, value in zip(cls.__slots__, row, strict=True):
            setattr(outcome, name, value)
        return outcome


class _Connection:
    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        # One request a call: on the wire that is the same as a stream that ends after it.
        self.stream: Any = self.channel.unary_stream(f"{_SERVICE}ModelStreamInfer", None, None)
        self.infer: Any = self.channel.unary_unary(f"{_SERVICE}ModelInfer", None, None)


class _Reader:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._connections: dict[int, _Connection] = {}
        self._calls: dict[int, asyncio.Task[None]] = {}

    def take(self, message: list[Any]) -> None:
        """Begin to do what a message asks for."""
        kind, *values = message
        if kind == Kind.ASK:
            self._begin(values[0], self._ask(*values[1:]))
        elif kind == Kind.CONNECT:
            self._begin(values[0], self._connect(*values[1:]))
        elif kind == Kind.CANCEL:
            if (task := self._calls.get(values[0])) is not None:
                task.cancel()
        elif (connection := self._connections.pop(values[0], None)) is not None:
            self._begin(-1 - values[0], self._close(connection))

    def _begin(self, call: int, doing: Any) -> None:
        async def do() -> None:
            try:
                outcome = await doing
            except asyncio.CancelledError:
                return
            except Exception as error:
                # Whoever asked would wait for ever.
                outcome = Outcome()
                outcome.status, outcome.detail = grpc.StatusCode.INTERNAL.name, f"{type(error).__name__}: {error}"
            finally:
                del self._calls[call]
            if outcome is not None:
                self.tell([Kind.DONE, call, *outcome.to_row()])

        self._calls[call] = asyncio.create_task(do())

    def tell(self, message: list[Any]) -> None:
        self._writer.write(msgpack.packb(message))

    async def _connect(self, number: int, address: str, timeout_s: float) -> Outcome:
        connection = self._connections[number] = _Connection(address)
        outcome = Outcome()
        try:
            await asyncio.wait_for(connection.channel.channel_ready(), timeout_s)
        except asyncio.TimeoutError:
            outcome.status = grpc.StatusCode.UNAVAILABLE.name
            outcome.detail = f"{address} does not answer gRPC within {timeout_s:g} s"
        return outcome

    async def _ask(
        self, number: int, streamed: bool, body: bytes, timeout_s: float, leave_after: int | None
    ) -> Outcome:
        connection, outcome = self._connections[number], Outcome()
        outcome.sent = time.monotonic()
        try:
            if streamed:
                await _read(connection.stream(body, timeout=timeout_s), leave_after, outcome)
            else:
                outcome.last = await connection.infer(body, timeout=timeout_s)
                outcome.messages = 1
        except grpc.aio.AioRpcError as error:
            outcome.status, outcome.detail = error.code().name, error.details() or ""
        return outcome

    async def _close(self, connection: _Connection) -> None:
        await connection.channel.close(None)


async def _read(call: Any, leave_after: int | None, outcome: Outcome) -> None:
    """Read a stream to its end, or until the client leaves."""
    text_at, response = outcome.text_at, service_pb2.ModelStreamInferResponse()
    async for message in call:
        now = time.monotonic()
        outcome.messages += 1
        response.ParseFromString(message)
        if response.error_message:
            # To its end, which follows: see `trireme_client.calls`.
            outcome.error_text = response.error_message
            continue
        inference = response.infer_response
        names = [tensor.name for tensor in inference.outputs]
        # A text of n bytes is 4 + n bytes long.
        if _TEXT in names and len(inference.raw_output_contents[names.index(_TEXT)]) > 4:
            text_at.append(now)
            if leave_after is not None and len(text_at) >= leave_after:
                outcome.left = True
                call.cancel()
                return
        if _LAST in names:
            outcome.last = inference.SerializeToString()


async def _watch(reader: _Reader) -> None:
    """Tell how busy this process is."""
    busyness, told = Busyness(), time.monotonic()
    while True:
        before = time.monotonic()
        await asyncio.sleep(TICK_S)
        busyness.woke(before)
        if before - told >= _TELL_S:
            reader.tell([Kind.BUSY, busyness.busiest, busyness.lags_s])
            busyness.lags_s, busyness.busiest, told = [], 0.0, before


async def _serve(fd: int) -> None:
    incoming, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=fd))
    reader, unpacker = _Reader(writer), msgpack.Unpacker(max_buffer_size=0)
    watching = asyncio.create_task(_watch(reader))
    # A process that ends with answers unread resets the connection.
    with contextlib.suppress(ConnectionError):
        while data := await incoming.read(1 << 16):
            unpacker.feed(data)
            for message in unpacker:
                reader.take(message)
    watching.cancel()


if __name__ == "__main__":
    # What was imported lives as long as the process: no need to look at it again and again.
    gc.freeze()
    asyncio.run(_serve(int(sys.argv[1])))
    # Calls that are under way are of no more interest to anyone.
    os._exit(0)
