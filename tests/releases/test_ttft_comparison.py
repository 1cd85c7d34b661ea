"""Slower, or only noise."""

import random
from math import inf

import pytest

from trireme_ops.releases.ttft import TtftComparison


def test_the_figures() -> None:
    compared = TtftComparison((1.0, 2.0, 3.0, 4.0, 5.0), (2.0, 4.0, 3.0, 12.0, 10.0))
    assert (compared.old_p50_s, compared.new_p50_s) == (3.0, 4.0)
    assert compared.ratio == 2.0
    # Of five pairs the smallest ratio is below the median with a probability of 31/32.
    assert (compared.low, compared.high) == (1.0, 3.0)


def test_the_bounds_are_those_of_the_sign_test() -> None:
    """For 48 pairs, P(Binomial(48, 1/2) <= 17) is 2.97 %, and P(<= 18) is 5.6 %: the 18th ratio."""
    compared = TtftComparison((1.0,) * 48, tuple(float(n) for n in range(1, 49)))
    assert (compared.low, compared.high) == (18.0, 31.0)


def test_too_few_pairs_say_nothing() -> None:
    compared = TtftComparison((1.0,) * 4, (9.0,) * 4)
    assert (compared.low, compared.high) == (0.0, inf)
    assert not compared.is_slower_than(1.3)


def noisy(rng: random.Random, factor: float) -> TtftComparison:
    """48 pairs of times whose load differs from pair to pair, with spikes."""
    load = [0.02 * rng.lognormvariate(0, 0.5) for _ in range(48)]
    old, new = (tuple(s * rng.lognormvariate(0, 0.4) * (10 if rng.random() < 0.03 else 1) for s in load) for _ in "ab")
    return TtftComparison(old, tuple(factor * s for s in new))


@pytest.mark.parametrize(("factor", "refused_least", "refused_most"), [(1.0, 0, 2), (1.3, 0, 20), (2.0, 95, 100)])
def test_noise_refuses_nothing_and_hides_nothing(factor: float, refused_least: int, refused_most: int) -> None:
    """The limit is 1.3: what is as fast passes, what is at the limit mostly, what is twice as slow hardly ever."""
    rng = random.Random(7)
    refused = sum(noisy(rng, factor).is_slower_than(1.3) for _ in range(100))
    assert refused_least <= refused <= refused_most
