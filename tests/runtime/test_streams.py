"""The stream router over an engine that the test drives by hand."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from support import wait_for
from trireme_runtime.admission import QueueLimits, QueueState
from trireme_runtime.answers import CancelCause, Chunk, RunningAnswer
from trireme_runtime.contract import Code, FinishReason, Refusal
from trireme_runtime.detokenizing import Detokenizer
from trireme_runtime.engines.base import (
    Beam,
    EngineDied,
    EngineEvent,
    EngineLimits,
    EngineRequest,
    EngineStep,
    Sampling,
)
from trireme_runtime.requests import GenerationRequest
from trireme_runtime.streams import RouterSettings, StreamRouter


class DrivenEngine:
    """Emits what the test puts in; refuses keys that are used twice."""

    name = "driven"
    limits = EngineLimits(vocab_size=512, max_context_tokens=256, kv_cache_tokens=256, max_num_seqs=8)
    honours: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.submitted: dict[int, EngineRequest] = {}
        self.cancelled: list[int] = []
        self._steps: queue.Queue[EngineStep | Exception | None] = queue.Queue()

    def submit(self, request: EngineRequest) -> None:
        assert request.key not in self.submitted
        self.submitted[request.key] = request

    def cancel(self, key: int) -> None:
        self.cancelled.append(key)
        self.emit(EngineEvent(key, finish_reason=FinishReason.CANCELLED))

    def emit(self, *events: EngineEvent) -> None:
        """Put a step in; what is nothing but one id goes the short way."""
        plain = [event for event in events if len(event.ids) == 1 and event.is_plain]
        others = [event for event in events if event not in plain]
        self._steps.put(EngineStep([event.key for event in plain], [event.ids[0] for event in plain], others))

    def fail(self, error: Exception) -> None:
        self._steps.put(error)

    def steps(self) -> Iterator[EngineStep]:
        while (step := self._steps.get()) is not None:
            if isinstance(step, Exception):
                raise step
            yield step

    def close(self) -> None:
        self._steps.put(None)


class RecordingSink:
    """Keeps what is sent; can hold the sender up."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.error: Refusal | None = None
        self.ended = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.gone = False

    def send(self, chunk: Chunk, final: bool) -> bool:
        assert not self.ended.is_set()
        self.chunks.append(chunk)
        self.gate.wait(10)
        if final:
            self.ended.set()
        return True

    def fail(self, refusal: Refusal) -> None:
        self.error = refusal
        self.ended.set()

    def is_cancelled(self) -> bool:
        return self.gone

    @property
    def ids(self) -> list[int]:
        return [token for chunk in self.chunks for token in chunk.pieces[0].output_ids]


class Watcher:
    """Keeps what the router tells."""

    def __init__(self) -> None:
        self.running_counts: list[int] = []
        self.waiting = 0
        self.ids = 0
        self.gaps: list[float] = []
        self.first_tokens: list[float] = []
        self.causes: list[CancelCause] = []
        self.answers: list[RunningAnswer] = []
        self.state: QueueState | None = None
        self.restarts = 0
        self.lost: EngineDied | None = None
        self.failed: Exception | None = None

    def load(self, running: int, waiting: int) -> None:
        self.running_counts.append(running)
        self.waiting = waiting

    def queue(self, state: QueueState) -> None:
        self.state = state

    def refused(self, refusal: Refusal) -> None:
        raise AssertionError("the router tells its caller")

    def step(self, step: EngineStep) -> None:
        self.ids += step.num_ids

    def inter_token(self, gap_s: float) -> None:
        self.gaps.append(gap_s)

    def first_token(self, delay_s: float) -> None:
        self.first_tokens.append(delay_s)

    def cancelled(self, cause: CancelCause) -> None:
        self.causes.append(cause)

    def ended(self, answer: RunningAnswer) -> None:
        self.answers.append(answer)

    def engine_started(self) -> None:
        self.restarts += 1

    def engine_lost(self, error: EngineDied) -> None:
        self.lost = error

    def send_failed(self, error: Exception) -> None:
        self.failed = error


