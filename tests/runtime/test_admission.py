"""What is let in, as pure functions of what waits."""

import math

import pytest

from trireme_runtime.admission import LOWEST_PRIORITY, NUM_PRIORITIES, QueueLimits, QueueState, StartRate, refusal_of
from trireme_runtime.contract import Code

LIMITS = QueueLimits(max_size=4, max_tokens=1000, max_delay_ms=500)


def state(queued: dict[int, int], tokens: int = 0, rate: float = math.inf) -> QueueState:
    return QueueState([queued.get(level + LOWEST_PRIORITY, 0) for level in range(NUM_PRIORITIES)], tokens, rate)


def test_what_the_engine_has_room_for_is_let_in_whatever_else() -> None:
    assert refusal_of(LIMITS, state({}, rate=0.001), 0, 10**9) is None


@pytest.mark.parametrize(
    ("waits", "tokens", "words"),
    [
        (state({0: 4}), 1, "4 requests wait; at most 4 may"),
        (state({0: 1}, tokens=900), 101, "requests with 900 tokens wait, and this one has 101; at most 1000 may"),
        (state({0: 2}, rate=2), 1, "the wait would be about 1000 ms; at most 500 may be"),
    ],
)
def test_too_much_is_refused_with_figures_and_a_time_to_come_back(waits: QueueState, tokens: int, words: str) -> None:
    refusal = refusal_of(LIMITS, waits, 0, tokens)
    assert refusal is not None
    assert refusal.code is Code.RESOURCE_EXHAUSTED
    assert words in refusal.message
    assert 50 <= (refusal.retry_after_ms or 0) <= 39_000


def test_at_the_limits_it_is_let_in() -> None:
    assert refusal_of(LIMITS, state({0: 3}, tokens=900, rate=6.01), 0, 100) is None


def test_a_higher_priority_passes_those_that_wait_below_it() -> None:
    full = state({0: 4}, tokens=1000, rate=5)
    assert refusal_of(LIMITS, full, 0, 1) is not None
    assert refusal_of(LIMITS, full, 1, 500) is None
    assert refusal_of(LIMITS, state({2: 4}), 1, 1) is not None


def test_as_long_as_nothing_is_known_there_is_a_guess() -> None:
    rate = StartRate(guess_per_s=32)
    rate.wait_begins(0.0)
    limits = QueueLimits(max_delay_ms=250)
    assert refusal_of(limits, state({0: 8}, rate=rate.per_second(0.05)), 0, 1) is None
    assert refusal_of(limits, state({0: 9}, rate=rate.per_second(0.05)), 0, 1) is not None
    assert rate.per_second(0.5) == 2, "as if one started now"


def test_the_time_to_come_back_is_that_of_the_excess() -> None:
    refusal = refusal_of(QueueLimits(max_size=99, max_delay_ms=500), state({0: 20}, rate=10), 0, 1)
    # 20 are ahead and 5 start in 500 ms: 15 have to start first.
    assert refusal is not None
    assert 1500 <= (refusal.retry_after_ms or 0) <= 1950


def test_the_rate_is_that_of_the_last_seconds_in_which_something_waited() -> None:
    rate = StartRate(99)
    assert rate.per_second(1.0) == 99
    rate.wait_begins(10.0)
    assert rate.per_second(10.05) == 99
    for tenth in range(1, 21):
        rate.started(10 + tenth / 10)
    assert rate.per_second(12.0) == pytest.approx(10)
    assert rate.per_second(20.0) == pytest.approx(1 / StartRate.WINDOW_S), "nothing started in the window"
    rate.wait_ends(20.0)
    assert rate.per_second(99.0) == pytest.approx(0.25), "what was known"


def test_a_new_wait_begins_with_the_rate_of_the_last_one() -> None:
    rate = StartRate(99)
    rate.wait_begins(0.0)
    for tenth in range(1, 41):
        rate.started(tenth / 10)
    rate.wait_ends(4.0)
    rate.wait_begins(100.0)
    assert rate.per_second(100.9) == pytest.approx(10)
    assert rate.per_second(102.0) == pytest.approx(0.5)
