"""Ends processes of models that are loaded beside others that serve, and stand still meanwhile: see `model_loads`."""

import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Collection

from trireme_runtime.shared_state import read_statuses, remove_statuses

from .model_loads import ModelLoads, stand_still, stubs
from .processes import is_alive

#: How often to look at what is being loaded.
LOOK_S = 1.0


class LoadWatch:
    """Looks, in a thread, whoever asked for the load; what is ended Triton fails to load, in its own words.

    loading: the models and versions that Triton loads now; None where it does not say. still_s: for how long processes
    may do nothing while they load. say: prints a line for the operator.
    """

    def __init__(
        self,
        triton_pid: int,
        shm_prefix: str,
        loading: Callable[[], Collection[tuple[str, str]] | None],
        still_s: float,
        say: Callable[[str], None],
    ) -> None:
        self._loads = ModelLoads(triton_pid)
        self._triton_pid = triton_pid
        self._shm_prefix = shm_prefix
        self._loading = loading
        self._still_s = still_s
        self._say = say
        #: Processes of models that were loaded, or will never be.
        self._settled: set[int] = set()
        self._ended: Counter[str] = Counter()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load-watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._closing.set()
        self._thread.join()

    def ended(self, model: str) -> int:
        """How many processes of a model were ended so far."""
        return self._ended[model]

    def _run(self) -> None:
        while not self._closing.wait(LOOK_S):
            self._look()

    def _look(self) -> None:
        found = stubs(self._triton_pid)
        self._settled = set(filter(is_alive, self._settled))
        if found.keys() <= self._settled:
            return
        loading = self._loading()
        if loading is None:
            return
        self._settled |= {pid for pid, version in found.items() if version not in loading}
        loads = self._loads.look([status.pid for status in read_statuses(self._shm_prefix)])
        new = [load for load in loads if load.pid not in self._settled]
        for model, version in loading:
            its = [load for load in new if (load.model, load.version) == (model, version)]
            if stand_still(its, self._still_s):
                self._ended[model] += len(its)
                self._end([load.pid for load in its])
                pids = ", ".join(str(load.pid) for load in its)
                self._say(
                    f"{model} (version {version}) stood still while it was loaded: ended process {pids}, which Triton "
                    "calls not healthy in its log. What loads it may do so again"
                )

    def _end(self, pids: Collection[int]) -> None:
        # It is no crash, of which its status would tell the supervisor.
        remove_statuses(self._shm_prefix, pids)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