def generation(streaming: bool = True, stop: tuple[str, ...] = (), echo: bool = False) -> GenerationRequest:
    return GenerationRequest((1, 5, 9), 64, 2, Sampling(), streaming, echo, stop)


@pytest.fixture
def engines() -> list[DrivenEngine]:
    """Every engine that the router started, the last one running."""
    return []


@pytest.fixture
def engine(router: StreamRouter, engines: list[DrivenEngine]) -> DrivenEngine:
    return engines[0]


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


def router_on(
    engines: list[DrivenEngine], tokenizer: Any, watcher: Watcher, settings: RouterSettings | None = None
) -> StreamRouter:
    """A router whose engines, one after the other, are noted in `engines`."""

    def start_engine() -> DrivenEngine:
        engines.append(DrivenEngine())
        return engines[-1]

    return StreamRouter(start_engine, Detokenizer(tokenizer), watcher, settings or RouterSettings())


@pytest.fixture
def router(engines: list[DrivenEngine], tokenizer: Any, watcher: Watcher) -> Iterator[StreamRouter]:
    router = router_on(engines, tokenizer, watcher)
    yield router
    router.close()


def test_the_first_ids_are_sent_alone_and_later_ones_together(engine: DrivenEngine, router: StreamRouter) -> None:
    sink = RecordingSink()
    sink.gate.clear()
    key = router.start(generation(), sink)
    engine.emit(EngineEvent(key, (40,)))
    wait_for(lambda: len(sink.chunks) == 1)
    for token in (41, 42, 43):
        engine.emit(EngineEvent(key, (token,)))
    engine.emit(EngineEvent(key, (44,), FinishReason.STOP))
    wait_for(lambda: router.peek(key) == (5, True))
    sink.gate.set()
    assert sink.ended.wait(10)
    assert [chunk.pieces[0].output_ids for chunk in sink.chunks] == [[40], [41, 42, 43, 44]]
    assert sink.chunks[-1].pieces[0].window_ids == [40]
    assert sink.chunks[-1].pieces[0].finish_reason is FinishReason.STOP
    assert sink.chunks[-1].num_output_tokens == 5


def test_without_streaming_there_is_exactly_one_chunk(engine: DrivenEngine, router: StreamRouter) -> None:
    sink = RecordingSink()
    key = router.start(generation(streaming=False), sink)
    engine.emit(EngineEvent(key, (40,)))
    engine.emit(EngineEvent(key, (41,)), EngineEvent(key, (), FinishReason.LENGTH))
    engine.emit(EngineEvent(key, (42,), FinishReason.LENGTH))
    assert sink.ended.wait(10)
    assert [chunk.pieces[0].output_ids for chunk in sink.chunks] == [[40, 41]]


def test_a_stop_string_ends_the_generation_in_the_engine(
    engine: DrivenEngine, router: StreamRouter, tokenizer: Any
) -> None:
    sink = RecordingSink()
    key = router.start(generation(stop=("cd",)), sink)
    ids = tokenizer.encode("abcdef", add_special_tokens=False)
    for token in ids[:3]:
        engine.emit(EngineEvent(key, (token,)))
    wait_for(lambda: router.peek(key) == (3, False))
    # "c" may begin the stop string, so nothing but "ab" is sent before more is known.
    wait_for(lambda: sink.ids == ids[:2])
    for token in ids[3:]:
        engine.emit(EngineEvent(key, (token,)))
    assert sink.ended.wait(10)
    wait_for(lambda: engine.cancelled == [key])
    assert sink.ids == ids[:4]
    assert (sink.chunks[-1].pieces[0].finish_reason, sink.chunks[-1].pieces[0].stop_reason) == (FinishReason.STOP, "cd")


def test_echo_puts_the_prompt_in_front_and_does_not_count_it(engine: DrivenEngine, router: StreamRouter) -> None:
    sink = RecordingSink()
    key = router.start(generation(echo=True), sink)
    engine.emit(EngineEvent(key, (40,), FinishReason.LENGTH))
    assert sink.ended.wait(10)
    assert sink.ids == [1, 5, 9, 40]
    assert (sink.chunks[-1].num_input_tokens, sink.chunks[-1].num_output_tokens) == (3, 1)


