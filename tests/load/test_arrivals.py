"""Open loops: when requests are to be sent."""

from itertools import pairwise

import numpy as np
import pytest

from trireme_load.arrivals import Arrivals, schedule
from trireme_load.errors import SettingError
from trireme_load.shapes import Shape, parse_shape
from trireme_load.trace import Call


def gaps(arrival: str, rate: float = 50.0, duration_s: float = 400.0) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    times = list(Arrivals.parse(arrival).times(Shape([(0.0, rate)]), duration_s, "seed"))
    return np.diff(np.array(times))


@pytest.mark.parametrize(("arrival", "cv"), [("poisson", 1.0), ("gamma:2", 2.0), ("gamma:0.5", 0.5), ("constant", 0.0)])
def test_the_rate_and_the_variation_are_what_was_asked_for(arrival: str, cv: float) -> None:
    between = gaps(arrival)
    assert between.mean() == pytest.approx(1 / 50, rel=0.05)
    assert between.std() / between.mean() == pytest.approx(cv, abs=0.07)


def test_the_rate_follows_the_shape() -> None:
    times = np.array(list(Arrivals.parse("poisson").times(parse_shape("spike:4", 50, 100), 100, "1")))
    counts = [int(((times >= begin) & (times < begin + 20)).sum()) for begin in range(0, 100, 20)]
    assert counts[2] == pytest.approx(4 * 50 * 20, rel=0.1)
    assert [counts[index] for index in (0, 1, 3, 4)] == pytest.approx([1000] * 4, rel=0.15)


def test_a_ramp_begins_slowly() -> None:
    times = list(Arrivals.parse("constant").times(parse_shape("ramp:0-10", 10, 10), 10, "1"))
    # 50 under the line; the k-th comes when t^2 / 2 = k.
    assert times == pytest.approx([(2 * k) ** 0.5 for k in range(1, 51)])


def test_every_arrival_belongs_to_one_process_and_all_processes_agree() -> None:
    arrivals, shape = Arrivals.parse("gamma"), Shape([(0.0, 20.0)])
    alone = [arrival.at_s for arrival in schedule(arrivals, shape, 30, "7", [], 0, 1)]
    shared = sorted(one.at_s for worker in range(3) for one in schedule(arrivals, shape, 30, "7", [], worker, 3))
    assert shared == alone and all(later > earlier for earlier, later in pairwise(alone))


def test_a_trace_is_replayed_as_it_was_until_the_end_of_the_run() -> None:
    calls = [Call(0.0, 5, 6), Call(1.5, 7, 8), Call(9.0, 1, 1)]
    replayed = list(schedule(Arrivals.parse("trace"), Shape([(0.0, 0.0)]), 5.0, "1", calls, 0, 1))
    assert [(one.at_s, one.call) for one in replayed] == [(0.0, calls[0]), (1.5, calls[1])]


@pytest.mark.parametrize("text", ["", "poison", "gamma:", "gamma:x", "gamma:0", "poisson:2", "closed:1"])
def test_arrivals_that_are_none_are_named(text: str) -> None:
    with pytest.raises(SettingError, match="arrival"):
        Arrivals.parse(text)


def test_another_seed_gives_other_times() -> None:
    arrivals, shape = Arrivals.parse("poisson"), Shape([(0.0, 20.0)])
    assert list(arrivals.times(shape, 5, "1")) != list(arrivals.times(shape, 5, "2"))
