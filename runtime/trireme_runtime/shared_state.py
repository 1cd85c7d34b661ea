"""What the processes of one server tell each other, and their supervisor: small files in shared memory.

Each model instance has a *status*: that it lives, and whether it serves. The file goes when the model is unloaded in
good order, so one whose process is gone tells of a crash. The engine model also shows its *queue*, so that
`preprocessing` can refuse before it tokenizes; and `postprocessing` shows the engine model how many of its chunks are
done, so that no more are sent than are taken. The supervisor's *background mark* says that what is loaded now is to
keep out of the way.
"""

import glob
import mmap
import os
import struct
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from .admission import NUM_PRIORITIES, QueueLimits, QueueState

SHM = Path("/dev/shm")

#: The beginning of the names of all of a server's files, regions of Triton's Python backend among them.
PREFIX_VARIABLE = "TRIREME_SHM_PREFIX"

_STATUS = struct.Struct("<qqq")
_COUNT = struct.Struct("<q")
_QUEUE = struct.Struct(f"<qqqqd{NUM_PRIORITIES}q")

#: How long a reader keeps to the file that it found, while there may be one of a newer version.
_LOOK_AGAIN_S = 1.0


def shm_prefix() -> str:
    """The prefix of this server's files, for a process of its; without a supervisor, after the server's process id."""
    return os.environ.get(PREFIX_VARIABLE) or f"trireme_{os.getppid()}_"


#: After how long without any progress chunks count as lost, and of how many processes they are counted.
_LOST_AFTER_S = 0.25
_MAX_SOURCES = 64


class _OwnFile:
    """A file of this process, mapped as `mapped`."""

    def __init__(self, name: str, size: int) -> None:
        self._path = SHM / f"{shm_prefix()}{name}"
        staging = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        staging.write_bytes(bytes(size))
        with staging.open("r+b") as file:
            self.mapped = mmap.mmap(file.fileno(), size)
            self._inode = os.fstat(file.fileno()).st_ino
        staging.rename(self._path)

    def remove(self) -> None:
        """It goes, unless a successor of this process has put its own in the place."""
        if _same(self._path, self._inode):
            self._path.unlink(missing_ok=True)


def _files(prefix: str, model: str, kind: str) -> list[tuple[str, int, Path]]:
    """The files of a kind: whose they are, by model and version. model: a name, or "" for all of them."""
    found = []
    for path in sorted(SHM.glob(f"{glob.escape(prefix)}*.{kind}")):
        owner, _, version = path.name[len(prefix) : -len(kind) - 1].rpartition(".")
        if version.isdecimal() and owner and model in ("", owner):
            found.append((owner, int(version), path))
    return found


class BackgroundMark:
    """Says that models serve beside which others are loaded now: these keep out of the way, see `background`.

    prefix: that of the server's files, where it is not this process's own server.
    """

    def __init__(self, prefix: str | None = None) -> None:
        self._path = SHM / f"{shm_prefix() if prefix is None else prefix}background"

    def make(self) -> None:
        """From now on."""
        self._path.touch()

    def remove(self) -> None:
        """No more; nothing happens where it is not there."""
        self._path.unlink(missing_ok=True)

    @property
    def is_there(self) -> bool:
        """Whether it holds."""
        return self._path.exists()


class StatusFile:
    """The status of one model instance, written by its process."""

    def __init__(self, model: str, version: str) -> None:
        self._file = _OwnFile(f"{model}.{version}.status", _STATUS.size)
        self._version = int(version)
        self.serving(True)

    def serving(self, serves: bool) -> None:
        """Say whether requests are served now."""
        _STATUS.pack_into(self._file.mapped, 0, os.getpid(), int(serves), self._version)

    def close(self) -> None:
        """Unloaded in good order."""
        self._file.remove()


@dataclass(frozen=True)
class ModelStatus:
    """What a StatusFile says. model: the name that it was loaded under."""

    model: str
    version: int
    pid: int
    serves: bool


def read_statuses(prefix: str) -> list[ModelStatus]:
    """The status of every model instance of the server with this prefix."""
    return [status for status, _ in _statuses(prefix)]


def remove_statuses(prefix: str, pids: Collection[int]) -> None:
    """Take the statuses of these processes away, before they are ended on purpose."""
    for status, path in _statuses(prefix):
        if status.pid in pids:
            path.unlink(missing_ok=True)


