import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trireme_load.statistics import Distribution, bootstrap_difference, bootstrap_ratio

FINITE = st.floats(0, 1e6, allow_nan=False)


def test_percentiles_are_interpolated() -> None:
    found = Distribution.of([4.0, 1.0, 3.0, 2.0])
    assert (found.count, found.mean, found.p50, found.max) == (4, 2.5, 2.5, 4.0)
    assert found.p90 == pytest.approx(3.7)
    assert found.p95 == pytest.approx(3.85)
    assert found.p99 == pytest.approx(3.97)


def test_of_nothing_only_the_count_is_known() -> None:
    assert json.dumps(Distribution.of([]).to_json(), allow_nan=False)
    assert set(Distribution.of([]).to_json().values()) == {0, None}


def test_json_has_another_unit() -> None:
    assert Distribution.of([0.5]).to_json(1000)["p99"] == 500.0


@given(st.lists(FINITE, min_size=1, max_size=50))
def test_percentiles_are_in_order_and_within_the_sample(values: list[float]) -> None:
    found = Distribution.of(values)
    figures = [found.p50, found.p90, found.p95, found.p99, found.max]
    assert figures == sorted(figures, key=lambda value: value or 0)
    assert found.max == max(values)


@pytest.mark.parametrize("figure", ["mean", "p50", "p99"])
def test_a_clear_ratio_is_within_its_interval(figure: str) -> None:
    random = np.random.default_rng(1)
    a, b = random.gamma(4, 0.1, 4000), 2 * random.gamma(4, 0.1, 4000)
    found = bootstrap_ratio(a, b, figure)
    assert found is not None
    assert found.holds(2.0)
    assert found.high - found.low < 0.3


@pytest.mark.parametrize("figure", ["mean", "p50", "p90"])
def test_drawing_order_statistics_is_as_wide_as_drawing_whole_resamples(figure: str) -> None:
    random = np.random.default_rng(2)
    sample = random.exponential(1.0, 300)
    share = {"mean": None, "p50": 0.5, "p90": 0.9}[figure]
    whole = sample[random.integers(0, 300, (4000, 300))]
    drawn = whole.mean(axis=1) if share is None else np.quantile(whole, share, axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    found = bootstrap_difference(np.zeros(1), sample, figure)
    assert found is not None
    assert found.low == pytest.approx(low, abs=0.04 * sample.max() / 3)
    assert found.high == pytest.approx(high, abs=0.04 * sample.max() / 3)


@pytest.mark.parametrize("figure", ["mean", "p50", "p99"])
def test_values_that_belong_together_are_drawn_together(figure: str) -> None:
    random = np.random.default_rng(3)
    groups = [np.full(50, level) for level in random.gamma(4, 1, 60)]
    apart = bootstrap_difference(np.zeros(1), np.concatenate(groups), figure)
    together = bootstrap_difference(np.zeros(1), groups, figure)
    assert apart is not None and together is not None
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_the_same_seed_gives_the_same_interval() -> None:
    a, b = np.arange(1.0, 50.0), np.arange(2.0, 60.0)
    assert bootstrap_ratio(a, b, "p99") == bootstrap_ratio(a, b, "p99")


def test_a_mean_of_very_many_is_as_sure_as_the_central_limit_theorem_says() -> None:
    found = bootstrap_difference(np.zeros(1), np.random.default_rng(4).normal(5, 1, 100_000), "mean")
    assert found is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 / np.sqrt(100_000), rel=0.1)


def test_without_values_there_is_no_interval() -> None:
    some = np.ones(3)
    assert bootstrap_ratio(np.empty(0), some, "p50") is None
    assert bootstrap_ratio(some, [np.empty(0)], "p50") is None
    assert bootstrap_difference(some, np.empty(0), "mean") is None
    assert bootstrap_ratio(np.zeros(3), some, "mean") is None


def test_one_value_is_all_that_can_be_drawn() -> None:
    found = bootstrap_ratio(np.array([2.0]), np.array([3.0]), "p99")
    assert found is not None
    assert (found.low, found.high) == (1.5, 1.5)
