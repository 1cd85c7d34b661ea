"""What Linux tells of a process and of what it started. Elsewhere nothing is found."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, parent, ... Raises OSError for one that is gone."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _parents() -> dict[int, list[int]]:
    """The children of every process of this machine."""
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int(stat(int(entry.name))[1])
            except OSError:
                continue
            found.setdefault(parent, []).append(int(entry.name))
    return found


def families(pids: Iterable[int]) -> dict[int, list[int]]:
    """Each process with its descendants."""
    parents = _parents()
    found = {pid: [pid] for pid in pids}
    for members in found.values():
        for member in members:
            members += parents.get(member, [])
    return found


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    return families([pid])[pid]


def children(pid: int) -> list[int]:
    """The children of a process, without a look at all others of the machine; one may be missing where another ends."""
    if not Path("/proc/thread-self/children").exists():
        # A kernel without CONFIG_PROC_CHILDREN.
        return _parents().get(pid, [])
    found: list[int] = []
    for thread in threads([pid]):
        try:
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
        except OSError:
            continue
    return found


def threads(pids: Iterable[int]) -> list[int]:
    """The threads of processes, by their own ids."""
    found: list[int] = []
    for pid in pids:
        try:
            found += [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
        except OSError:
            continue
    return found


@dataclass(frozen=True)
class Activity:
    """What a process did so far, all its threads together.

    used_s: processor time in seconds. waits: whether it waits for the disk or the processor, or has it just now.
    """

    used_s: float
    waits: bool


def activity(pid: int) -> Activity | None:
    """What a process did; None where it is gone."""
    try:
        fields = stat(pid)
    except OSError:
        return None
    # utime and stime are the 12th and 13th behind the name.
    return Activity((int(fields[11]) + int(fields[12])) / _TICKS_PER_S, fields[0] in "DR")
