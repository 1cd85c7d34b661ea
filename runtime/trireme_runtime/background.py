"""Loading beside models that serve: at the lowest priority, so that their answers do not wait for it.

Priorities are those of threads, which those that they start inherit, processes included. Only Linux has what is used.
"""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .shared_state import BackgroundMark

#: The policy that this process had before `begin`; None where that changed nothing.
_normal: int | None = None


def _set(policy: int, thread: int = 0) -> None:
    """Set the policy of the calling thread, or of the one of this id."""
    os.sched_setscheduler(thread, policy, os.sched_param(0))


def may_return() -> bool:
    """Whether this process may leave the lowest priority again: CAP_SYS_NICE, as root has it, or RLIMIT_NICE."""
    allowed = False

    def try_it() -> None:
        nonlocal allowed
        normal = os.sched_getscheduler(0)
        try:
            _set(os.SCHED_IDLE)
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
    policy = os.sched_getscheduler(0)
    if policy in (os.SCHED_OTHER, os.SCHED_BATCH) and BackgroundMark().is_there and may_return():
        _normal = policy
        _set(os.SCHED_IDLE)


def end() -> None:
    """Back to the normal priority, with all threads of this process and of its descendants."""
    global _normal
    if _normal is None:
        return
    found = True
    # One that is not back yet may have started another meanwhile.
    while found:
        found = False
        for thread in _threads(_family(os.getpid())):
            try:
                if os.sched_getscheduler(thread) == os.SCHED_IDLE:
                    found = True
                    _set(_normal, thread)
            except ProcessLookupError:
                continue
    _normal = None


def return_all(pids: Iterable[int]) -> None:
    """Back to the normal priority with processes that are still loading, where that is allowed."""
    for thread in _threads(pids):
        with contextlib.suppress(OSError):
            if os.sched_getscheduler(thread) == os.SCHED_IDLE:
                _set(os.SCHED_OTHER, thread)


def loads_in_background(initialize: Callable[..., None]) -> Callable[..., None]:
    """For `initialize` of a model: before it returns, everything is back to the normal priority."""

    @functools.wraps(initialize)
    def wrapper(*arguments: Any) -> None:
        try:
            initialize(*arguments)
        finally:
            end()

    return wrapper


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


def _threads(pids: Iterable[int]) -> list[int]:
    found: list[int] = []
    for pid in pids:
        try:
            found += [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
        except OSError:
            continue
    return found
