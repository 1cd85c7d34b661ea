"""Copies a share of an engine model's traffic to whoever listens, for a release that is tried on it.

The listener makes a *tap file* in shared memory, `{shm prefix}{model}.tap`: JSON with `fraction`, the share of the
requests, and `socket`, the path of a Unix datagram socket. Of each chosen request it gets one datagram when the request
has been let in and one when it has ended, each a JSON object; `kind` says which:

arrival: key, ids (of the prompt), sampling (fields of `Sampling`), stop, bad_words, max_tokens, end_id (null: none)
end: key, ids (of the answer), finish_reason, stop_reason, error (a code, or null), ttft_s and total_s, from the arrival
    at the engine model until the engine had the first and the last token (null where it did not tell)
left_out: why

Each also has `counts`: what was chosen, why how much of it was left out, and how many datagrams did not get through.
"""

import contextlib
import errno
import json
import os
import queue
import random
import socket
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .answers import RunningAnswer
from .requests import GenerationRequest
from .shared_state import SHM, shm_prefix

#: How often to look for the file.
LOOK_EVERY_S = 1.0

#: How many datagrams may wait to be sent, and for how long the listener may keep one waiting.
MAX_WAITING = 1024
SEND_TIMEOUT_S = 0.2

#: What the socket may hold, as far as the system allows it; a datagram cannot be larger.
_SEND_BUFFER_BYTES = 1 << 20

#: How many requests are remembered whose end is to be told.
_REMEMBERED = 65_536


def tap_path(prefix: str, model: str) -> Path:
    """The tap file of a model of the server with this prefix."""
    return SHM / f"{prefix}{model}.tap"


def not_copied(request: GenerationRequest) -> str | None:
    """Why a request cannot be asked again as it was; None if it can."""
    if request.guide is not None:
        return "guide"
    if request.sampling.beam_width > 1:
        return "beam search"
    if request.num_sequences > 1:
        return "several sequences"
    return None


class Tap:
    """The tap of the engine model `model`. Without a file for it, a request costs a comparison or two."""

    def __init__(self, model: str) -> None:
        self._path = tap_path(shm_prefix(), model)
        self._looked = float("-inf")
        self._file: tuple[int, int] | None = None
        self._fraction = 0.0
        self._sender: _Sender | None = None
        self._keys: dict[int, None] = {}

    def arrived(self, answer: RunningAnswer) -> None:
        """A generation was let in. To be called before `ended` can be."""
        now = time.monotonic()
        if now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            self._look()
        sender = self._sender
        if sender is None or random.random() >= self._fraction:
            return
        reason = not_copied(answer.request)
        if reason is not None:
            sender.leave_out(reason)
            return
        if sender.put(lambda: _arrival(answer), chosen=True):
            self._keys[answer.key] = None
            while len(self._keys) > _REMEMBERED:
                del self._keys[next(iter(self._keys))]

    def ended(self, answer: RunningAnswer) -> None:
        """Nothing follows for a generation."""
        if answer.key not in self._keys:
            return
        self._keys.pop(answer.key, None)
        sender = self._sender
        if sender is not None:
            sender.put(lambda: _end(answer))

    def _look(self) -> None:
        try:
            found = os.lstat(self._path)
        except OSError:
            found = None
        file = None if found is None else (found.st_ino, found.st_mtime_ns)
        if file == self._file:
            return
        self._file = file
        self._shut()
        settings = None if found is None else _read(self._path)
        if settings is not None:
            self._fraction, address = settings
            self._sender = _Sender(address)

    def _shut(self) -> None:
        self._keys.clear()
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def close(self) -> None:
        """No further datagrams."""
        self._shut()


class _Sender:
    """Sends datagrams from a thread of its own, so that no stream waits for the listener."""

    def __init__(self, address: str) -> None:
        self._waiting: queue.Queue[Callable[[], dict[str, Any]] | None] = queue.Queue(MAX_WAITING)
        self._counts_lock = threading.Lock()
        self._chosen = self._dropped = 0
        self._left_out: Counter[str] = Counter()
        self._address = address
        self._closing = False
        threading.Thread(target=self._run, name="tap", daemon=True).start()

    def put(self, made: Callable[[], dict[str, Any]], chosen: bool = False) -> bool:
        """Send this, made when its turn comes, unless too much waits; whether it is going to be tried."""
        with self._counts_lock:
            self._chosen += chosen
        try:
            self._waiting.put_nowait(made)
        except queue.Full:
            with self._counts_lock:
                self._dropped += 1
            return False
        return True

    def leave_out(self, reason: str) -> None:
        """Count a chosen request that is not copied."""
        with self._counts_lock:
            self._left_out[reason] += 1
        self.put(lambda: {"kind": "left_out", "reason": reason}, chosen=True)

    def close(self) -> None:
        """What waits is dropped."""
        self._closing = True
        # Where it is full, the thread looks after each datagram.
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)

    def _run(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.settimeout(SEND_TIMEOUT_S)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            while not self._closing:
                made = self._waiting.get()
                if made is None:
                    return
                self._send(connection, made())

    def _send(self, connection: socket.socket, datagram: dict[str, Any]) -> None:
        with self._counts_lock:
            counts = {"chosen": self._chosen, "left_out": dict(self._left_out), "dropped": self._dropped}
        data = json.dumps({**datagram, "counts": counts}, ensure_ascii=False).encode("utf-8", "replace")
        try:
            connection.sendto(data, self._address)
        except OSError as error:
            with self._counts_lock:
                if error.errno == errno.EMSGSIZE:
                    self._left_out["too large"] += 1
                else:
                    self._dropped += 1


def _read(path: Path) -> tuple[float, str] | None:
    """The fraction and the socket of a tap file; None for one that another user could have made, or that is damaged."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, encoding="utf-8") as file:
            found = os.fstat(file.fileno())
            # Anybody can make files in shared memory, and prompts go to the socket.
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
                return None
            values = json.load(file)
        return float(values["fraction"]), str(values["socket"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _arrival(answer: RunningAnswer) -> dict[str, Any]:
    request = answer.request
    return {
        "kind": "arrival",
        "key": answer.key,
        "ids": request.input_ids,
        "sampling": asdict(request.sampling),
        "stop": request.stop_strings,
        "bad_words": request.bad_strings,
        "max_tokens": request.max_new_tokens,
        "end_id": request.end_id,
    }


def _end(answer: RunningAnswer) -> dict[str, Any]:
    (sequence,) = answer.sequences
    reason = sequence.finish_reason
    return {
        "kind": "end",
        "key": answer.key,
        "ids": sequence.ids[sequence.echoed :],
        "finish_reason": None if reason is None else reason.value,
        "stop_reason": sequence.stop_reason,
        "error": None if answer.error is None else answer.error.code.value,
        **answer.latencies,
    }
