"""Starts Locust for a run, and a server where one is wanted."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .errors import LoadError, UnreachableError

#: How long a server may take until it is ready, and to end.
_START_S, _STOP_S = 180.0, 90.0


def locust_command(
    locustfile: Path, options: Mapping[str, str | None], users: int, spawn_rate: float, processes: int
) -> list[str]:
    """The command line of a headless run. options: those of `settings.OPTIONS` and `host`, unset where None."""
    command = [sys.executable, "-m", "locust", "-f", str(locustfile), "--headless", "--only-summary", "--only-llm"]
    command += ["--loglevel", "WARNING", "--users", str(users), "--spawn-rate", str(spawn_rate)]
    if processes > 1:
        command += ["--processes", str(processes), "--master-bind-host", "127.0.0.1"]
    for name, value in options.items():
        if value:
            command.append(f"--{name}={value}")
    return command


_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def _end_with_parent() -> None:
    """SIGTERM, and so an end in good order, when the process that started this one is gone."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _alone() -> None:
    # Ctrl-C in a terminal reaches whoever started it, and no one else: Locust would answer it with a traceback.
    os.setpgrp()
    _end_with_parent()


def run_locust(command: Sequence[str], quiet: bool = False) -> int:
    """Run it to its end; SIGINT and SIGTERM end it in good order, with what it has so far. Its exit status.

    Raises LoadError if it was killed.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL if quiet else None, preexec_fn=_alone)
    before = {
        number: signal.signal(number, lambda *_: process.send_signal(signal.SIGTERM))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if status < 0:
        raise LoadError(f"the load generator was ended by {signal.Signals(-status).name}")
    return status


@contextmanager
def served(target: str) -> Iterator[str]:
    """A server of this checkout, for as long as it is needed; its address for a target. Raises LoadError."""
    if target not in ("grpc", "http"):
        raise LoadError(f"--serve starts a server for the targets grpc and http, not {target}; say --host")
    with tempfile.TemporaryDirectory(prefix="trireme-load-") as folder:
        ready, log = Path(folder) / "ready.json", Path(folder) / "log"
        command = [sys.executable, "-m", "trireme_ops.cli", "serve", "--name", f"load-{os.getpid()}"]
        command += [f"--{port}-port=0" for port in ("http", "grpc", "metrics", "health")]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--ready-file", str(ready)],
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        try:
            deadline = time.monotonic() + _START_S
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise UnreachableError(f"the server did not start:\n{log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.1)
            yield str(json.loads(ready.read_text())[target])
        finally:
            process.terminate()
            process.wait(timeout=_STOP_S)
