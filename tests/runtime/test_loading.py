"""A model that takes long to load says where it is, on the standard error of its process."""

import subprocess
import sys

import pytest

LOADING = """
import sys, time
from trireme_runtime import loading

@loading.loads
def initialize(seconds):
    time.sleep(seconds)
    if "fails" in sys.argv:
        raise ValueError("no such model")

def loads(seconds):
    loading.begin()
    try:
        initialize(seconds)
    except ValueError:
        pass

loading.TOLD_AFTER_S = 0.3
loads(1.0 if "slowly" in sys.argv else 0.0)
# What serves may take as long as it likes.
time.sleep(1.0)
"""


def told(*arguments: str) -> str:
    command = [sys.executable, "-c", LOADING, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stderr


def test_one_that_takes_long_tells_once_where_it_is() -> None:
    text = told("slowly")
    assert text.startswith("Timeout (0:00:00.300000)!")
    assert text.count("in initialize") == 1


@pytest.mark.parametrize("arguments", [[], ["fails"]])
def test_one_that_is_done_tells_nothing(arguments: list[str]) -> None:
    assert told(*arguments) == ""
