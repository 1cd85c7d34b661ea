"""The real engine in its child process: continuous batching, and a guard for each of its traps."""

import os
import signal
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import CHECKPOINT, ROOT, wait_for
from trireme_build.engine_folder import ensure_engine
from trireme_runtime.contract import FinishReason, Refusal
from trireme_runtime.engines import load_engine
from trireme_runtime.engines.base import (
    EngineDied,
    EngineEvent,
    EngineRequest,
    EngineSettings,
    Guide,
    GuideKind,
    Sampling,
)
from trireme_runtime.engines.openvino import OpenVinoEngine

END = 2


@pytest.fixture(scope="module")
def folder() -> Path:
    version = ROOT / "model_repository" / "tensorrt_llm" / "1"
    ensure_engine(version, ROOT)
    return version / "engine"


class Reader:
    """Collects an engine's events by key in a thread."""

    def __init__(self, engine: OpenVinoEngine) -> None:
        self.engine = engine
        self.ids: dict[int, list[int]] = defaultdict(list)
        self.last: dict[int, EngineEvent] = {}
        self.batches: list[set[int]] = []
        self.died: EngineDied | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            for batch in self.engine.steps():
                self.batches.append({event.key for event in batch.all_events()})
                for event in batch.all_events():
                    assert event.key not in self.last
                    self.ids[event.key] += event.ids
                    if event.is_last:
                        self.last[event.key] = event
        except EngineDied as error:
            self.died = error

    def generate(self, request: EngineRequest) -> tuple[list[int], EngineEvent]:
        self.engine.submit(request)
        wait_for(lambda: request.key in self.last, what=f"the end of request {request.key}")
        return self.ids[request.key], self.last[request.key]


@pytest.fixture(scope="module")
def reader(folder: Path) -> Iterator[Reader]:
    engine = OpenVinoEngine(folder, EngineSettings(max_num_seqs=16, kv_cache_tokens=4096))
    yield Reader(engine)
    engine.close()
    assert not Path(f"/proc/{engine.pid}").exists()


@pytest.fixture(scope="module")
def prompt(tokenizer: Any) -> Any:
    def encode(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True))

    return encode


class Keys:
    """Keys that no other test uses."""

    def __init__(self) -> None:
        self.next = 1

    def __call__(self) -> int:
        self.next += 1
        return self.next


key = Keys()


def test_greedy_answers_and_leaves_the_end_id_out(reader: Reader, prompt: Any, tokenizer: Any) -> None:
    ids, last = reader.generate(EngineRequest(key(), prompt("Reverse: stream"), 32, END))
    assert tokenizer.decode(ids) == "maerts"
    assert last.finish_reason is FinishReason.STOP
    assert END not in ids


def test_length_ends_it_after_exactly_as_many_ids(reader: Reader, prompt: Any) -> None:
    ids, last = reader.generate(EngineRequest(key(), prompt("Count from 1 to 60."), 17, END))
    assert len(ids) == 17
    assert last.finish_reason is FinishReason.LENGTH


def test_without_an_end_id_it_goes_on(reader: Reader, prompt: Any) -> None:
    ids, last = reader.generate(EngineRequest(key(), prompt("Reverse: abc"), 40, None))
    assert len(ids) == 40
    assert last.finish_reason is FinishReason.LENGTH


def test_requests_join_and_leave_between_steps(reader: Reader, prompt: Any) -> None:
    long, short = key(), key()
    reader.engine.submit(EngineRequest(long, prompt("Count from 1 to 60."), 150, None))
    wait_for(lambda: len(reader.ids[long]) > 5)
    reader.generate(EngineRequest(short, prompt("Reverse: stream"), 32, END))
    assert long not in reader.last
    assert any({long, short} <= batch for batch in reader.batches)
    wait_for(lambda: long in reader.last)
    assert len(reader.ids[long]) == 150


