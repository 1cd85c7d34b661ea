"""The live view: a screen of its own, redrawn each interval, keys, and the terminal as it was afterwards."""

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from types import FrameType

from rich.console import Console
from rich.live import Live

from .view import SORTS, View
from .watching import Watching

KEYS = "q quits, p pauses, s sorts"


@contextlib.contextmanager
def typed(descriptor: int) -> Iterator[bool]:
    """Keys one by one and unseen, if this is a terminal; as it was afterwards."""
    if not os.isatty(descriptor):
        yield False
        return
    before = termios.tcgetattr(descriptor)
    try:
        # What was typed while this started counts, too.
        tty.setcbreak(descriptor, termios.TCSADRAIN)
        yield True
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextlib.contextmanager
def ends_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP end the view as Ctrl-C does, so that the terminal is given back."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show(watching: Watching, console: Console, for_s: float | None, has_history: bool = True) -> View:
    """Draw until `q` is typed, or for so long; the last view."""
    descriptor = sys.stdin.fileno()
    ends_at = None if for_s is None else time.monotonic() + for_s
    sort, paused = 0, False
    with ends_in_order(), typed(descriptor) as has_keys:
        keys = KEYS if has_keys else ""
        with Live(
            console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        ) as live:
            frame, due = watching.frame(), time.monotonic()
            while True:
                now = time.monotonic()
                if now >= due:
                    fresh = watching.tick()
                    frame = frame if paused else fresh
                    due = max(due + watching.interval_s, now)
                view = View(
                    frame,
                    watching.history if has_history else None,
                    "PAUSED, p goes on" if paused else keys,
                    SORTS[sort],
                    console.size.height,
                )
                live.update(view, refresh=True)
                if ends_at is not None and now >= ends_at:
                    return view
                key = _key(descriptor if has_keys else None, min(due, ends_at or due) - time.monotonic())
                if key in ("q", "Q"):
                    return view
                if key in ("p", "P", " "):
                    paused = not paused
                elif key in ("s", "S"):
                    sort = (sort + 1) % len(SORTS)


def _key(descriptor: int | None, wait_s: float) -> str:
    """The key that is typed within this time, "" if none is; q when the terminal is gone."""
    wait_s = max(0.0, wait_s)
    if descriptor is None:
        time.sleep(wait_s)
        return ""
    if not select.select([descriptor], [], [], wait_s)[0]:
        return ""
    try:
        character = os.read(descriptor, 1)
        if character == b"\x1b":
            # An arrow, or the like: the rest of it is no key either.
            while select.select([descriptor], [], [], 0)[0] and os.read(descriptor, 32):
                pass
            return ""
    except OSError:
        return "q"
    return character.decode("ascii", "replace") or "q"
