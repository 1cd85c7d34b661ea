"""Loading at a low priority, in a process of its own: what is done to its threads stays with it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from trireme_runtime.background import LOADING_NICE, may_return
from trireme_runtime.shared_state import PREFIX_VARIABLE, BackgroundMark

#: Of this process, and so of what it starts.
NORMAL = os.getpriority(os.PRIO_PROCESS, 0)

PREFIX = f"trireme_test_{os.getpid()}_"

#: Loads a "model" with threads and a child process, as a stub does; prints the nice values of them all: of the thread
#: that was there before, while it loads, and when it serves.
LOADING = """
import json, os, subprocess, sys, threading, time
from pathlib import Path
from trireme_runtime import loading

def values():
    pids = [os.getpid(), *children]
    tasks = [int(task.name) for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sorted(os.getpriority(os.PRIO_PROCESS, task) for task in tasks)

children = []
done = threading.Event()
threading.Thread(target=done.wait, daemon=True).start()

CHILD = '''
import sys, threading
for _ in range(3):
    threading.Thread(target=sys.stdin.read).start()
print("there", flush=True)
'''

@loading.loads
def initialize():
    for _ in range(3):
        threading.Thread(target=done.wait, daemon=True).start()
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    children.append(child.pid)
    told["loading"] = values()
    if "fails" in sys.argv:
        raise ValueError("no such model")

told = {}
loading.begin()
try:
    initialize()
except ValueError:
    pass
# The thread that tells what takes long is told to end, and does so soon.
while len(list(Path("/proc/self/task").iterdir())) > 5:
    time.sleep(0.01)
told["serving"] = values()
print(json.dumps(told))
"""

needs_right = pytest.mark.skipif(not may_return(), reason="this process may not raise its priority again")


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[BackgroundMark]:
    monkeypatch.setenv(PREFIX_VARIABLE, PREFIX)
    mark = BackgroundMark()
    mark.make()
    yield mark
    mark.remove()


def load(*arguments: str, before: Sequence[str] = ()) -> dict[str, Any]:
    command = [*before, sys.executable, "-c", LOADING, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


#: This thread and three more, a child with three; one that was there before; and the one that tells what takes long.
LOADED, BEFORE, TELLS = 8, 1, 1

EVERYTHING = {"loading": [NORMAL] * (BEFORE + TELLS + LOADED), "serving": [NORMAL] * (BEFORE + LOADED)}


@needs_right
@pytest.mark.parametrize("arguments", [[], ["fails"]])
def test_what_loads_beside_others_is_nice_and_serves_as_any_other(mark: BackgroundMark, arguments: list[str]) -> None:
    assert load(*arguments) == {
        "loading": [NORMAL] * (BEFORE + TELLS) + [LOADING_NICE] * LOADED,
        "serving": [NORMAL] * (BEFORE + LOADED),
    }


def test_without_the_mark_nothing_changes(mark: BackgroundMark) -> None:
    mark.remove()
    assert load() == EVERYTHING


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="only root can give up a right")
def test_one_that_could_not_come_back_stays_as_it_is(mark: BackgroundMark) -> None:
    assert load(before=["setpriv", "--bounding-set=-sys_nice"]) == EVERYTHING