def _statuses(prefix: str) -> list[tuple[ModelStatus, Path]]:
    found = []
    for model, version, path in _files(prefix, "", "status"):
        try:
            pid, serves, _ = _STATUS.unpack(path.read_bytes())
        except (OSError, struct.error):
            continue
        found.append((ModelStatus(model, version, pid, bool(serves)), path))
    return found


class QueueFile:
    """The queue of one engine model, written by its process."""

    def __init__(self, model: str, version: str, limits: QueueLimits) -> None:
        self._file = _OwnFile(f"{model}.{version}.queue", _QUEUE.size)
        self._limits = limits

    def write(self, state: QueueState) -> None:
        """Show this state; a reader may see a part of the one before."""
        limits = self._limits
        _QUEUE.pack_into(
            self._file.mapped,
            0,
            limits.max_size,
            limits.max_tokens,
            limits.max_delay_ms,
            state.queued_tokens,
            state.starts_per_s,
            *state.queued,
        )

    def close(self) -> None:
        """Unloaded in good order."""
        self._file.remove()


class QueueReader:
    """Reads the queue of the highest version of an engine model."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._path: Path | None = None
        self._mapped: mmap.mmap | None = None
        self._inode = 0
        self._looked = float("-inf")

    def read(self) -> tuple[QueueLimits, QueueState] | None:
        """What may wait and what does; None where no such model is loaded."""
        now = time.monotonic()
        if now - self._looked > _LOOK_AGAIN_S:
            self._looked = now
            self._open()
        if self._mapped is None:
            return None
        size, tokens, delay_ms, queued_tokens, starts_per_s, *counts = _QUEUE.unpack_from(self._mapped)
        if not size:
            return None
        return QueueLimits(size, tokens, delay_ms), QueueState(counts, queued_tokens, starts_per_s)

    def _open(self) -> None:
        files = _files(shm_prefix(), self._model, "queue")
        found = max(files, key=lambda file: file[1])[2] if files else None
        if found is None or (self._path == found and self._mapped is not None and _same(found, self._inode)):
            if found is None:
                self._path = self._mapped = None
            return
        try:
            with found.open("rb") as file:
                self._mapped = mmap.mmap(file.fileno(), _QUEUE.size, prot=mmap.PROT_READ)
                self._inode = os.fstat(file.fileno()).st_ino
        except (OSError, ValueError):
            self._path = self._mapped = None
            return
        self._path = found


class ChunkCounter:
    """How many chunks of this process were sent, and how many are not detokenized yet."""

    def __init__(self) -> None:
        self.source = os.getpid()
        self._file = _OwnFile(f"{self.source}.chunks", _COUNT.size)
        self._sent = 0
        self._seen = (0, 0.0)

    def sent(self) -> None:
        """Count one."""
        self._sent += 1

    def under_way(self, now: float) -> int:
        """How many are not done yet. Those that nobody took for a while are given up: their answers are gone."""
        done = int(_COUNT.unpack_from(self._file.mapped)[0])
        if done != self._seen[0] or self._sent <= done:
            self._seen = (done, now)
        elif now - self._seen[1] > _LOST_AFTER_S:
            self._sent = done
        return max(0, self._sent - done)

    def close(self) -> None:
        """Unloaded in good order."""
        self._file.remove()


class ChunkAcknowledger:
    """Tells the processes that chunks come from that they are done; for one thread of one process."""

    def __init__(self) -> None:
        self._counts: dict[int, mmap.mmap | None] = {}

    def done(self, source: int) -> None:
        """A chunk of the process `source` is done."""
        if source not in self._counts:
            if len(self._counts) > _MAX_SOURCES:
                self._counts.clear()
            self._counts[source] = self._open(source)
        mapped = self._counts[source]
        if mapped is not None:
            _COUNT.pack_into(mapped, 0, _COUNT.unpack_from(mapped)[0] + 1)

    @staticmethod
    def _open(source: int) -> mmap.mmap | None:
        try:
            with (SHM / f"{shm_prefix()}{source}.chunks").open("r+b") as file:
                return mmap.mmap(file.fileno(), _COUNT.size)
        except (OSError, ValueError):
            # Not from a process of this server.
            return None


def _same(path: Path, inode: int) -> bool:
    try:
        return path.stat().st_ino == inode
    except OSError:
        return False
