"""Ends generations wherever in this server they run.

Triton does not carry the cancellation of an ensemble to the engine step that is already running, but a step behind it
sees that its request is cancelled. And several engine models of one LLM may have generations under way: those of two
releases, and one that Triton has replaced under its name, which no request reaches any more. So each of them listens on
a socket in shared memory.
"""

import glob
import json
import os
import queue
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from .model_names import model_and_release
from .shared_state import SHM, shm_prefix

#: How long one process may take to answer another one.
_TIMEOUT_S = 5.0

#: The longest message, in bytes.
_MAX_BYTES = 65_536

#: How many stopped keys are remembered, so that further chunks of a stream do not stop it again.
_REMEMBERED = 4096

#: Ends the generation that was started under a request id, or (where it is not 0) under a stream key. How many there
#: are: of several under one id it ends none.
Stop = Callable[[str, int], int]


class StopListener:
    """Ends generations of this process that others ask for, with `stop`, in a thread of its own.

    engine_model: the name that the engine model was loaded under.
    """

    def __init__(self, engine_model: str, stop: Stop) -> None:
        self._model = model_and_release(engine_model)[0]
        self._stop = stop
        self._path = _path_of(os.getpid())
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(str(self._path))
        self._path.chmod(0o600)
        self._socket.listen()
        self._thread = threading.Thread(target=self._run, name="stop-listener", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            try:
                with connection:
                    connection.settimeout(_TIMEOUT_S)
                    model, request_id, stream_key = json.loads(connection.recv(_MAX_BYTES))
                    found = self._stop(request_id, stream_key) if model == self._model else 0
                    connection.send(json.dumps(found).encode())
            except (OSError, TypeError, ValueError):
                # Whoever asked has gone, or is none of ours.
                continue

    def close(self) -> None:
        """Listen no more."""
        self._path.unlink(missing_ok=True)
        # Wakes the thread, which closing alone does not.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


def stop_elsewhere(engine_model: str, request_id: str, stream_key: int = 0) -> int:
    """Have a generation of an LLM ended by whichever other process of this server runs it; see `Stop`."""
    question = json.dumps((model_and_release(engine_model)[0], request_id, stream_key)).encode()
    own = _path_of(os.getpid())
    for path in sorted(SHM.glob(f"{glob.escape(shm_prefix())}*.stop")):
        found = 0 if path == own else _ask(path, question)
        if found:
            return found
    return 0


def _path_of(pid: int) -> Path:
    return SHM / f"{shm_prefix()}{pid}.stop"


def _ask(path: Path, question: bytes) -> int:
    """What a process answers; 0 for one that does not."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(str(path))
            connection.send(question)
            return int(json.loads(connection.recv(_MAX_BYTES)))
    except (OSError, ValueError):
        # It is being unloaded, or has died: its generations end anyway.
        return 0


class Stopper:
    """Asks other processes to end generations of the LLM of `engine_model`, in a thread of its own."""

    def __init__(self, engine_model: str) -> None:
        self._engine_model = engine_model
        self._wanted: queue.SimpleQueue[tuple[str, int, Callable[[int], None]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="stopper", daemon=True).start()

    def stop(self, request_id: str, stream_key: int, told: Callable[[int], None]) -> None:
        """Returns at once; what `stop_elsewhere` returned is `told` later."""
        self._wanted.put((request_id, stream_key, told))

    def _run(self) -> None:
        while True:
            request_id, stream_key, told = self._wanted.get()
            told(stop_elsewhere(self._engine_model, request_id, stream_key))


class EngineStopper:
    """Stops streams of the engine model `engine_model`, of whichever release, in a thread of its own."""

    def __init__(self, engine_model: str) -> None:
        self._stopper = Stopper(engine_model)
        self._lock = threading.Lock()
        self._stopped: dict[int, None] = {}

    def stop(self, stream_key: int) -> None:
        """Stop the stream once; returns at once. Nothing happens if it has ended."""
        with self._lock:
            if stream_key in self._stopped:
                return
            self._stopped[stream_key] = None
            while len(self._stopped) > _REMEMBERED:
                del self._stopped[next(iter(self._stopped))]
        self._stopper.stop("", stream_key, lambda found: self._told(stream_key, found))

    def _told(self, stream_key: int, found: int) -> None:
        """One that was not found may have been with a process that was too busy to answer."""
        if not found:
            with self._lock:
                self._stopped.pop(stream_key, None)
