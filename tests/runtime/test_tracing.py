"""Spans of models, made of what the engine's events and the pieces of streams tell."""

from collections.abc import Mapping
from typing import Any

import pytest

from support import wait_for
from trireme_runtime import tracing
from trireme_runtime.answers import CancelCause, RunningAnswer, RunningSequence
from trireme_runtime.contract import Code, FinishReason, Refusal
from trireme_runtime.engines.base import CacheUse, EngineEvent, EngineRequest, EngineTimes, Sampling
from trireme_runtime.requests import GenerationRequest
from trireme_runtime.tracing import EngineSpans, ModelTraces, StreamSpans, is_sampled

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"


class Recorded(ModelTraces):
    """Keeps spans instead of sending them."""

    def __init__(self) -> None:
        self.spans: dict[str, tuple[int, int, Mapping[str, Any], Mapping[str, int], str | None]] = {}
        self.closed = False

    def span(
        self,
        traceparent: str,
        name: str,
        began_ns: int,
        ended_ns: int,
        attributes: Any = None,
        events: Mapping[str, int] | None = None,
        error: str | None = None,
    ) -> None:
        assert traceparent == PARENT
        assert name not in self.spans
        assert began_ns <= ended_ns
        self.spans[name] = (began_ns, ended_ns, attributes, events or {}, error)

    def close(self) -> None:
        self.closed = True

    @property
    def errors(self) -> dict[str, str | None]:
        return {name: span[4] for name, span in self.spans.items()}


def answer(traceparent: str = PARENT) -> RunningAnswer:
    request = GenerationRequest((5, 6, 7), 8, 2, Sampling(), True, False, ())
    sequence = RunningSequence(0, request, None)
    return RunningAnswer("mine", request, None, [EngineRequest(1, (5, 6, 7), 8, 2)], [sequence], traceparent)  # type: ignore[arg-type]


def spans_of(ended: RunningAnswer) -> Recorded:
    recorded = Recorded()
    EngineSpans(recorded, "null").ended(ended)
    return recorded


def test_the_engine_s_times_become_three_spans() -> None:
    ended = answer()
    begin = ended.arrival_ns
    times = EngineTimes(begin + 10, begin + 30, begin + 70)
    ended.submitted_ns = begin + 5
    ended.take(ended.sequences[0], EngineEvent(1, (9, 9), FinishReason.LENGTH, times=times, cache=CacheUse(2)))
    recorded = spans_of(ended)
    queue, prefill, decode = (recorded.spans[name] for name in ("queue", "prefill", "decode"))
    assert [queue[1] - queue[0], prefill[1] - prefill[0], decode[1] - decode[0]] == [10, 20, 40]
    assert (queue[1], prefill[1]) == (prefill[0], decode[0])
    assert decode[3] == {"first_token": decode[0]}
    assert prefill[2]["gen_ai.usage.cache_read.input_tokens"] == 2
    assert decode[2]["gen_ai.usage.output_tokens"] == 2
    assert decode[2]["gen_ai.response.finish_reasons"] == ["length"]
    assert recorded.errors == {"queue": None, "prefill": None, "decode": None}


def test_what_never_left_the_queue() -> None:
    ended = answer()
    ended.error = Refusal(Code.DEADLINE_EXCEEDED, "too late")
    assert spans_of(ended).errors == {"queue": "DEADLINE_EXCEEDED"}


@pytest.mark.parametrize(("ids", "name"), [((), "prefill"), ((9,), "decode")])
def test_what_was_cut_off_in_the_engine(ids: tuple[int, ...], name: str) -> None:
    ended = answer()
    ended.submitted_ns = ended.arrival_ns + 5
    ended.sequences[0].ids += ids
    ended.error = Refusal(Code.UNAVAILABLE, "the engine was lost")
    recorded = spans_of(ended)
    assert recorded.errors == {"queue": None, name: "UNAVAILABLE"}
    assert recorded.spans[name][3] == {}


@pytest.mark.parametrize(("cause", "error"), [(CancelCause.CLIENT, "cancelled_by_client"), (CancelCause.STOP, None)])
def test_a_cancelled_answer_says_by_whom(cause: CancelCause, error: str | None) -> None:
    ended = answer()
    ended.cancelled_by = cause
    ended.cancel_unstarted()
    assert spans_of(ended).errors == {"queue": error}


def test_an_answer_that_is_not_traced_leaves_nothing() -> None:
    assert spans_of(answer("")).spans == {}


def test_a_stream_is_one_span(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_QUIET_S", 0.1)
    recorded = Recorded()
    spans = StreamSpans(recorded)
    asked: list[int] = []

    def parent_of(key: int) -> str:
        asked.append(key)
        return PARENT if key == 1 else ""

    now_ns = tracing.time.time_ns()
    for number, is_end in enumerate((False, True, True), 1):
        for key in (1, 2):
            spans.piece(key, lambda key=key: parent_of(key), now_ns + number, 10 * number, is_end)  # type: ignore[misc]
    assert asked == [1, 2, 2, 2]
    wait_for(lambda: recorded.spans, 5, "the span")
    began_ns, _, attributes, _, _ = recorded.spans["postprocessing"]
    assert began_ns == now_ns + 1
    assert attributes["gen_ai.usage.output_tokens"] == 30
    assert attributes["trireme.pieces"] == 3
    spans.close()
    assert recorded.closed


def test_the_end_tells_of_streams_that_have_none() -> None:
    recorded = Recorded()
    spans = StreamSpans(recorded)
    spans.piece(1, lambda: PARENT, tracing.time.time_ns(), 3, False)
    spans.close()
    assert recorded.spans.keys() == {"postprocessing"}


@pytest.mark.parametrize(
    ("traceparent", "sampled"),
    [
        (PARENT, True),
        (PARENT[:-2] + "00", False),
        (PARENT[:-2] + "03", True),
        (f"01{PARENT[2:]}-later", True),
        (f"ff{PARENT[2:]}", False),
        (PARENT.replace("a", "0"), False),
        (PARENT.replace("b", "0"), False),
        (PARENT.upper(), False),
        ("", False),
    ],
)
def test_what_is_sampled(traceparent: str, sampled: bool) -> None:
    assert is_sampled(traceparent) == sampled
