"""A server process and all that belongs to it: its session, and its shared memory."""

import ctypes
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from trireme_runtime.proc import stat

SHM = Path("/dev/shm")
SHM_PREFIX = "trireme"

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def shm_prefix(owner_pid: int) -> str:
    """The prefix of the shared-memory regions of the server that process `owner_pid` started."""
    return f"{SHM_PREFIX}_{owner_pid}_"


def is_alive(pid: int) -> bool:
    """Whether a process of this id exists."""
    return Path(f"/proc/{pid}").exists()


def is_running(pid: int) -> bool:
    """Whether a process of this id exists and is no zombie."""
    return _state(pid) not in ("", "Z", "X")


def is_halted(pid: int) -> bool:
    """Whether a process was stopped by a signal, and goes on only if it gets another."""
    return _state(pid) in ("T", "t")


def _state(pid: int) -> str:
    """The letter that /proc has for what a process does; empty where there is none of this id."""
    try:
        return stat(pid)[0]
    except OSError:
        return ""


def abandoned_regions() -> list[Path]:
    """Regions of servers whose owner is gone."""
    found = []
    for path in SHM.glob(f"{SHM_PREFIX}_*_*"):
        owner = path.name.split("_")[1]
        if owner.isdecimal() and not is_alive(int(owner)):
            found.append(path)
    return found


def session_members(session: int) -> list[int]:
    """The processes of a session."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = stat(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
        # After the name: state, ppid, pgrp, session.
        if int(fields[3]) == session and fields[0] != "Z":
            members.append(int(entry.name))
    return members


def environment_folders() -> set[Path]:
    """The folders that Triton's Python backend makes for packed environments, and leaves behind when it is killed."""
    return set(Path(tempfile.gettempdir()).glob("python_env_*"))


#: The nice value of the session of a server that serves, as a whole, against the other sessions of the machine.
SESSION_NICE = 5

#: Linux takes such a change once in 0.1 s from all users together, but root.
_NICE_TRIES, _NICE_AGAIN_S = 20, 0.11


def _end_with_parent() -> None:
    # Not SIGTERM: a tritonserver that ends in order refuses calls for some seconds, and a balancer hands clients that
    # answer. What a closed socket interrupts it asks of another server.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _begin_group() -> None:
    os.setpgid(0, 0)
    _end_with_parent()


def yield_to_clients(session: int) -> None:
    """Let the scheduler prefer the other sessions of the machine, clients among them, to that of a server.

    Linux shares the processors between sessions (sched(7), autogroup). An engine that computes all the time would keep
    a client that mostly waits from running for up to half a second at a time, at equal weights. Not before it serves:
    Triton gives up processes that wait for a processor while they load. A server in a control group of its own, as in a
    container, is not concerned.
    """
    for _ in range(_NICE_TRIES):
        try:
            Path(f"/proc/{session}/autogroup").write_text(str(SESSION_NICE))
            return
        except BlockingIOError:
            time.sleep(_NICE_AGAIN_S)
        except OSError:
            # No such file, or no such right.
            return


def start_session(command: Sequence[str], env: Mapping[str, str], log: BinaryIO) -> "subprocess.Popen[bytes]":
    """Start a process as the leader of a session of its own.

    Ctrl-C in the terminal does not reach it, and it is killed if this process dies.
    """
    return subprocess.Popen(
        command,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )


def start_child(command: Sequence[str], log: BinaryIO) -> "subprocess.Popen[bytes]":
    """Start a process of this one's session that Ctrl-C does not reach, and that is killed if this process dies."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, preexec_fn=_begin_group
    )


def clear_session(session: int, prefix: str, grace_s: float) -> None:
    """Give what is left of a session `grace_s` to end by itself, kill the rest, and remove its shared memory."""
    deadline = time.monotonic() + grace_s
    while session_members(session) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in session_members(session):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for path in SHM.glob(f"{prefix}*"):
        path.unlink(missing_ok=True)
