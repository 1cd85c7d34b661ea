"""The gateway that `trireme serve` starts beside its server, as a process of its own."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from . import processes
from .embedded import ADDRESS, Ports
from .errors import OperatorError

#: How long it may take to start, and how long it is waited for before it is started again, in s.
_START_S, _AGAIN_S = 30.0, 1.0


class GatewayProcess:
    """Use `start` and `stop`; in between it is started again when it ends by itself."""

    def __init__(self, server: Ports, port: int, llms: Sequence[str], log_path: Path, drain_timeout_s: int) -> None:
        self.log_path = log_path
        self.address = f"{ADDRESS}:{port}"
        self._ready_path = log_path.with_suffix(f".{port}.ready")
        self._drain_timeout_s = drain_timeout_s
        self._command = [sys.executable, "-m", "trireme_ops.cli", "gateway", "--port", str(port)]
        self._command += ["--server", f"{server.host}:{server.grpc},{server.host}:{server.health}"]
        self._command += ["--ready-file", str(self._ready_path)]
        self._command += [word for llm in llms for word in ("--model", llm)]
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="gateway", daemon=True)

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None, "the gateway was not started"
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it serves. Raises OperatorError with what it said if it does not."""
        self._launch()
        deadline = time.monotonic() + _START_S
        assert self._process is not None
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self.log_path.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise OperatorError(f"the gateway did not start:\n{said}")
            time.sleep(0.05)
        self._watcher.start()

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return bool(json.loads(self._ready_path.read_text())["pid"] == self.pid)
        return False

    def _launch(self) -> None:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = processes.start_child(self._command, log)

    def _watch(self) -> None:
        while not self._ending.wait(_AGAIN_S):
            assert self._process is not None
            if self._process.poll() is not None:
                self._launch()

    def stop(self) -> None:
        """Let it answer what it has, at most for the drain timeout."""
        self._ending.set()
        if self._watcher.is_alive():
            self._watcher.join()
        if self._process is None or self._process.poll() is not None:
            self._ready_path.unlink(missing_ok=True)
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=self._drain_timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            self._ready_path.unlink(missing_ok=True)