def test_the_same_seed_gives_the_same_ids_and_no_seed_others(reader: Reader, prompt: Any) -> None:
    def sampled(seed: int | None) -> tuple[int, ...]:
        hot = Sampling(temperature=5.0, seed=seed)
        return tuple(reader.generate(EngineRequest(key(), prompt("Recite the rowing song."), 24, None, hot))[0])

    assert sampled(7) == sampled(7)
    assert len({sampled(None) for _ in range(4)}) > 1


def test_cancel_ends_it_and_the_engine_goes_on(reader: Reader, prompt: Any) -> None:
    victim = key()
    reader.engine.submit(EngineRequest(victim, prompt("Count from 1 to 60."), 1500, None))
    wait_for(lambda: reader.ids[victim])
    reader.engine.cancel(victim)
    wait_for(lambda: victim in reader.last)
    assert reader.last[victim].finish_reason is FinishReason.CANCELLED
    reader.engine.cancel(victim)
    assert reader.generate(EngineRequest(key(), prompt("Reverse: abc"), 8, END))[1].finish_reason is FinishReason.STOP


def test_a_key_in_use_is_refused_and_does_not_wedge_the_engine(reader: Reader, prompt: Any) -> None:
    twice = key()
    reader.engine.submit(EngineRequest(twice, prompt("Count from 1 to 60."), 100, None))
    with pytest.raises(ValueError, match="already active"):
        reader.engine.submit(EngineRequest(twice, prompt("Reverse: abc"), 100, None))
    wait_for(lambda: twice in reader.last)
    assert len(reader.ids[twice]) == 100
    # After its end it may be used again.
    reader.last.pop(twice)
    assert reader.generate(EngineRequest(twice, prompt("Reverse: abc"), 8, END))[1].finish_reason is FinishReason.STOP


@pytest.mark.parametrize(
    ("ids", "max_new_tokens", "end_id", "word"),
    [
        ((), 4, END, "empty"),
        ((1, 512), 4, END, "512"),
        ((1, -1), 4, END, "-1"),
        ((1, 7), 0, END, "max_tokens is 0"),
        ((7,) * 2000, 49, END, "2048"),
        ((1, 7), 4, 512, "end_id is 512"),
    ],
)
def test_what_would_give_garbage_is_refused(
    reader: Reader, ids: tuple[int, ...], max_new_tokens: int, end_id: int, word: str
) -> None:
    with pytest.raises(Refusal) as caught:
        reader.engine.submit(EngineRequest(key(), ids, max_new_tokens, end_id))
    assert word in caught.value.message


def test_what_the_engine_itself_refuses_is_reported_and_it_goes_on(reader: Reader, prompt: Any) -> None:
    contradictory = Sampling(min_tokens=10)
    _, last = reader.generate(EngineRequest(key(), prompt("Reverse: abc"), 4, END, contradictory))
    assert last.error is not None
    assert "the engine refuses" in last.error.message
    assert reader.generate(EngineRequest(key(), prompt("Reverse: abc"), 8, END))[1].finish_reason is FinishReason.STOP


def test_more_than_the_kv_cache_holds_is_refused_and_neighbours_are_left_alone(folder: Path, prompt: Any) -> None:
    engine = OpenVinoEngine(folder, EngineSettings(max_num_seqs=8, kv_cache_tokens=256))
    try:
        reader = Reader(engine)
        neighbour = key()
        engine.submit(EngineRequest(neighbour, prompt("Count from 1 to 60."), 200, None))
        with pytest.raises(Refusal, match="256 tokens"):
            engine.submit(EngineRequest(key(), (1,) * 200, 58, None))
        wait_for(lambda: neighbour in reader.last)
        assert len(reader.ids[neighbour]) == 200
    finally:
        engine.close()


