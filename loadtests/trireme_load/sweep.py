"""A sweep: the same load test at several levels, and the level from which more load brings little."""

import math
from collections.abc import Sequence

#: By which share throughput has to grow where the load doubles, so that the growth counts: a fifth of the ideal.
LEAST_GAIN = 0.2

#: Up to which share of throughput a difference is taken for noise.
NOISE = 0.03


def knee(levels: Sequence[float], throughputs: Sequence[float | None], latencies: Sequence[float | None]) -> int | None:
    """Index of the knee: the lowest level that no higher one clearly beats.

    A higher level beats it if throughput is larger by more than LEAST_GAIN for every doubling of the load, and by more
    than NOISE on top: so a single level that is slow or fast by chance does not decide. A simple rule with the aim of
    Kneedle (Satopaa et al. 2011, Finding a "Kneedle" in a Haystack), which needs a curve without noise. Levels grow and
    are more than 0; one at which nothing was measured (None) is passed over. None where the last level is the knee, so
    that throughput never flattened as far as was measured, and where fewer than 3 levels were measured.
    """
    points = [
        (index, level, throughput)
        for index, (level, throughput, latency) in enumerate(zip(levels, throughputs, latencies, strict=True))
        if throughput and latency is not None and level > 0
    ]
    if len(points) < 3:
        return None
    for place, (index, level, throughput) in enumerate(points[:-1]):
        if not any(_beats(other / level, more / throughput) for _, other, more in points[place + 1 :]):
            return index
    return None


def _beats(times_load: float, times_throughput: float) -> bool:
    """Whether so much more load brings clearly more throughput."""
    return bool(times_throughput > (1 + LEAST_GAIN) ** math.log2(times_load) * (1 + NOISE))