def test_a_client_that_went_away_is_cancelled_in_the_engine(engine: DrivenEngine, router: StreamRouter) -> None:
    sink = RecordingSink()
    key = router.start(generation(), sink)
    sink.gone = True
    engine.emit(EngineEvent(key, (40,)))
    assert sink.ended.wait(10)
    assert engine.cancelled == [key]
    assert router.active == 0


def test_cancel_ends_the_stream_and_says_so(engine: DrivenEngine, router: StreamRouter) -> None:
    sink = RecordingSink()
    key = router.start(generation(), sink, "mine")
    assert router.keys_of("mine") == [key]
    assert router.cancel(key, CancelCause.STOP)
    assert sink.ended.wait(10)
    assert sink.chunks[-1].pieces[0].finish_reason is FinishReason.CANCELLED
    assert not router.cancel(key, CancelCause.STOP)


def test_events_that_cannot_be_read_fail_the_streams_too(engine: DrivenEngine, router: StreamRouter) -> None:
    sink = RecordingSink()
    router.start(generation(), sink)
    engine.fail(TypeError("unreadable"))
    assert sink.ended.wait(10)
    assert sink.error is not None
    assert "unreadable" in sink.error.message


def test_a_dead_engine_fails_its_streams_and_is_started_again(
    engine: DrivenEngine, engines: list[DrivenEngine], router: StreamRouter, watcher: Watcher
) -> None:
    sink = RecordingSink()
    router.start(generation(), sink)
    engine.fail(EngineDied("killed"))
    assert sink.ended.wait(10)
    assert sink.error is not None
    assert sink.error.code is Code.UNAVAILABLE
    wait_for(lambda: len(engines) == 2 and router.engine is engines[1])
    assert watcher.lost is not None
    again = RecordingSink()
    key = router.start(generation(), again)
    engines[1].emit(EngineEvent(key, (40,), FinishReason.LENGTH))
    assert again.ended.wait(10)
    assert again.ids == [40]


def test_a_stream_that_cannot_be_sent_leaves_the_others_alone(
    engine: DrivenEngine, router: StreamRouter, watcher: Watcher
) -> None:
    class BrokenSink(RecordingSink):
        def send(self, chunk: Chunk, final: bool) -> bool:
            raise RuntimeError("broken")

    broken, good = router.start(generation(), BrokenSink()), RecordingSink()
    key = router.start(generation(), good)
    engine.emit(EngineEvent(broken, (40,)))
    engine.emit(EngineEvent(key, (41,), FinishReason.LENGTH))
    assert good.ended.wait(10)
    assert engine.cancelled == [broken]
    assert watcher.failed is not None


def test_the_observer_counts_running_streams_and_ids(
    engine: DrivenEngine, router: StreamRouter, watcher: Watcher
) -> None:
    sinks = [RecordingSink(), RecordingSink()]
    keys = [router.start(generation(), sink) for sink in sinks]
    engine.emit(*(EngineEvent(key, (40, 41), FinishReason.LENGTH) for key in keys))
    assert all(sink.ended.wait(10) for sink in sinks)
    wait_for(lambda: watcher.running_counts[-1] == 0)
    assert watcher.running_counts[:2] == [1, 2]
    assert watcher.ids == 4


def test_ids_outside_the_vocabulary_are_refused_before_the_engine(engine: DrivenEngine, router: StreamRouter) -> None:
    with pytest.raises(Refusal, match="600"):
        router.start(GenerationRequest((1, 600), 4, 2, Sampling(), True, False, ()), RecordingSink())
    assert not engine.submitted


def several(streaming: bool, count: int = 2, **fields: Any) -> GenerationRequest:
    return replace(generation(streaming), max_new_tokens=8, num_sequences=count, **fields)


def test_several_sequences_are_requests_with_seeds_of_their_own(engine: DrivenEngine, router: StreamRouter) -> None:
    request = several(False, 3, sampling=Sampling(temperature=1.0, seed=2**64 - 2))
    router.start(request, RecordingSink())
    assert [sent.sampling.seed for sent in engine.submitted.values()] == [2**64 - 2, 2**64 - 1, 0]


