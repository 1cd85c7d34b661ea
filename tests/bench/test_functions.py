"""What the pure functions between engine and client cost: `make bench-functions`; in the suite they run once."""

import time
from typing import Any

import pytest

from trireme_runtime.automaton import WordAutomaton
from trireme_runtime.detokenizing import WINDOW_IDS, Detokenizer
from trireme_runtime.stopping import StopMatcher

TEXT = "The quick brown fox jumps over 13 lazy dogs, and counts to one hundred; größer, naïve, 漢字. "
COUNTS = (1, 4, 8)

#: Words that nothing in the text begins, and words that are begun again and again.
STOPS = {"rare": ["\n\nUser:", "###"], "frequent": ["thing", "over there", "count down", "e x"]}


@pytest.fixture(scope="module")
def ids(tokenizer: Any) -> list[int]:
    """Some thousand ids."""
    return list(tokenizer.encode(TEXT * 60, add_special_tokens=False))


@pytest.fixture(scope="module")
def detokenizer(tokenizer: Any) -> Detokenizer:
    return Detokenizer(tokenizer)


@pytest.mark.parametrize("count", COUNTS)
def test_detokenize(benchmark: Any, detokenizer: Detokenizer, ids: list[int], count: int) -> None:
    starts = range(WINDOW_IDS, len(ids) - count, count)
    windows = [ids[start - WINDOW_IDS : start] for start in starts]
    chunks = [ids[start : start + count] for start in starts]

    def run() -> None:
        for window, chunk in zip(windows, chunks, strict=True):
            detokenizer.delta(window, chunk, final=False)

    benchmark(run)
    report(benchmark, count * len(chunks))


@pytest.mark.parametrize("kind", STOPS)
@pytest.mark.parametrize("count", COUNTS)
def test_match_stops(benchmark: Any, detokenizer: Detokenizer, ids: list[int], count: int, kind: str) -> None:
    chunks = [ids[start : start + count] for start in range(0, len(ids), count)]
    automaton = WordAutomaton(STOPS[kind])

    def run() -> None:
        matcher = StopMatcher(automaton, detokenizer)
        for chunk in chunks:
            assert matcher.feed(chunk) is None

    benchmark(run)
    report(benchmark, len(ids))


def report(benchmark: Any, tokens: int) -> None:
    if benchmark.enabled:
        benchmark.extra_info["tokens_per_s"] = round(tokens / benchmark.stats.stats.median)
        print(f"{benchmark.name}: {benchmark.extra_info['tokens_per_s']:,} tokens/s")


def test_a_token_costs_the_same_however_long_the_text_is(detokenizer: Detokenizer, ids: list[int]) -> None:
    matcher = StopMatcher(WordAutomaton(STOPS["frequent"]), detokenizer)
    sequence: list[int] = []

    def feed(rounds: int) -> float:
        began = time.perf_counter()
        for _ in range(rounds):
            for start in range(0, 4000, 8):
                chunk = ids[start : start + 8]
                matcher.feed(chunk)
                sequence.extend(chunk)
                window = sequence[detokenizer.window_start(sequence, len(sequence) - 8) : len(sequence) - 8]
                detokenizer.delta(window, chunk, final=False)
        return (time.perf_counter() - began) / rounds

    early = min(feed(1) for _ in range(5))
    feed(60)
    late = min(feed(1) for _ in range(5))
    assert late < 2 * early
