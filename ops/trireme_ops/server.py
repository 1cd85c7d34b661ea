"""The embedded server's life: start, wait until it is ready, watch, drain, stop, leave nothing behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from trireme_runtime.shared_state import ModelStatus, read_statuses

from . import embedded, processes
from .at_rest import wait_for_rest
from .embedded import Ports
from .errors import OperatorError
from .layout import Layout
from .load_watch import LOOK_S, LoadWatch
from .model_loads import STILL_S, ModelLoad, ModelLoads, stand_still

_POLL_S = 0.05

#: How often a model is loaded that stands still meanwhile.
_LOADS = 3

#: Triton's own wait for requests at its end, after draining, and for how long unloading may take.
_EXIT_TIMEOUT_S = 15
_UNLOAD_TIMEOUT_S = 20


class Repositories(Protocol):
    """What a server serves from."""

    def begin(self) -> Sequence[Path]:
        """The model repositories, as a server that is started now is to find them."""

    def ensembles(self) -> list[str]:
        """The names of the graphs in them: the way in for clients."""

    def serving(self) -> list[str] | None:
        """The models that have to be ready for the server to be; None: all of them."""


class CommittedRepositories:
    """The repositories of a checkout, as they stand."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def begin(self) -> Sequence[Path]:
        return self._layout.repositories

    def ensembles(self) -> list[str]:
        return sorted(path.name for path in self._layout.repositories[1].iterdir() if path.is_dir())

    def serving(self) -> list[str] | None:
        return None


class ControlError(Exception):
    """What Triton answered to something that it was told to do."""


class StoodStill(OperatorError):
    """Triton waits for models that do not come on; see `model_loads`."""


