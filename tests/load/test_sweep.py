import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_pages import Page
from load_runs import failed, request, run_of
from trireme_load.report.sweep_page import sweep_page
from trireme_load.slo import Slo
from trireme_load.summary import summarize
from trireme_load.sweep import knee

LEVELS = [1, 2, 4, 8, 16, 32, 64, 128]
FINE = [1.0] * len(LEVELS)


def saturating(levels: list[int], at: float) -> list[float]:
    """Throughput of a server that serves so many at once, and lets others wait."""
    return [100 * min(level, at) for level in levels]


@pytest.mark.parametrize(("at", "index"), [(4, 2), (16, 4), (64, 6)])
def test_the_knee_is_where_a_server_is_full(at: float, index: int) -> None:
    assert knee(LEVELS, saturating(LEVELS, at), FINE) == index


def test_a_curve_that_bends_slowly_has_its_knee_where_doubling_brings_little() -> None:
    # T = L / (1 + L / 10): from 32 to 64 it grows by 13 %, from 16 to 32 by 24 %.
    assert knee(LEVELS, [level / (1 + level / 10) for level in LEVELS], FINE) == LEVELS.index(32)


def test_throughput_that_falls_has_its_knee_before() -> None:
    assert knee(LEVELS, [100, 200, 400, 600, 610, 500, 300, 100], FINE) == 3


def test_throughput_that_never_flattens_has_no_knee() -> None:
    assert knee(LEVELS, [100 * level for level in LEVELS], FINE) is None
    assert knee(LEVELS, [100 * level**0.5 for level in LEVELS], FINE) is None


def test_too_few_levels_have_no_knee() -> None:
    assert knee([1, 2], [100, 100], [1, 1]) is None
    assert knee([], [], []) is None


def test_levels_at_which_nothing_was_measured_are_passed_over() -> None:
    throughputs: list[float | None] = [*saturating(LEVELS, 8)]
    throughputs[0] = None
    assert knee(LEVELS, throughputs, [1, 1, None, *[1.0] * 5]) == 3
    assert knee(LEVELS, [None] * 8, FINE) is None


@given(st.integers(0, 10**6), st.sampled_from([4, 8, 16, 32]))
def test_noise_does_not_move_the_knee_of_a_full_server(seed: int, at: int) -> None:
    noise = np.random.default_rng(seed).uniform(0.986, 1.014, len(LEVELS))
    noisy = [float(value * factor) for value, factor in zip(saturating(LEVELS, at), noise, strict=True)]
    assert knee(LEVELS, noisy, FINE) == LEVELS.index(at)


@given(st.lists(st.none() | st.floats(0, 1e6), min_size=8, max_size=8))
def test_a_knee_is_an_index_but_not_the_last(throughputs: list[float | None]) -> None:
    found = knee(LEVELS, throughputs, FINE)
    assert found is None or 0 <= found < len(LEVELS) - 1


def steps(levels: list[int], full: float) -> list[tuple[float, dict[str, Any]]]:
    found = []
    for level in levels:
        count = int(10 * min(level, full))
        slow = max(1.0, level / full)
        records = [
            request(1 + 9 * index / count, first_token_s=1 + 9 * index / count + 0.05 * slow) for index in range(count)
        ]
        run = run_of(levels=[(0.0, float(level))], slo=Slo({"ttft": 0.12}))
        found.append((float(level), summarize(run, records)))
    return found


def test_a_sweep_shows_every_level_and_its_knee() -> None:
    measured = steps(LEVELS[:6], 8)
    index = knee(LEVELS[:6], [one["tokens_per_s"]["total"] for _, one in measured], FINE[:6])
    page = Page(sweep_page(measured, index))
    assert "8 (knee)" in page.rows
    assert {"1", "2", "4", "16", "32"} <= set(page.rows)
    assert len(page.charts) == 5
    assert "knee, 8" in page.charts[1]
    assert "goodput, requests/s" in page.words


def test_a_sweep_without_a_knee_says_so() -> None:
    assert "throughput did not flatten" in Page(sweep_page(steps([1, 2, 4], math.inf), None)).words


def test_a_level_that_is_not_valid_is_named_on_top() -> None:
    bad = summarize(run_of(), [failed(2.0)])
    page = Page(sweep_page([*steps([1, 2], 8), (4.0, bad)], None))
    assert "Users 4: no request succeeded in the measured time" in page.words
    assert "4 INVALID" in page.rows


@pytest.mark.parametrize("count", [0, 1])
def test_a_sweep_that_hardly_began_is_a_page(count: int) -> None:
    Page(sweep_page([(1.0, summarize(run_of(), []))] * count, None))
