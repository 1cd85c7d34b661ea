"""The small files by which the processes of one server know of each other."""

import os
from collections.abc import Iterator

import pytest

from trireme_runtime.admission import NUM_PRIORITIES, QueueLimits, QueueState
from trireme_runtime.shared_state import (
    PREFIX_VARIABLE,
    SHM,
    BackgroundMark,
    QueueFile,
    QueueReader,
    StatusFile,
    read_statuses,
)

PREFIX = f"trireme_test_{os.getpid()}[1]_"
LIMITS = QueueLimits(7, 100, 50)


@pytest.fixture(autouse=True)
def shared_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(PREFIX_VARIABLE, PREFIX)
    yield
    left = [path for path in SHM.iterdir() if path.name.startswith(PREFIX)]
    for path in left:
        path.unlink()
    assert not left


def queue(model: str, version: str, queued: int) -> QueueFile:
    file = QueueFile(model, version, LIMITS)
    file.write(QueueState([queued] + [0] * (NUM_PRIORITIES - 1), 10 * queued, 1.0))
    return file


def read_queued(model: str) -> int | None:
    found = QueueReader(model).read()
    return None if found is None else found[1].queued[0]


def test_a_queue_is_that_of_the_model_of_exactly_this_name() -> None:
    files = [
        queue("tensorrt_llm", "3", 1),
        queue("tensorrt_llm@r7", "1", 2),
        queue("tensorrt_llm@r7", "2", 3),
        queue("tensorrt_llm@r7.1", "9", 4),
        queue("x_tensorrt_llm", "9", 5),
    ]
    assert read_queued("tensorrt_llm") == 1
    assert read_queued("tensorrt_llm@r7") == 3
    assert read_queued("tensorrt_llm@r7.1") == 4
    assert read_queued("tensorrt_llm@r*") is None
    for file in files:
        file.close()
    assert read_queued("tensorrt_llm") is None


def test_a_status_names_the_model_as_it_was_loaded() -> None:
    files = [StatusFile("tensorrt_llm@r7.1-b", "2"), StatusFile("preprocessing", "12")]
    files[1].serving(False)
    assert [(s.model, s.version, s.pid, s.serves) for s in read_statuses(PREFIX)] == [
        ("preprocessing", 12, os.getpid(), False),
        ("tensorrt_llm@r7.1-b", 2, os.getpid(), True),
    ]
    for file in files:
        file.close()


def test_one_that_is_replaced_leaves_its_successors_status_alone() -> None:
    replaced = StatusFile("tensorrt_llm", "1")
    successor = StatusFile("tensorrt_llm", "1")
    replaced.close()
    assert [status.model for status in read_statuses(PREFIX)] == ["tensorrt_llm"]
    successor.close()
    assert not read_statuses(PREFIX)


def test_the_background_mark_is_one_servers() -> None:
    own, others = BackgroundMark(), BackgroundMark(f"{PREFIX}other_")
    BackgroundMark(PREFIX).make()
    assert (own.is_there, others.is_there) == (True, False)
    own.remove()
    own.remove()
    assert not own.is_there
