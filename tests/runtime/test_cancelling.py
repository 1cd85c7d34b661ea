"""Generations are ended in whichever process of the server they run."""

import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pytest

from support import wait_for
from trireme_runtime.cancelling import EngineStopper, StopListener, Stopper, stop_elsewhere
from trireme_runtime.shared_state import PREFIX_VARIABLE, SHM

PREFIX = f"trireme_test_{os.getpid()}_"

#: Runs the generations whose request ids it is given, of the engine model whose name it is given first; prints what it
#: is asked for.
ENGINE = """
import sys
from trireme_runtime.cancelling import StopListener
model, *running = sys.argv[1:]
def stop(request_id, stream_key):
    print(request_id, stream_key, flush=True)
    return running.count(request_id) or int(str(stream_key) in running)
listener = StopListener(model, stop)
print("listens", flush=True)
sys.stdin.read()
listener.close()
"""


@pytest.fixture(autouse=True)
def shared_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(PREFIX_VARIABLE, PREFIX)
    yield
    assert not list(SHM.glob(f"{PREFIX}*"))


@contextmanager
def engine(model: str, *running: str) -> Iterator[IO[str]]:
    """A process of an engine model; what it prints."""
    with subprocess.Popen(
        [sys.executable, "-c", ENGINE, model, *running], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "listens\n"
        yield process.stdout
        process.stdin.close()
        process.wait(10)


def test_a_request_is_stopped_in_the_release_that_runs_it() -> None:
    with engine("tensorrt_llm", "a"), engine("tensorrt_llm@r7", "b", "c", "c"), engine("other_tensorrt_llm", "d"):
        for model in ("tensorrt_llm", "tensorrt_llm@r7", "tensorrt_llm@r8"):
            assert [stop_elsewhere(model, request_id) for request_id in "abcd"] == [1, 1, 2, 0]
        assert stop_elsewhere("other_tensorrt_llm", "d") == 1


def test_a_stream_is_stopped_once_by_its_key() -> None:
    key, other = 2**61 + 12345, 5
    with engine("tensorrt_llm@r7", str(key)) as asked:
        stopper = EngineStopper("tensorrt_llm@r6")
        for stopped in (key, key, other, key):
            stopper.stop(stopped)
        assert [asked.readline(), asked.readline()] == [f" {key}\n", f" {other}\n"]
        # It was not there, or could not be asked: the next chunk of it tries again.
        wait_for(lambda: stopper.stop(other) or select.select([asked], [], [], 0)[0])
        assert asked.readline() == f" {other}\n"
        told: list[int] = []
        Stopper("tensorrt_llm").stop("", key, told.append)
        wait_for(lambda: told)
        assert told == [1]
        while (line := asked.readline()) == f" {other}\n":
            continue
        assert line == f" {key}\n"


def test_a_process_does_not_ask_itself() -> None:
    asked: list[str] = []

    def stop(request_id: str, stream_key: int) -> int:
        asked.append(request_id)
        return 1

    listener = StopListener("tensorrt_llm", stop)
    try:
        assert stop_elsewhere("tensorrt_llm", "a") == 0
    finally:
        listener.close()
    assert not asked


def test_one_that_was_killed_or_stands_still_holds_nobody_up_for_long() -> None:
    gone = SHM / f"{PREFIX}1.stop"
    gone.write_bytes(b"")
    blocked = threading.Event()

    def stop(request_id: str, stream_key: int) -> int:
        blocked.wait(30)
        return 1

    listener = StopListener("tensorrt_llm", stop)
    code = (
        "from trireme_runtime import cancelling as c; c._TIMEOUT_S = 0.5; print(c.stop_elsewhere('tensorrt_llm', 'a'))"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
        assert done.stdout == "0\n"
    finally:
        blocked.set()
        listener.close()
        gone.unlink()


def test_what_is_none_of_ours_does_not_end_the_listening() -> None:
    with engine("tensorrt_llm", "a"):
        (path,) = SHM.glob(f"{PREFIX}*.stop")
        for message in (b"", b"{", b"3", b'["tensorrt_llm"]', b"\xff" * 1000):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
                connection.connect(str(path))
                connection.send(message)
        assert path.stat().st_mode & 0o077 == 0
        assert stop_elsewhere("tensorrt_llm", "a") == 1
