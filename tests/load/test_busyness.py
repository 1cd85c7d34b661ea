"""What a load generator says of itself."""

import numpy as np
import pytest

from trireme_load.busyness import MOST_LAG_S, TICK_S
from trireme_load.delays import Delays
from trireme_load.monitor import Monitor
from trireme_load.run import MOST_LATE_SHARE


def late_share(lags_s: list[float]) -> float:
    delays = Delays()
    delays.add(lags_s)
    return delays.late_share


def test_quantiles_are_those_of_numpy_within_a_step() -> None:
    values = np.random.default_rng(5).exponential(0.01, 10_000)
    delays = Delays()
    delays.add(values)
    for share in (0.0, 0.5, 0.99, 1.0):
        assert delays.quantile_s(share) == pytest.approx(np.quantile(values, share), abs=2e-4)
    delays.add([9.0])
    assert delays.most_s == 9.0 and delays.quantile_s(1.0) == 9.0
    assert Delays().quantile_s(0.99) == 0.0


def test_a_pause_counts_by_how_long_it_was() -> None:
    # 300 ticks, one of them 1.55 s late: for 1.5 s of 4.55 s, what came was read more than 50 ms late.
    lags_s = [0.0] * 299 + [1.5 + MOST_LAG_S]
    assert late_share(lags_s) == pytest.approx(1.5 / (300 * TICK_S + 1.5 + MOST_LAG_S))
    assert late_share([MOST_LAG_S] * 100) == 0.0
    assert late_share([]) == 0.0


def test_one_long_pause_makes_a_run_invalid_and_a_short_one_does_not() -> None:
    monitor = Monitor(2)
    monitor.take(0.1, [0.0] * 299 + [0.1])
    assert monitor.seen.problem == ""
    monitor.take(0.1, [1.5])
    seen = monitor.seen
    assert seen.lag_p99_s < MOST_LAG_S and seen.late_share > MOST_LATE_SHARE
    assert "process 2 paused for up to 1500 ms" in seen.problem and "33 % of the time (limit 5 %)" in seen.problem


def test_what_the_process_that_reads_saw_counts_as_one_s_own() -> None:
    monitor = Monitor(0)
    monitor.take(0.95, [])
    assert "used 95 % of a core" in monitor.seen.problem
    monitor.forget()
    assert monitor.seen.problem == ""