def test_several_sequences_come_in_one_chunk_when_all_have_ended(engine: DrivenEngine, router: StreamRouter) -> None:
    sink = RecordingSink()
    router.start(several(False), sink)
    first, second = engine.submitted
    engine.emit(EngineEvent(second, (50,), FinishReason.LENGTH))
    engine.emit(EngineEvent(first, (40, 41), FinishReason.STOP))
    assert sink.ended.wait(10)
    (chunk,) = sink.chunks
    assert [piece.output_ids for piece in chunk.pieces] == [[40, 41], [50]]
    assert [piece.finish_reason for piece in chunk.pieces] == [FinishReason.STOP, FinishReason.LENGTH]
    assert chunk.num_output_tokens == 3


def test_several_sequences_stream_side_by_side(engine: DrivenEngine, router: StreamRouter) -> None:
    sink = RecordingSink()
    router.start(several(True), sink)
    first, second = engine.submitted
    engine.emit(EngineEvent(first, (40,)), EngineEvent(second, (50,)))
    engine.emit(EngineEvent(first, (), FinishReason.STOP), EngineEvent(second, (51,), FinishReason.LENGTH))
    assert sink.ended.wait(10)
    pieces = [piece for chunk in sink.chunks for piece in chunk.pieces]
    for index, ids in enumerate(([40], [50, 51])):
        assert [token for piece in pieces if piece.sequence_index == index for token in piece.output_ids] == ids
    assert sorted(piece.sequence_index for piece in pieces if piece.finish_reason) == [0, 1]


def test_cancelling_ends_every_sequence(engine: DrivenEngine, router: StreamRouter) -> None:
    sink = RecordingSink()
    key = router.start(several(False, 3), sink)
    keys = list(engine.submitted)
    engine.emit(EngineEvent(keys[1], (40,), FinishReason.LENGTH))
    wait_for(lambda: router.peek(key) == (1, False))
    router.cancel(key, CancelCause.CLIENT)
    assert sink.ended.wait(10)
    assert engine.cancelled == [keys[0], keys[2]]


def test_an_error_of_one_sequence_is_one_of_the_whole(engine: DrivenEngine, router: StreamRouter) -> None:
    sink = RecordingSink()
    router.start(several(True, 3), sink)
    keys = list(engine.submitted)
    engine.emit(EngineEvent(keys[1], error=Refusal(Code.RESOURCE_EXHAUSTED, "full")))
    assert sink.ended.wait(10)
    assert sink.error is not None
    wait_for(lambda: engine.cancelled == [keys[0], keys[2]])
    assert router.active == 0


def test_the_beams_of_a_search_come_together_best_first(engine: DrivenEngine, router: StreamRouter) -> None:
    sink = RecordingSink()
    key = router.start(several(True, sampling=Sampling(beam_width=2), log_probs=True), sink)
    assert len(engine.submitted) == 1
    assert engine.submitted[key].num_beams_returned == 2
    beams = (Beam((40,), (-0.5,), FinishReason.STOP), Beam((50, 51), (-1.0, -2.0), FinishReason.LENGTH))
    engine.emit(EngineEvent(key, finish_reason=FinishReason.STOP, beams=beams))
    assert sink.ended.wait(10)
    pieces = [piece for chunk in sink.chunks for piece in chunk.pieces]
    assert [(piece.output_ids, piece.cum_log_prob) for piece in pieces] == [([40], -0.5), ([50, 51], -3.0)]


def test_log_probs_come_with_their_ids_and_not_with_the_prompt(
    engine: DrivenEngine, router: StreamRouter, tokenizer: Any
) -> None:
    sink = RecordingSink()
    key = router.start(replace(generation(echo=True, stop=("xyz",)), log_probs=True), sink)
    ids = tokenizer.encode("abx", add_special_tokens=False)
    for index, token in enumerate(ids):
        engine.emit(EngineEvent(key, (token,), log_probs=(-float(index),)))
    engine.emit(EngineEvent(key, (), FinishReason.LENGTH))
    assert sink.ended.wait(10)
    pieces = [piece for chunk in sink.chunks for piece in chunk.pieces]
    generated = [piece for piece in pieces if piece.log_probs]
    assert [value for piece in generated for value in piece.log_probs or []] == [-0.0, -1.0, -2.0]
    assert pieces[-1].cum_log_prob == -3.0
    assert sum(len(piece.output_ids) for piece in pieces) == 6


