"""What is copied of the traffic of an engine model, and to whom."""

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import wait_for
from trireme_runtime import tap as tap_module
from trireme_runtime.answers import RunningAnswer, RunningSequence
from trireme_runtime.contract import Code, FinishReason, Refusal
from trireme_runtime.engines.base import EngineRequest, EngineTimes, Guide, GuideKind, Sampling
from trireme_runtime.requests import GenerationRequest
from trireme_runtime.shared_state import PREFIX_VARIABLE
from trireme_runtime.tap import Tap, tap_path

MODEL = "tensorrt_llm@r7"


class Listener:
    """A socket, and the tap file that names it."""

    def __init__(self, prefix: str, folder: Path) -> None:
        self.file = tap_path(prefix, MODEL)
        self.address = folder / "tap"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.address))
        self.socket.settimeout(10)

    def open(self, fraction: float = 1.0, mode: int = 0o600) -> None:
        staging = self.file.with_suffix(".new")
        staging.write_text(json.dumps({"fraction": fraction, "socket": str(self.address)}))
        staging.chmod(mode)
        staging.rename(self.file)

    def next(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.socket.recv(1 << 20))
        return message


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    prefix = f"trireme_{os.getpid()}_tap_"
    monkeypatch.setenv(PREFIX_VARIABLE, prefix)
    monkeypatch.setattr(tap_module, "LOOK_EVERY_S", 0.0)
    # A socket's path must be short.
    with tempfile.TemporaryDirectory() as folder:
        made = Listener(prefix, Path(folder))
        yield made
        made.file.unlink(missing_ok=True)
        made.socket.close()


@pytest.fixture
def tap() -> Iterator[Tap]:
    made = Tap(MODEL)
    yield made
    made.close()


class NoSink:
    """Nobody reads the answer."""


def answer_of(key: int = 1, ids: tuple[int, ...] = (5, 6), **fields: Any) -> RunningAnswer:
    request = GenerationRequest(
        **{
            "input_ids": ids,
            "max_new_tokens": 9,
            "end_id": 2,
            "sampling": Sampling(temperature=0.5, seed=7),
            "streaming": True,
            "echo": False,
            **fields,
        }
    )
    sequences = [RunningSequence(index, request, None) for index in range(request.num_sequences)]
    engine_request = EngineRequest(key, ids, 9, 2)
    return RunningAnswer("", request, NoSink(), [engine_request], sequences)  # type: ignore[arg-type]


def test_a_request_is_told_when_it_arrives_and_when_it_ends(listener: Listener, tap: Tap) -> None:
    listener.open()
    answer = answer_of(stop_strings=("x",), bad_strings=("y",))
    tap.arrived(answer)
    arrival = listener.next()
    assert (arrival["kind"], arrival["ids"], arrival["max_tokens"], arrival["end_id"]) == ("arrival", [5, 6], 9, 2)
    assert (arrival["stop"], arrival["bad_words"]) == (["x"], ["y"])
    assert Sampling(**arrival["sampling"]) == answer.request.sampling
    answer.sequences[0].take((70, 71), (), FinishReason.LENGTH)
    start = answer.arrival_ns
    answer.times[1] = EngineTimes(start + 1_000_000, start + 20_000_000, start + 30_000_000)
    tap.ended(answer)
    end = listener.next()
    assert end.pop("counts") == {"chosen": 1, "left_out": {}, "dropped": 0}
    assert end == {
        "kind": "end",
        "key": answer.key,
        "ids": [70, 71],
        "finish_reason": "length",
        "stop_reason": "",
        "error": None,
        "ttft_s": 0.02,
        "total_s": 0.03,
    }


