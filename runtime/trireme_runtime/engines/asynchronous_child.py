"""The loop of a process whose engine computes by itself and tells when it has news.

Speaks with its parent as `engine_child` does. One thread hands requests on as they come, another waits for news: no
cancellation waits for a step, and an idle engine takes next to no processor time.
"""

import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from .base import EngineEvent, EngineLimits, EngineRequest, EngineSettings, EngineStep
from .engine_child import send_step


class AsynchronousEngine(Protocol):
    """An engine that computes in threads or processes of its own. `wait` runs beside the others, which run in turn."""

    limits: EngineLimits

    @property
    def kv_blocks_used(self) -> int:
        """Blocks of the paged KV cache that requests hold."""

    def submit(self, request: EngineRequest) -> list[EngineEvent]:
        """Queue a request; events only where it is refused."""

    def cancel(self, key: int) -> list[EngineEvent]:
        """Drop a request, if it is there: nothing comes of it after these events."""

    def wait(self) -> Any:
        """Wait for news, and return them in the engine's own form; an exception means that the engine is gone."""

    def take(self, news: Any) -> list[EngineEvent]:
        """What `wait` returned, as events; without those of requests that were dropped meanwhile."""

    def close(self) -> None:
        """Stop computing; `wait` returns, or raises."""


#: Starts an engine on the model in a folder.
StartEngine = Callable[[Path, EngineSettings], AsynchronousEngine]


def pack(events: Iterable[EngineEvent], kv_blocks_used: int) -> EngineStep:
    """The step that `events` make; single ids go without an object each."""
    single: dict[int, int] = {}
    others: list[EngineEvent] = []
    told: set[int] = set()
    for event in events:
        # The receiver takes the single ids first: of a request with more news than one only the first may be one.
        if len(event.ids) == 1 and event.is_plain and event.key not in told:
            single[event.key] = event.ids[0]
        else:
            others.append(event)
        told.add(event.key)
    return EngineStep(list(single), list(single.values()), others, kv_blocks_used)


class _Server:
    """Both threads' work. The lock makes the order in which events are sent the order in which they came about."""

    def __init__(self, connection: Connection, engine: AsynchronousEngine) -> None:
        self._connection = connection
        self._engine = engine
        self._lock = threading.Lock()
        self._closing = False

    def _send(self, events: list[EngineEvent]) -> None:
        if events:
            send_step(self._connection, pack(events, self._engine.kv_blocks_used))

    def tell_news(self) -> None:
        """Send what the engine has to tell, for ever. Ends the process if the engine, or the parent, is gone."""
        try:
            while not self._closing:
                news = self._engine.wait()
                with self._lock:
                    self._send(self._engine.take(news))
        except Exception as error:
            if self._closing:
                return
            if not isinstance(error, BrokenPipeError | ConnectionResetError):
                traceback.print_exc()
            # The other thread waits in recv, and the engine's threads may wait for anything.
            os._exit(1)

    def take_requests(self) -> None:
        """Hand on what comes, until the other side closes the connection."""
        try:
            while True:
                kind, *arguments = self._connection.recv()
                with self._lock:
                    if kind == "submit":
                        self._send(self._engine.submit(*arguments))
                    elif kind == "cancel":
                        self._send(self._engine.cancel(*arguments))
                    else:
                        self._send(arguments)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._closing = True


def run(start: StartEngine) -> None:
    """The whole life of the process."""
    connection = Connection(int(sys.argv[1]))
    try:
        folder, settings = connection.recv()
        try:
            engine = start(folder, settings)
        except Exception as error:
            connection.send(error if type(error) in (ValueError, RuntimeError) else RuntimeError(repr(error)))
            return
        connection.send(engine.limits)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    server = _Server(connection, engine)
    threading.Thread(target=server.tell_news, name="news", daemon=True).start()
    server.take_requests()
    engine.close()