TIGHT = RouterSettings(QueueLimits(max_size=2, max_tokens=10_000, max_delay_ms=60_000), kv_cache_overcommit=1)


@pytest.fixture
def tight(engines: list[DrivenEngine], tokenizer: Any, watcher: Watcher) -> Iterator[StreamRouter]:
    """A router before an engine that has room for three generations, with room for two that wait."""

    router = router_on(engines, tokenizer, watcher, TIGHT)
    yield router
    router.close()


def fill(router: StreamRouter) -> list[int]:
    # 3 + 64 tokens are 3 blocks of 32, and there are 8.
    return [router.start(generation(), RecordingSink()) for _ in range(2)]


def test_what_the_engine_has_no_room_for_waits_and_goes_by_priority(
    tight: StreamRouter, engines: list[DrivenEngine], watcher: Watcher
) -> None:
    first, second = fill(tight)
    low = tight.start(replace(generation(), priority=-3), RecordingSink())
    high = tight.start(replace(generation(), priority=3), RecordingSink())
    assert list(engines[0].submitted) == [first, second]
    assert watcher.waiting == 2
    engines[0].emit(EngineEvent(first, (40,), FinishReason.LENGTH))
    wait_for(lambda: list(engines[0].submitted) == [first, second, high])
    engines[0].emit(EngineEvent(second, (40,), FinishReason.LENGTH))
    wait_for(lambda: list(engines[0].submitted) == [first, second, high, low])
    assert watcher.waiting == 0


def test_more_than_may_wait_is_refused_and_a_higher_priority_takes_a_place(tight: StreamRouter) -> None:
    fill(tight)
    sinks = [RecordingSink(), RecordingSink()]
    for sink in sinks:
        tight.start(generation(), sink)
    refused = RecordingSink()
    with pytest.raises(Refusal, match="2 requests wait; at most 2 may") as caught:
        tight.start(generation(), refused)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    tight.start(replace(generation(), priority=1), RecordingSink())
    assert sinks[1].ended.wait(10)
    assert sinks[1].error is not None
    assert (sinks[1].error.code, sinks[1].error.retry_after_ms) == (Code.RESOURCE_EXHAUSTED, 1000)
    assert not sinks[0].ended.is_set()


def test_nobody_is_sent_away_for_one_that_finds_no_room_even_so(
    engines: list[DrivenEngine], tokenizer: Any, watcher: Watcher
) -> None:
    settings = replace(TIGHT, queue=QueueLimits(max_size=9, max_tokens=210, max_delay_ms=60_000))
    router = router_on(engines, tokenizer, watcher, settings)
    fill(router)
    low = RecordingSink()
    high = replace(generation(), max_new_tokens=128, priority=1)
    router.start(generation(), low)
    router.start(high, RecordingSink())
    with pytest.raises(Refusal, match=r"with 131 tokens wait that .* it has 131; at most 210 may") as caught:
        router.start(high, RecordingSink())
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert not low.ended.is_set()
    router.close()