class EmbeddedServer:
    """One tritonserver in a session of its own. Use `start`, `wait_until_ready`, `stop`.

    load_still_s: for how long the processes of models may do nothing while they load. say: prints a line for the
    operator.
    """

    def __init__(
        self,
        layout: Layout,
        ports: Ports,
        log_path: Path,
        drain_timeout_s: int = 30,
        repositories: Repositories | None = None,
        load_still_s: float = STILL_S,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.layout = layout
        self.repositories = repositories or CommittedRepositories(layout)
        self.ports = ports
        self.log_path = log_path
        self.drain_timeout_s = drain_timeout_s
        self.load_still_s = load_still_s
        self._say = say
        self.was_ready = False
        self.shm_prefix = processes.shm_prefix(os.getpid())
        self._environment_folders_before: set[Path] = set()
        self._environment_folders: set[Path] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._guardian: subprocess.Popen[bytes] | None = None
        self._load_watch: LoadWatch | None = None

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The running server."""
        assert self._process is not None, "the server was not started"
        return self._process

    @property
    def was_started(self) -> bool:
        """Whether there is a process, running or not."""
        return self._process is not None

    def start(self) -> None:
        """Start the process; shared memory of servers that are gone is removed first."""
        for region in processes.abandoned_regions():
            region.unlink(missing_ok=True)
        paths = self.repositories.begin()
        command = embedded.command(self.layout, paths, self.ports, self.shm_prefix, _EXIT_TIMEOUT_S)
        try:
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            if self.log_path.exists():
                # The log of a server that crashed is what its operator will look for.
                self.log_path.replace(self.log_path.with_name(f"{self.log_path.name}.1"))
            log = self.log_path.open("wb")
        except OSError as error:
            raise OperatorError(f"the log {self.log_path} cannot be written: {error.strerror}") from error
        self.was_ready = False
        self._environment_folders_before = processes.environment_folders()
        with log:
            self._process = processes.start_session(command, embedded.environment(self.ports, self.shm_prefix), log)
        self._guardian = subprocess.Popen(
            [sys.executable, "-m", "trireme_ops.guardian", str(self._process.pid), self.shm_prefix],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def statuses(self) -> list[ModelStatus]:
        """What the models' processes say of themselves."""
        return read_statuses(self.shm_prefix)

    def is_live(self, timeout_s: float) -> bool:
        """Whether tritonserver answers."""
        return self._health("live", timeout_s) is not None

    def is_ready(self, timeout_s: float = 2) -> bool:
        """Whether Triton says that what it serves is ready; it does not notice the death of a stub."""
        needed = self.repositories.serving()
        if needed is None:
            return self._health("ready", timeout_s) == 200
        # Its own readiness is gone while any model is being loaded, one on trial too.
        try:
            index = self.index(timeout_s)
        except (OSError, ControlError):
            return False
        return all("READY" in index.get(name, set()) for name in needed)

    def _health(self, kind: str, timeout_s: float) -> int | None:
        """The HTTP status of a health path; None where nobody answers in time."""
        try:
            with urllib.request.urlopen(
                f"http://{self.ports.host}:{self.ports.http}/v2/health/{kind}", timeout=timeout_s
            ) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def wait_until_ready(self, timeout_s: float, stopped: Callable[[], bool]) -> bool:
        """Wait; False if `stopped` became true meanwhile.

        Raises OperatorError with the end of the log if the server ends, or is not ready in time; StoodStill as soon as
        nothing more is to be expected.
        """
        deadline, look_at = time.monotonic() + timeout_s, 0.0
        loads = ModelLoads(self.process.pid)
        while not stopped():
            if self.process.poll() is not None:
                raise OperatorError(f"tritonserver {self.how_it_ended()}:\n{self.errors_in_log()}")
            if self.is_ready():
                self.was_ready = True
                processes.yield_to_clients(self.process.pid)
                self._load_watch = LoadWatch(
                    self.process.pid, self.shm_prefix, self._loading, self.load_still_s, self._say
                )
                self._load_watch.start()
                self._environment_folders = processes.environment_folders() - self._environment_folders_before
                return True
            now = time.monotonic()
            if now > look_at:
                look_at = now + LOOK_S
                loading = loads.look([status.pid for status in self.statuses()])
                if stand_still(loading, self.load_still_s):
                    raise StoodStill(self._not_ready("tritonserver stands still while models are loaded", loading))
                if now > deadline:
                    raise OperatorError(self._not_ready(f"tritonserver was not ready after {timeout_s:g} s", loading))
            time.sleep(_POLL_S)
        return False

    def _not_ready(self, what: str, loading: Sequence[ModelLoad]) -> str:
        """A message: what happened, what the models do, and the end of the log."""
        return "\n".join([f"{what}:", *(f"  {load}" for load in loading), self.errors_in_log()])

    def how_it_ended(self) -> str:
        """The exit status of the server in words."""
        status = self.process.returncode
        return f"crashed ({signal.Signals(-status).name})" if status < 0 else f"ended with status {status}"

    def errors_in_log(self, count: int = 8) -> str:
        """The log's last error lines, and where the rest is."""
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        harmless = ("CudaDriverHelper", "unable to create stream", "DCGM", "NVML")
        errors = [
            line.replace("\\n", "\n")
            for line in lines
            if line.startswith(("E", "error:")) and not any(word in line for word in harmless)
        ]
        return "\n".join([*(errors or lines)[-count:], f"(the whole log: {self.log_path})"])

    def drain(self, at_once: Callable[[], bool] = lambda: False) -> bool:
        """Take no further requests and let those under way come to their end; False if some did not in time.

        Triton's own shutdown refuses the next step of an ensemble that is under way. So the ensembles are unloaded
        first: that keeps new requests out, and leaves the models in place for those that run. A model that is called
        directly goes on taking requests until the timeout.
        """
        deadline = time.monotonic() + self.drain_timeout_s
        try:
            for ensemble in self.repositories.ensembles():
                self.unload_model(ensemble)
            return wait_for_rest(self._in_flight, deadline - time.monotonic(), lambda: not at_once())
        except (OSError, ControlError):
            # The server is gone, or does not answer: nothing is left to wait for.
            return self.process.poll() is not None

    def load_model(self, name: str, timeout_s: float = 1800) -> None:
        """Load a model, or load it again in place. Raises ControlError with Triton's reason, and OSError.

        One that stands still meanwhile is ended and loaded again, a few times at most.
        """
        for attempt in range(1, _LOADS + 1):
            ended = self._ended(name)
            try:
                self._control(f"repository/models/{name}/load", timeout_s)
                return
            except ControlError:
                if self._ended(name) == ended or attempt == _LOADS:
                    raise
                self._say(f"Loading {name} again ...")

    def _ended(self, model: str) -> int:
        watch = self._load_watch
        return 0 if watch is None else watch.ended(model)

    def _loading(self) -> set[tuple[str, str]] | None:
        """The models and versions that are being loaded; None where Triton does not say."""
        try:
            entries = self._control("repository/index", timeout_s=2)
            return {(entry["name"], entry["version"]) for entry in entries if entry.get("state") == "LOADING"}
        except (OSError, ControlError):
            return None

    def unload_model(self, name: str) -> None:
        """Unload a model; what it has begun it ends. Raises ControlError with Triton's reason, and OSError."""
        self._control(f"repository/models/{name}/unload")

    def index(self, timeout_s: float = 30) -> dict[str, set[str]]:
        """The models that are known -> the states of their versions. Raises OSError where Triton does not answer."""
        found: dict[str, set[str]] = {}
        for entry in self._control("repository/index", timeout_s):
            found.setdefault(entry["name"], set()).add(entry.get("state", ""))
        return found

    def _control(self, path: str, timeout_s: float = 30) -> Any:
        headers = {embedded.CONTROL_HEADER: self.layout.control_key()}
        request = urllib.request.Request(
            f"http://{self.ports.host}:{self.ports.http}/v2/{path}", data=b"{}", headers=headers, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", "replace")
            try:
                text = json.loads(text)["error"]
            except (ValueError, KeyError, TypeError):
                text = text[:500]
            raise ControlError(text) from error

    def metrics_text(self) -> str:
        """Everything that Triton and the models measure, as Prometheus reads it. Raises OSError."""
        with urllib.request.urlopen(f"http://{self.ports.host}:{self.ports.metrics}/metrics", timeout=10) as answer:
            return str(answer.read().decode("utf-8"))

    def in_flight(self) -> int:
        """How many generations run or wait. Raises OSError."""
        return int(self._in_flight()[0])

    def _in_flight(self) -> tuple[float, float]:
        """How many generations run, and how many chunks were detokenized so far: at rest both stand still."""
        values = [line.rpartition(" ") for line in self.metrics_text().splitlines() if not line.startswith("#")]
        running = sum(
            float(value)
            for name, _, value in values
            if name.startswith(("trireme_requests_running", "trireme_requests_waiting"))
        )
        executions = sum(float(value) for name, _, value in values if name.startswith("nv_inference_exec_count"))
        return running, executions

    def stop(self, at_once: Callable[[], bool] = lambda: False) -> int:
        """Drain, end and clean up; the server's exit status. `at_once` becoming true ends the draining."""
        process = self.process
        if process.poll() is None and self.was_ready:
            self.drain(at_once)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _UNLOAD_TIMEOUT_S
        while process.poll() is None:
            if at_once() or time.monotonic() > deadline:
                process.kill()
                process.wait()
            time.sleep(_POLL_S)
        self._clean_up()
        return process.returncode

    def kill(self) -> None:
        """End it at once, with all that belongs to it, and clean up: its clients see their sockets closed."""
        self.process.kill()
        self._clean_up(grace_s=0)
        self.process.wait()

    def _clean_up(self, grace_s: float = 2) -> None:
        """Stubs see that their server is gone within a moment."""
        if self._load_watch is not None:
            self._load_watch.close()
            self._load_watch = None
        processes.clear_session(self.process.pid, self.shm_prefix, grace_s)
        for folder in self._environment_folders:
            # It is empty: nothing here uses Triton's packed environments.
            with contextlib.suppress(OSError):
                folder.rmdir()
        if self._guardian is not None and self._guardian.stdin is not None:
            self._guardian.stdin.close()
            self._guardian.wait()
