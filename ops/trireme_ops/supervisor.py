"""Keeps a server alive: watches tritonserver and its models' processes, and starts all of it again when one dies."""

import threading
import time
from collections.abc import Callable

from trireme_runtime.shared_state import ModelStatus

from .errors import OperatorError
from .health import Control, HealthEndpoint
from .processes import is_halted, is_running
from .server import EmbeddedServer, StoodStill

#: How often to look. A stream of a dead stub ends this much later, and a little more.
_WATCH_S = 0.1

#: How long a process may be halted by a signal, and how long tritonserver may leave a question unanswered, until they
#: count as hung; how often it is asked.
_HALTED_S = 1.0
_SILENT_S = 15.0
_ASK_S = 1.0

#: The wait before a server that dies again soon after its start is started once more: at first none, then doubled.
_FIRST_DELAY_S, _MAX_DELAY_S = 1.0, 30.0

#: How often a server is started at first that crashes or stands still before it is ready: Triton's Python backend does
#: now and then where several models are loaded at once on a busy machine.
_FIRST_STARTS = 3

#: A server that was ready for so long is started again at once when it dies.
STABLE_S = 5.0


class Supervisor:
    """Runs one server until it is told to end. Use `run`, then `close`; in between its endpoint says that it is ending.

    stopped: whether it is time to end. say: prints a line for the operator. With `restarts` false, the first death is
    the end. control: answers what comes to the control API.
    """

    def __init__(
        self,
        server: EmbeddedServer,
        stopped: Callable[[], bool],
        say: Callable[[str], None],
        ready_timeout_s: float,
        restarts: bool = True,
        control: Control | None = None,
    ) -> None:
        self._server = server
        self._stopped = stopped
        self._say = say
        self._ready_timeout_s = ready_timeout_s
        self._restarts = restarts
        self._serving = False
        #: Set where balancers are to send nothing new, while what is under way goes on.
        self.is_draining = False
        self._health_runs = False
        self._halted_since: dict[int, float] = {}
        self._answered_at = 0.0
        self.health = HealthEndpoint(server.ports, self.takes_requests, self._server.layout.has_model, control)

    def is_ready(self, model: str | None = None) -> bool:
        """Whether a model, or with None everything, serves: no process is dead, no engine is being started again."""
        statuses = self._statuses()
        if not self._serving or not all(is_running(s.pid) and not is_halted(s.pid) for s in statuses):
            return False
        if model is not None and any(status.model == model for status in statuses):
            return all(status.serves for status in statuses if status.model == model)
        return all(status.serves for status in statuses) and self._server.is_ready(timeout_s=1)

    def takes_requests(self, model: str | None = None) -> bool:
        """Whether balancers may send new requests: it is ready, and nobody has asked it to drain."""
        return not self.is_draining and self.is_ready(model)

    def run(self, announce: Callable[[], None], ready_again: Callable[[], None] = lambda: None) -> None:
        """Serve until `stopped`; `announce` is called once, when the server is ready, and then `ready_again`.

        Raises OperatorError if the server is not ready at first, or dies and is not to be started again.
        """
        if not self._start_first():
            return
        self._begin()
        self.health.start()
        self._health_runs = True
        threading.Thread(target=self._ask, name="liveness", daemon=True).start()
        announce()
        delay_s, ready_since = 0.0, time.monotonic()
        try:
            while (death := self._wait_for_death()) is not None:
                self._serving = False
                cause, message = death
                if not self._restarts:
                    raise OperatorError(message)
                if time.monotonic() - ready_since > STABLE_S:
                    delay_s = 0.0
                self.health.metrics.restarted(cause)
                self._say(f"{message}\nStarting it again{f' in {delay_s:g} s' if delay_s else ''} ...")
                self._server.kill()
                if not self._wait(delay_s) or not self._start_again():
                    return
                ready_since = time.monotonic()
                ready_again()
                delay_s = min(_MAX_DELAY_S, 2 * delay_s or _FIRST_DELAY_S)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Answer balancers and operators no more."""
        self._serving = False
        if self._health_runs:
            self._health_runs = False
            self.health.stop()

    def _start_first(self) -> bool:
        """Start it, again where it crashes or hangs as it may on a busy machine; False if it is time to end."""
        for attempt in range(_FIRST_STARTS):
            try:
                self._server.start()
                return self._server.wait_until_ready(self._ready_timeout_s, self._stopped)
            except OperatorError as error:
                status = self._server.process.poll() if self._server.was_started else None
                tries_again = isinstance(error, StoodStill) or (status is not None and status < 0)
                if not self._restarts or not tries_again or attempt == _FIRST_STARTS - 1:
                    raise
                self._say(f"{error}\nStarting it again ...")
                self._server.kill()
        raise AssertionError("the last attempt raises or returns")

    def _begin(self) -> None:
        """The server is ready: it serves, and nothing is held against it."""
        self._halted_since.clear()
        self._answered_at = time.monotonic()
        self._serving = True

    def _start_again(self) -> bool:
        """Try until the server is ready; False if it is time to end."""
        delay_s = _FIRST_DELAY_S
        while True:
            started = time.monotonic()
            try:
                self._server.start()
                if not self._server.wait_until_ready(self._ready_timeout_s, self._stopped):
                    return False
            except OperatorError as error:
                self._say(f"{error}\nTrying again in {delay_s:g} s ...")
                self._server.kill()
                if not self._wait(delay_s):
                    return False
                delay_s = min(_MAX_DELAY_S, 2 * delay_s)
                continue
            self._begin()
            self._say(f"Ready again after {time.monotonic() - started:.1f} s.")
            return True

    def _wait(self, delay_s: float) -> bool:
        """Wait; False if it is time to end."""
        until = time.monotonic() + delay_s
        while time.monotonic() < until:
            if self._stopped():
                return False
            time.sleep(_WATCH_S)
        return not self._stopped()

    def _wait_for_death(self) -> tuple[str, str] | None:
        """Wait until a process of the server has died: what died, and a message. None if it is time to end."""
        while not self._stopped():
            if self._server.process.poll() is not None:
                how = self._server.how_it_ended()
                return "tritonserver", f"tritonserver {how} by itself:\n{self._server.errors_in_log()}"
            if self._is_hung(self._server.process.pid):
                return "tritonserver", f"tritonserver was halted for {_HALTED_S:g} s"
            if time.monotonic() - self._answered_at > _SILENT_S:
                return "tritonserver", f"tritonserver has not answered for {_SILENT_S:g} s"
            for status in self._statuses():
                if not is_running(status.pid):
                    return "stub", f"the process {status.pid} of the model {status.model} died"
                if self._is_hung(status.pid):
                    return (
                        "stub",
                        f"the process {status.pid} of the model {status.model} was halted for {_HALTED_S:g} s",
                    )
            time.sleep(_WATCH_S)
        return None

    def _statuses(self) -> list[ModelStatus]:
        """Those of the models that clients depend on: one on trial may die."""
        needed = self._server.repositories.serving()
        statuses = self._server.statuses()
        return statuses if needed is None else [status for status in statuses if status.model in needed]

    def _is_hung(self, pid: int) -> bool:
        """Whether a process has been halted for too long."""
        if not is_halted(pid):
            self._halted_since.pop(pid, None)
            return False
        return time.monotonic() - self._halted_since.setdefault(pid, time.monotonic()) > _HALTED_S

    def _ask(self) -> None:
        """Note when tritonserver last answered, in a thread of its own: it may not."""
        while not self._stopped():
            if self._serving and self._server.is_live(timeout_s=_SILENT_S):
                self._answered_at = time.monotonic()
            time.sleep(_ASK_S)