def test_an_answer_that_cannot_be_sent_on_ends_no_other(
    engine: DrivenEngine, router: StreamRouter, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Detokenizer.window_start

    def window_start(self: Detokenizer, ids: list[int], sent: int) -> int:
        if 47 in ids:
            raise RuntimeError("broken")
        return whole(self, ids, sent)

    monkeypatch.setattr(Detokenizer, "window_start", window_start)
    bad, good = RecordingSink(), RecordingSink()
    keys = [router.start(generation(), sink) for sink in (bad, good)]
    engine.emit(EngineEvent(keys[0], (47,)), EngineEvent(keys[1], (40,)))
    assert bad.ended.wait(10)
    assert bad.error is not None
    assert bad.error.code is Code.INTERNAL
    wait_for(lambda: engine.cancelled == [keys[0]])
    engine.emit(EngineEvent(keys[1], (41,), FinishReason.LENGTH))
    assert good.ended.wait(10)
    assert good.ids == [40, 41]
    assert watcher.failed is not None


def test_a_deadline_that_passes_in_the_queue_is_never_started(
    tight: StreamRouter, engines: list[DrivenEngine], watcher: Watcher
) -> None:
    running = fill(tight)
    sink = RecordingSink()
    key = tight.start(replace(generation(), deadline_ms=30), sink)
    assert sink.ended.wait(10)
    assert sink.error is not None
    assert sink.error.code is Code.DEADLINE_EXCEEDED
    assert "30 ms have passed, in the queue" in sink.error.message
    for other in running:
        engines[0].emit(EngineEvent(other, (40,), FinishReason.LENGTH))
    wait_for(lambda: tight.active == 0)
    assert key not in engines[0].submitted
    assert watcher.causes == [CancelCause.DEADLINE]


def test_a_deadline_that_passes_while_it_runs_ends_it_in_the_engine(
    engine: DrivenEngine, router: StreamRouter, watcher: Watcher
) -> None:
    sink = RecordingSink()
    key = router.start(replace(generation(), deadline_ms=50), sink)
    engine.emit(EngineEvent(key, (40,)))
    assert sink.ended.wait(10)
    assert sink.error is not None
    assert "after 1 tokens" in sink.error.message
    wait_for(lambda: engine.cancelled == [key])
    assert router.active == 0


def test_what_waits_can_be_cancelled_and_leaves_its_place(tight: StreamRouter, engines: list[DrivenEngine]) -> None:
    fill(tight)
    sink = RecordingSink()
    key = tight.start(generation(), sink)
    assert tight.cancel(key, CancelCause.STOP)
    assert sink.ended.wait(10)
    assert sink.chunks[-1].pieces[0].finish_reason is FinishReason.CANCELLED
    assert not engines[0].cancelled
    assert tight.active == 2


def test_what_waits_survives_the_engine_and_runs_on_the_next_one(
    tight: StreamRouter, engines: list[DrivenEngine]
) -> None:
    fill(tight)
    sink = RecordingSink()
    key = tight.start(generation(), sink)
    engines[0].fail(EngineDied("killed"))
    wait_for(lambda: len(engines) == 2 and key in engines[1].submitted)
    engines[1].emit(EngineEvent(key, (40,), FinishReason.LENGTH))
    assert sink.ended.wait(10)
    assert sink.ids == [40]


def test_ids_collect_while_others_stream_but_the_last_ones_do_not_wait(
    engines: list[DrivenEngine], tokenizer: Any, watcher: Watcher
) -> None:
    settings = RouterSettings(max_chunk_delay_s=3600, chunk_delay_per_stream_s=3600)
    router = router_on(engines, tokenizer, watcher, settings)
    sinks = [RecordingSink(), RecordingSink()]
    keys = [router.start(generation(), sink) for sink in sinks]
    for index, key in enumerate(keys):
        engines[0].emit(EngineEvent(key, (40,)))
        wait_for(lambda sink=sinks[index]: len(sink.chunks) == 1)  # type: ignore[misc]
    engines[0].emit(EngineEvent(keys[0], (41,)), EngineEvent(keys[1], (41,)))
    # Alone, the first stream had no delay; the second has one.
    wait_for(lambda: len(sinks[0].chunks) == 2)
    engines[0].emit(EngineEvent(keys[1], (42,), FinishReason.LENGTH))
    assert sinks[1].ended.wait(10)
    assert [chunk.pieces[0].output_ids for chunk in sinks[1].chunks] == [[40], [41, 42]]
    router.close()


def test_the_first_id_comes_alone_even_if_more_are_there(engine: DrivenEngine, router: StreamRouter) -> None:
    sink = RecordingSink()
    key = router.start(generation(), sink)
    engine.emit(EngineEvent(key, (40, 41, 42), FinishReason.LENGTH))
    assert sink.ended.wait(10)
    assert [chunk.pieces[0].output_ids for chunk in sink.chunks] == [[40], [41, 42]]
    assert [chunk.pieces[0].finish_reason for chunk in sink.chunks] == [None, FinishReason.LENGTH]
