"""The end of streamed calls.

Triton 2.51 leaks about 15 kB, and never unloads the ensemble, where a client cancels a call between the last response
to its request, be that an error, and the end of the call. One that is cancelled in the middle leaks nothing.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from typing import Any

import grpc
import grpc.aio

#: How long the end of a call may take after its last response, in s. It follows at once, unless the server hangs.
END_S = 5.0


def finish(call: Any) -> None:
    """Read a call to its end whose last response was read; cancel it after END_S."""
    if call.done():
        return
    late = threading.Timer(END_S, call.cancel)
    late.daemon = True
    late.start()
    with contextlib.suppress(grpc.RpcError):
        deque(call, maxlen=0)
    late.cancel()


async def finish_async(call: Any) -> None:
    """The same for a call of grpc.aio."""
    if call.done():
        return
    try:
        # asyncio.TimeoutError is TimeoutError from Python 3.11 on.
        with contextlib.suppress(grpc.RpcError, asyncio.TimeoutError):
            await asyncio.wait_for(_read_all(call), END_S)
    finally:
        call.cancel()


class Endings:
    """Calls that are read to their end in threads, because whoever had them is gone."""

    def __init__(self) -> None:
        self._threads: set[threading.Thread] = set()

    def add(self, call: Any) -> None:
        """Read one to its end; at the end of the interpreter, cancel it."""
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        thread = threading.Thread(target=finish, args=(call,), daemon=True)
        try:
            thread.start()
        except RuntimeError:
            call.cancel()
        else:
            self._threads.add(thread)

    def close(self) -> None:
        """Wait for them, for END_S at the longest."""
        deadline = time.monotonic() + END_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


class AsyncEndings:
    """The same for calls of grpc.aio, in tasks of their event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, call: Any) -> None:
        """Read one to its end."""
        task = asyncio.create_task(finish_async(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait for them, for END_S at the longest."""
        # What was dropped just now is added in the loop's next round.
        await asyncio.sleep(0)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=END_S)


async def _read_all(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]
        pass
