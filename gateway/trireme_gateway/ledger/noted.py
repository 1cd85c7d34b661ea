"""How many rows a process has noted, in a file that outlives it: whoever starts next sees what was never written.

The file is mapped into memory: a count costs no system call, and the kernel keeps it when the process is killed.
"""

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

_COUNT = struct.Struct("<Q")


def _name(ledger: str, writer: str) -> str:
    return f"ledger-{ledger}-{writer}.noted"


class Noted:
    """Of this process; the file is locked as long as it lives. Raises OSError if it cannot be made."""

    def __init__(self, folder: Path, ledger: str, writer: str) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / _name(ledger, writer)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Written now, and not when the disk is full.
        os.write(self._file, _COUNT.pack(0))
        self._map = mmap.mmap(self._file, _COUNT.size)
        self.count = 0

    def count_up(self) -> None:
        """One more row."""
        self.count += 1
        _COUNT.pack_into(self._map, 0, self.count)

    def close(self, everything_is_written: bool) -> None:
        """End it; where something was not written, the file stays and says so."""
        self._map.close()
        if everything_is_written:
            self._path.unlink(missing_ok=True)
        os.close(self._file)


def left_behind(folder: Path, ledger: str) -> Iterator[tuple[str, int, Path]]:
    """Of processes that have died and wrote to this ledger: the writer, the count of rows that it noted, and the file,
    to be removed."""
    for path in sorted(folder.glob(_name(ledger, "*"))):
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            data = os.read(file, _COUNT.size)
            if len(data) == _COUNT.size and path.exists():
                yield path.stem.rpartition("-")[2], _COUNT.unpack(data)[0], path
        except BlockingIOError:
            continue
        finally:
            os.close(file)
