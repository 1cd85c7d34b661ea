"""Halts the process of a model while it is loaded, for as long as Triton's Python backend takes to give it up."""

import os
import signal
import threading
import time
from pathlib import Path

from trireme_runtime.proc import activity

#: It is looked at once a second, and is to have told of itself since the last time.
_HALT_S = 3.5

#: It has told of itself by then, and is far from done.
_AFTER_S = 0.4


class HaltedLoad:
    """Halts once, for `_HALT_S`, the first process that loads `model` from a checkout. A context: waits for its end."""

    def __init__(self, root: Path, model: str) -> None:
        self._root, self._model = str(root), f"/{model}/"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.halted: int | None = None

    def __enter__(self) -> "HaltedLoad":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.02):
            pid = self._found()
            if pid is not None:
                os.kill(pid, signal.SIGSTOP)
                self.halted = pid
                time.sleep(_HALT_S)
                os.kill(pid, signal.SIGCONT)
                return

    def _found(self) -> int | None:
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                words = (entry / "cmdline").read_text().split("\0")
            except OSError:
                continue
            if words[0].endswith("_stub") and words[1].startswith(self._root) and self._model in words[1]:
                seen = activity(int(entry.name))
                if seen is not None and seen.used_s > _AFTER_S:
                    return int(entry.name)
        return None
