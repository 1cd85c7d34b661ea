"""Loading beside models that serve: at a low priority, so that their answers do not wait for it.

Priorities are those of threads, which those that they start inherit, processes included. Only Linux has what is used.
"""

import contextlib
import os
import threading
from collections.abc import Iterable

from .proc import family, threads
from .shared_state import BackgroundMark

#: The nice value of what is loaded. Not the idle policy: a process that gets hardly any processor time may hold a lock
#: of Triton's shared memory for longer than the 10 s after which tritonserver aborts.
LOADING_NICE = 15

#: The nice value that this process had before `begin`; None where that changed nothing.
_normal: int | None = None


def _nice(thread: int = 0) -> int:
    """Of the calling thread, or of the one of this id. Linux keeps it by thread, whatever its name says."""
    return os.getpriority(os.PRIO_PROCESS, thread)


def _set(nice: int, thread: int = 0) -> None:
    os.setpriority(os.PRIO_PROCESS, thread, nice)


def may_return() -> bool:
    """Whether this process may raise its priority again: CAP_SYS_NICE, as root has it, or RLIMIT_NICE."""
    allowed = False

    def try_it() -> None:
        nonlocal allowed
        normal = _nice()
        try:
            _set(normal + 1)
            _set(normal)
            allowed = True
        except OSError:
            # The thread ends here, with the priority that it cannot leave.
            pass

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    return allowed


def begin() -> None:
    """From now on this thread, and what it starts, keeps out of the way, if the server's BackgroundMark is there."""
    global _normal
    normal = _nice()
    if normal < LOADING_NICE and BackgroundMark().is_there and may_return():
        _normal = normal
        _set(LOADING_NICE)


def end() -> None:
    """Back to the normal priority, with all threads of this process and of its descendants."""
    global _normal
    if _normal is None:
        return
    found = True
    # One that is not back yet may have started another meanwhile.
    while found:
        found = False
        for thread in threads(family(os.getpid())):
            try:
                if _nice(thread) == LOADING_NICE:
                    found = True
                    _set(_normal, thread)
            except ProcessLookupError:
                continue
    _normal = None


def return_all(pids: Iterable[int]) -> None:
    """Back to this process's priority with others that are still loading, where that is allowed."""
    normal = _nice()
    for thread in threads(pids):
        with contextlib.suppress(OSError):
            if _nice(thread) == LOADING_NICE:
                _set(normal, thread)
