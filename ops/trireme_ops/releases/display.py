"""How events are shown: a line that is redrawn on a terminal, plain lines elsewhere, JSON lines for programs."""

import json
import shutil
import sys
import threading
import time
from typing import TextIO

from .events import Event

_MARKS = {"begin": " ", "done": "+", "note": "-", "warning": "!", "failed": "x"}
_COLOURS = {"done": "32", "warning": "33", "failed": "31"}
_FRAMES = "|/-\\"
_FRAME_S = 0.15


class Lines:
    """One line an event, with its time: for logs, pipes and transcripts."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        if event.kind == "begin":
            return
        print(f"{event.at[11:19]} {_MARKS[event.kind]} {line_of(event)}", file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing is left to draw."""


class JsonLines(Lines):
    """One JSON object an event, those that begin a step too."""

    def __call__(self, event: Event) -> None:
        print(json.dumps(event.to_json(), ensure_ascii=False), file=self._stream, flush=True)


class Terminal:
    """What is under way is one moving line at the bottom; what has ended stands above it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._under_way: dict[tuple[str, str], tuple[str, float]] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="display", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        key = event.server, event.step
        with self._lock:
            if event.kind == "begin":
                self._under_way[key] = (line_of(event), time.monotonic())
                return
            if event.kind in ("done", "failed"):
                self._under_way.pop(key, None)
            mark = _MARKS[event.kind]
            if event.kind in _COLOURS:
                mark = f"\x1b[{_COLOURS[event.kind]}m{mark}\x1b[0m"
            self._stream.write(f"\r\x1b[K{event.at[11:19]} {mark} {line_of(event)}\n")
            self._stream.flush()

    def _run(self) -> None:
        frame = 0
        while not self._closing.wait(_FRAME_S):
            frame += 1
            with self._lock:
                if not self._under_way:
                    continue
                text, since = list(self._under_way.values())[-1]
                more = f" (+{len(self._under_way) - 1})" if len(self._under_way) > 1 else ""
                line = f"{_FRAMES[frame % len(_FRAMES)]} {text} {time.monotonic() - since:.0f} s{more}"
                width = shutil.get_terminal_size().columns - 1
                self._stream.write(f"\r\x1b[K{line[:width]}")
                self._stream.flush()

    def close(self) -> None:
        """Leave the terminal as it is meant to stay."""
        self._closing.set()
        self._thread.join()
        self._stream.write("\r\x1b[K")
        self._stream.flush()


def line_of(event: Event) -> str:
    """An event in one line."""
    where = f"[{event.server}] " if event.server else ""
    seconds = event.figures.get("seconds")
    return f"{where}{event.step}: {event.text}" + (f" ({seconds:.1f} s)" if seconds is not None else "")


def display(as_json: bool) -> "Lines | Terminal":
    """What suits standard output."""
    if as_json:
        return JsonLines(sys.stdout)
    return Terminal(sys.stdout) if sys.stdout.isatty() else Lines(sys.stdout)
