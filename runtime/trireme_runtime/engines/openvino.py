"""OpenVINO GenAI's continuous batching on the CPU, in a child process (see `openvino_child`)."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from .base import EngineDied, EngineEvent, EngineLimits, EngineRequest, EngineSettings, check_request


class OpenVinoEngine:
    """An `Engine` over one model folder: openvino_model.xml, openvino_model.bin and config.json.

    Raises RuntimeError if the model cannot be loaded, EngineDied if the child ends before it is ready.
    """

    name = "openvino"
    honours = frozenset(
        {
            "end_id",
            "ignore_eos",
            "temperature",
            "runtime_top_k",
            "runtime_top_p",
            "seed",
            "min_tokens",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
        }
    )

    def __init__(self, folder: Path, settings: EngineSettings) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trireme_runtime.engines.openvino_child", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._connection = Connection(ours.detach())
        self._send_lock = threading.Lock()
        self._active: set[int] = set()
        self._closing = False
        self._send((folder, settings))
        answer = self._receive()
        if isinstance(answer, Exception):
            self.close()
            raise answer
        assert isinstance(answer, EngineLimits)
        self.limits = answer

    def _send(self, message: object) -> None:
        try:
            with self._send_lock:
                self._connection.send(message)
        except OSError as error:
            raise EngineDied(f"the engine process {self._process.pid} is gone") from error

    def _receive(self) -> object:
        try:
            received: object = self._connection.recv()
            return received
        except (EOFError, OSError) as error:
            if not self._closing:
                self._process.wait()
            raise EngineDied(f"the engine process ended with status {self._process.poll()}") from error

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def submit(self, request: EngineRequest) -> None:
        check_request(request, self.limits)
        with self._send_lock:
            if request.key in self._active:
                # The pipeline would wedge for good on a second active request of the same id.
                raise ValueError(f"engine key {request.key} is already active")
            self._active.add(request.key)
        self._send(("submit", request))

    def cancel(self, key: int) -> None:
        self._send(("cancel", key))

    def events(self) -> Iterator[list[EngineEvent]]:
        while not self._closing:
            try:
                batch = self._receive()
            except EngineDied:
                if self._closing:
                    return
                raise
            assert isinstance(batch, list)
            ended = {event.key for event in batch if event.is_last}
            if ended:
                with self._send_lock:
                    self._active -= ended
            yield batch

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
