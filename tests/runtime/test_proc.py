"""What Linux tells of processes: their children, families and what they did."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from support import wait_for
from trireme_runtime import proc

#: A child with a child of its own, started in a thread of its own; ends when its standard input does.
FAMILY = f"""
import subprocess, sys, threading
def start():
    subprocess.Popen([{sys.executable!r}, "-c", "import sys; sys.stdin.read()"]).wait()
threading.Thread(target=start).start()
"""


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", FAMILY], stdin=subprocess.PIPE) as process:
        wait_for(lambda: len(proc.family(process.pid)) == 2, what="its child")
        yield process
        process.communicate()


def test_children_are_found_whichever_thread_started_them(child: "subprocess.Popen[bytes]") -> None:
    (grandchild,) = proc.children(child.pid)
    assert child.pid in proc.children(os.getpid())
    assert proc.family(child.pid) == [child.pid, grandchild]
    assert proc.families([child.pid, grandchild]) == {child.pid: [child.pid, grandchild], grandchild: [grandchild]}


def test_what_is_gone_has_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    assert proc.children(process.pid) == []
    assert proc.threads([process.pid]) == []
    assert proc.activity(process.pid) is None


def test_activity_counts_every_thread() -> None:
    before = proc.activity(os.getpid())
    ended = threading.Event()

    def compute() -> None:
        while not ended.is_set():
            pass

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        assert before is not None
        wait_for(lambda: (now := proc.activity(os.getpid())) is not None and now.used_s > before.used_s + 0.2)
        assert len(proc.threads([os.getpid()])) >= 2
    finally:
        ended.set()
        thread.join()
