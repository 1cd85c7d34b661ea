"""What is being loaded comes on or stands still: processes that are called as Triton calls its stubs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import wait_for
from trireme_ops.model_loads import ModelLoad, ModelLoads, stand_still

WAITS = "import time; time.sleep(600)"
COMPUTES = "while True: pass"
#: Its child ends when it does.
CHILD_COMPUTES = f"""
import subprocess
child = "import os, threading; threading.Thread(target=lambda: (os.read(0, 1), os._exit(0)), daemon=True).start()"
subprocess.run([{sys.executable!r}, "-c", child + "\\nwhile True: pass"])
"""

Starts = Callable[[str, str], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starts]:
    """Start the process of a model, a child of this one, as tritonserver does."""
    processes: list[subprocess.Popen[bytes]] = []

    def start_stub(model: str, program: str) -> "subprocess.Popen[bytes]":
        folder = tmp_path / model / "1"
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(program)
        process = subprocess.Popen(
            ["/opt/backends/python/triton_python_backend_stub", str(folder / "model.py"), "region"],
            executable=sys.executable,
            stdin=subprocess.PIPE,
        )
        processes.append(process)
        return process

    yield start_stub
    for process in processes:
        process.kill()
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def look_until(loads: ModelLoads, done: Callable[[list[ModelLoad]], bool], what: str) -> list[ModelLoad]:
    found: list[ModelLoad] = []

    def looks() -> bool:
        found[:] = loads.look([])
        return done(found)

    wait_for(looks, 30, what)
    return found


def test_one_that_waits_stands_still_and_tells_which_it_is(start: Starts) -> None:
    stub = start("preprocessing@r1", WAITS)
    (load,) = look_until(ModelLoads(os.getpid()), lambda found: bool(found) and found[0].still_s > 1.5, "a standstill")
    assert (load.model, load.version, load.pid) == ("preprocessing@r1", "1", stub.pid)
    assert not load.is_done
    assert str(load).startswith(f"preprocessing@r1 is being loaded: process {stub.pid}, 0.")
    assert str(load).endswith("s of processor time, none of it in the last 2 s")


@pytest.mark.parametrize("program", [COMPUTES, CHILD_COMPUTES], ids=["it", "its child"])
def test_one_that_computes_does_not(start: Starts, program: str) -> None:
    start("tensorrt_llm", program)
    loads = ModelLoads(os.getpid())
    look_until(loads, lambda found: bool(found) and found[0].used_s > 0.5, "something computed")
    until, still = time.monotonic() + 1.5, []
    while time.monotonic() < until:
        still += [load.still_s for load in loads.look([])]
        time.sleep(0.05)
    assert max(still) < 1


def test_one_that_was_halted_stands_still_and_comes_on_again(start: Starts) -> None:
    stub = start("tensorrt_llm", COMPUTES)
    loads = ModelLoads(os.getpid())
    look_until(loads, lambda found: bool(found) and found[0].used_s > 0.2, "something computed")
    stub.send_signal(signal.SIGSTOP)
    look_until(loads, lambda found: found[0].still_s > 1, "a standstill")
    stub.send_signal(signal.SIGCONT)
    look_until(loads, lambda found: found[0].still_s < 0.5, "something computed again")


def test_only_models_are_told(start: Starts) -> None:
    stub = start("preprocessing", WAITS)
    loads = ModelLoads(os.getpid())
    look_until(loads, lambda found: len(found) == 1, "the process")
    assert [load.is_done for load in loads.look([stub.pid])] == [True]
    other = subprocess.Popen([sys.executable, "-c", WAITS])
    try:
        assert [load.pid for load in loads.look([])] == [stub.pid]
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        ([], False),
        # Whether it is done -> for how long it has done nothing.
        ([(True, 11)], True),
        ([(True, 9)], False),
        ([(False, 29)], False),
        ([(False, 31)], True),
        # One may wait for the other, or be given up: while that is being loaded, it is too early to say.
        ([(True, 60), (False, 1)], False),
        ([(True, 60), (False, 29)], False),
        ([(True, 60), (False, 31)], True),
        ([(True, 11), (True, 12)], True),
    ],
)
def test_what_is_done_has_to_be_noted_sooner_than_what_is_not(loads: list[tuple[bool, float]], expected: bool) -> None:
    assert stand_still([ModelLoad("m", "1", 1, is_done, 1.0, still_s) for is_done, still_s in loads]) is expected