def test_a_crowded_kv_cache_preempts_and_stays_exact(folder: Path, prompt: Any) -> None:
    engine = OpenVinoEngine(folder, EngineSettings(max_num_seqs=8, kv_cache_tokens=512))
    try:
        reader = Reader(engine)
        alone, _ = reader.generate(EngineRequest(key(), prompt("Count from 1 to 60."), 150, None))
        crowd = [key() for _ in range(6)]
        for member in crowd:
            engine.submit(EngineRequest(member, prompt("Count from 1 to 60."), 150, None))
        wait_for(lambda: all(member in reader.last for member in crowd))
        assert all(reader.ids[member] == alone for member in crowd)
    finally:
        engine.close()


def test_the_child_ends_when_its_parent_is_gone(folder: Path) -> None:
    engine = OpenVinoEngine(folder, EngineSettings(max_num_seqs=4, kv_cache_tokens=256))
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        # A parent of its own for another child, killed below without a chance to say goodbye.
        orphan = OpenVinoEngine(folder, EngineSettings(max_num_seqs=4, kv_cache_tokens=256))
        os.write(writer, str(orphan.pid).encode())
        signal.pause()
    try:
        child = int(os.read(reader, 32))
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        wait_for(lambda: not Path(f"/proc/{child}/exe").exists(), what="the end of the orphaned engine")
    finally:
        os.close(reader)
        os.close(writer)
        engine.close()


def test_a_killed_child_is_reported(folder: Path) -> None:
    engine = OpenVinoEngine(folder, EngineSettings(max_num_seqs=4, kv_cache_tokens=256))
    reader = Reader(engine)
    os.kill(engine.pid, signal.SIGKILL)
    reader.thread.join(10)
    assert reader.died is not None
    with pytest.raises(EngineDied):
        for _ in range(3):
            engine.submit(EngineRequest(1, (1, 7), 4, END))
    engine.close()


def test_a_folder_without_a_model_is_an_error_and_leaves_no_child(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="Could not find a model"):
        OpenVinoEngine(tmp_path, EngineSettings())


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(ValueError, match="'warp'"):
        load_engine("warp", CHECKPOINT, EngineSettings())


GUIDE = Guide(GuideKind.REGEX, "[ab]{4}")
BAD_GUIDE = Guide(GuideKind.REGEX, "[ab")


def test_a_bad_guide_is_refused_and_others_are_answered(reader: Reader, prompt: Any, tokenizer: Any) -> None:
    first, bad, last = key(), key(), key()
    for number, guide in ((first, GUIDE), (bad, BAD_GUIDE), (last, GUIDE)):
        reader.engine.submit(EngineRequest(number, prompt("Reverse: abc"), 20, END, guide=guide))
    wait_for(lambda: {first, bad, last} <= reader.last.keys())
    refusal = reader.last[bad].error
    assert refusal is not None
    assert "Unclosed" in refusal.message
    for number in (first, last):
        assert len(tokenizer.decode(reader.ids[number])) == 4


def test_a_request_is_cancelled_while_its_guide_is_checked(reader: Reader, prompt: Any) -> None:
    exploding = Guide(GuideKind.REGEX, "(((b{1,999}){1,999}){1,999}){1,999}")
    slow, waiting = key(), key()
    reader.engine.submit(EngineRequest(slow, prompt("x"), 20, END, guide=exploding))
    reader.engine.submit(EngineRequest(waiting, prompt("x"), 20, END, guide=GUIDE))
    reader.engine.cancel(waiting)
    wait_for(lambda: {slow, waiting} <= reader.last.keys())
    assert reader.last[slow].error is not None
    assert reader.last[waiting].finish_reason is FinishReason.CANCELLED


def test_a_checker_that_was_killed_is_started_again(reader: Reader, prompt: Any) -> None:
    reader.generate(EngineRequest(key(), prompt("x"), 8, END, bad_strings=("q",)))
    process = reader.engine.checker._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, last = reader.generate(EngineRequest(key(), prompt("x"), 8, END, bad_strings=("qq",)))
    assert last.finish_reason is not None
