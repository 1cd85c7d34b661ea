"""An engine in a child process, as its parent sees it: what every such adapter shares."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..proc import activity
from .base import EngineDied, EngineLimits, EngineRequest, EngineSettings, EngineStep, check_request
from .child_process import start_child
from .engine_child import receive_step

#: How often to look whether the child comes on.
_WATCH_S = 0.1


class ChildEngine:
    """An `Engine` whose generator runs in the process `module`.

    A child that has work and makes no progress is killed: after hang_timeout_s, and sooner if it does not even compute.
    Raises what the child raises if the model cannot be loaded, EngineDied if it ends before it is ready.
    """

    name: str
    honours: frozenset[str]
    #: A child that has work, sends nothing and uses no processor time for this long is stopped or waits for ever;
    #: infinite for an engine that computes elsewhere than on the processor.
    standstill_s = 1.2

    def __init__(self, module: str, folder: Path, settings: EngineSettings) -> None:
        self._hang_timeout_s = settings.hang_timeout_s
        self._process, self._connection = start_child(module)
        self._send_lock = threading.RLock()
        self._active: set[int] = set()
        self._closing = False
        self._hung: str | None = None
        #: Since when the reader waits for the child; None while it does something else.
        self._waiting_since: float | None = None
        self._busy_since = time.monotonic()
        self._send((folder, settings))
        answer = self._receive()
        if isinstance(answer, Exception):
            self.close()
            raise answer
        assert isinstance(answer, EngineLimits)
        self.limits = answer
        threading.Thread(target=self._watch, name="engine-watch", daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def _send(self, message: object) -> None:
        try:
            with self._send_lock:
                self._connection.send(message)
        except OSError as error:
            raise EngineDied(f"the engine process {self._process.pid} is gone") from error

    def _receive(self) -> Any:
        try:
            received: Any = self._connection.recv()
        except (EOFError, OSError) as error:
            if self._hung is not None:
                raise EngineDied(self._hung, "hung") from error
            if not self._closing:
                self._process.wait()
            raise EngineDied(f"the engine process ended with status {self._process.poll()}") from error
        return received

    def _claim(self, key: int) -> None:
        """Note a request as active; with the lock held. Raises ValueError for a key in use."""
        if key in self._active:
            # A pipeline may wedge for good on a second active request of the same id.
            raise ValueError(f"engine key {key} is already active")
        if not self._active:
            self._busy_since = time.monotonic()
        self._active.add(key)

    def submit(self, request: EngineRequest) -> None:
        check_request(request, self.limits)
        with self._send_lock:
            self._claim(request.key)
        self._send(("submit", request))

    def cancel(self, key: int) -> None:
        self._send(("cancel", key))

    def steps(self) -> Iterator[EngineStep]:
        while not self._closing:
            self._waiting_since = time.monotonic()
            try:
                step = receive_step(self._receive())
            except EngineDied:
                if self._closing:
                    return
                raise
            self._waiting_since = None
            if step.events:
                ended = {event.key for event in step.events if event.is_last}
                if ended:
                    with self._send_lock:
                        self._active -= ended
            yield step

    @property
    def _computing(self) -> bool:
        """Whether the child has something to compute."""
        return bool(self._active)

    def _watch(self) -> None:
        """Kill a child that has work and makes no progress, so that whoever reads its steps hears of it."""
        used, used_since = -1.0, time.monotonic()
        while not self._closing and self._process.poll() is None:
            time.sleep(_WATCH_S)
            now, waiting_since = time.monotonic(), self._waiting_since
            seen = activity(self._process.pid)
            if seen is None or seen.waits or seen.used_s != used or waiting_since is None or not self._computing:
                used_since = now
            used = -1.0 if seen is None else seen.used_s
            if waiting_since is None or not self._computing:
                continue
            silent_s = now - max(waiting_since, self._busy_since)
            if silent_s > self._hang_timeout_s:
                self._kill(f"it made no progress for {silent_s:.1f} s")
            elif min(silent_s, now - used_since) > self.standstill_s:
                self._kill(f"it stood still for {min(silent_s, now - used_since):.1f} s")

    def _kill(self, why: str) -> None:
        self._hung = f"the engine process {self._process.pid} was ended: {why}, with {len(self._active)} requests"
        self._process.kill()

    def close(self) -> None:
        self._closing = True
        try:
            # Wakes a reader that waits in recv, which closing alone does not.
            with socket.socket(fileno=self._connection.fileno()) as raw:
                raw.shutdown(socket.SHUT_RDWR)
                raw.detach()
        except OSError:
            pass
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