def test_an_error_is_told_by_its_code(listener: Listener, tap: Tap) -> None:
    listener.open()
    answer = answer_of()
    tap.arrived(answer)
    answer.error = Refusal(Code.UNAVAILABLE, "gone")
    tap.ended(answer)
    listener.next()
    end = listener.next()
    assert (end["error"], end["finish_reason"], end["ttft_s"]) == ("UNAVAILABLE", None, None)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"guide": Guide(GuideKind.JSON)}, "guide"),
        ({"sampling": Sampling(beam_width=2)}, "beam search"),
        ({"num_sequences": 2}, "several sequences"),
    ],
)
def test_what_cannot_be_copied_is_counted(listener: Listener, tap: Tap, fields: dict[str, Any], reason: str) -> None:
    listener.open()
    answer = answer_of(**fields)
    tap.arrived(answer)
    tap.ended(answer)
    assert listener.next() == {
        "kind": "left_out",
        "reason": reason,
        "counts": {"chosen": 1, "left_out": {reason: 1}, "dropped": 0},
    }


def test_a_prompt_that_fits_no_datagram_is_counted(listener: Listener, tap: Tap) -> None:
    listener.open()
    tap.arrived(answer_of(1, ids=tuple(range(100_000, 500_000))))
    tap.arrived(answer_of(2))
    message = listener.next()
    assert message["key"] == 2
    assert message["counts"] == {"chosen": 2, "left_out": {"too large": 1}, "dropped": 0}


def test_without_a_tap_file_nothing_is_copied(listener: Listener, tap: Tap) -> None:
    answer = answer_of(1)
    tap.arrived(answer)
    listener.open()
    # It arrived before there was one.
    tap.ended(answer)
    tap.arrived(answer_of(2))
    assert listener.next()["key"] == 2
    listener.file.unlink()
    tap.arrived(answer_of(3))
    listener.open()
    tap.arrived(answer_of(4))
    assert listener.next()["key"] == 4


def test_a_share_is_copied(listener: Listener, tap: Tap) -> None:
    listener.open(fraction=0.25)
    for key in range(2000):
        tap.arrived(answer_of(key))
    # Of these, one is chosen for certain.
    for _ in range(200):
        tap.arrived(answer_of(5000))
    keys = [listener.next()["key"]]
    while keys[-1] != 5000:
        keys.append(listener.next()["key"])
    assert 400 <= len(keys) <= 600


def test_a_file_that_others_can_write_is_no_tap(listener: Listener, tap: Tap) -> None:
    listener.open(mode=0o666)
    tap.arrived(answer_of(1))
    listener.open()
    tap.arrived(answer_of(2))
    assert listener.next()["key"] == 2


@pytest.mark.parametrize("text", ["", "[]", '{"fraction": "x", "socket": "y"}', '{"socket": "y"}'])
def test_a_damaged_file_is_no_tap(listener: Listener, tap: Tap, text: str) -> None:
    listener.open()
    listener.file.write_text(text)
    tap.arrived(answer_of(1))
    listener.open()
    tap.arrived(answer_of(2))
    assert listener.next()["key"] == 2


def test_a_listener_that_does_not_read_holds_nobody_up(
    listener: Listener, tap: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tap_module, "MAX_WAITING", 64)
    listener.open()
    for key in range(500):
        tap.arrived(answer_of(key))
    # What the system and the tap hold comes through now; the rest is counted.
    received = [listener.next()]

    def all_counted() -> bool:
        tap.arrived(answer_of(1000))
        received.append(listener.next())
        return received[-1]["counts"]["dropped"] + len(received) >= 500

    wait_for(all_counted)
    assert len(received) < 500


def test_a_listener_that_is_gone_costs_nothing(listener: Listener, tap: Tap) -> None:
    listener.open()
    listener.socket.close()
    listener.address.unlink()
    for key in range(10):
        tap.arrived(answer_of(key))
    listener.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.socket.bind(str(listener.address))
    listener.socket.settimeout(10)

    def through() -> bool:
        tap.arrived(answer_of(50))
        return listener.next()["key"] == 50

    wait_for(through)
