"""What the processes of models that are being loaded do: whether they come on, or stand still for good.

Triton's Python backend gives up a process whose own watch was not scheduled for a second while the model was loaded, as
happens on a busy machine, and then waits without end for it to exit: see `ReceiveMessageFromStub` and the end of
`Launch` in its stub_launcher.cc, since https://github.com/triton-inference-server/python_backend/pull/221. The process
loads its model to the end, and waits for requests that never come.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from trireme_runtime.proc import activity, children, families

_STUB = "triton_python_backend_stub"

#: For how long all processes may do nothing: by default, where some are not done with loading; and where all are, so
#: that Triton has only to note it.
STILL_S = 30.0
_DONE_STILL_S = 10.0

#: What a process that waits uses all the same: its health is told every 0.3 s, and metrics are passed on.
_IDLE_SHARE = 0.005
_IDLE_S = 0.02


@dataclass(frozen=True)
class ModelLoad:
    """A model's process. is_done: whether it says that it serves. still_s: since when it has done nothing, in s."""

    model: str
    version: str
    pid: int
    is_done: bool
    used_s: float
    still_s: float

    def __str__(self) -> str:
        done = "is loaded" if self.is_done else "is being loaded"
        still = f", none of it in the last {self.still_s:.0f} s" if self.still_s >= 1 else ""
        return f"{self.model} {done}: process {self.pid}, {self.used_s:.1f} s of processor time{still}"


def stand_still(loads: Sequence[ModelLoad], longest_s: float = STILL_S) -> bool:
    """Whether nothing more is to be expected of what these processes load. longest_s: while they are not done."""
    longest = _DONE_STILL_S if all(load.is_done for load in loads) else longest_s
    return bool(loads) and all(load.still_s > longest for load in loads)


@dataclass
class _Seen:
    used_s: float
    at: float
    waited: bool = False


class ModelLoads:
    """Looks at the processes of models of a tritonserver; `look` has to be called every second or so."""

    def __init__(self, triton_pid: int) -> None:
        self._triton_pid = triton_pid
        self._seen: dict[int, _Seen] = {}

    def look(self, done: Collection[int]) -> list[ModelLoad]:
        """Every process of a model. done: process ids of those that say that they serve.

        A process whose children compute comes on, as does one that was found waiting for the processor or the disk
        twice in a row: once may be the moment in which one that does nothing tells that it is there.
        """
        now = time.monotonic()
        found = []
        models = stubs(self._triton_pid)
        for pid, ids in families(models).items():
            members = [member for member in map(activity, ids) if member is not None]
            used_s = sum(member.used_s for member in members)
            seen = self._seen.setdefault(pid, _Seen(used_s, now))
            idle_s = _IDLE_SHARE * (now - seen.at) + _IDLE_S
            waits = any(member.waits for member in members)
            if (waits and seen.waited) or abs(used_s - seen.used_s) > idle_s:
                seen.used_s, seen.at = used_s, now
            seen.waited = waits
            found.append(ModelLoad(*models[pid], pid, pid in done, used_s, now - seen.at))
        self._seen = {load.pid: self._seen[load.pid] for load in found}
        return found


def stubs(triton_pid: int) -> dict[int, tuple[str, str]]:
    """The processes of models of a tritonserver: process id -> model and version, as their command lines name them."""
    found = {}
    for pid in children(triton_pid):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        # The stub, .../MODEL/VERSION/model.py, ...
        if len(words) > 1 and words[0].endswith(_STUB.encode()):
            version = Path(words[1].decode("utf-8", "replace")).parent
            found[pid] = version.parent.name, version.name
    return found
