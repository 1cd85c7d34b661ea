"""Whether a release is slower to its first token than another, told apart from noise."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .smoke import SmokeItem, ttft_in_turn

#: How sure one must be that a ratio is too high before a release is refused for it.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class TtftComparison:
    """Time to first token of two models, in pairs: the same question, one right after the other.

    The rule: **a release is too slow when the lower bound of the ratio is above the limit**. `ratio` is the median of
    the pairs' ratios, new to old; `low` and `high` bound it, each with 95 % confidence, by the sign test (order
    statistics of the ratios): that assumes nothing about how times are distributed, and load on the machine, which
    hits both of a pair, cancels. With fewer than 5 pairs nothing can be said, and `low` is 0.
    """

    old_s: tuple[float, ...]
    new_s: tuple[float, ...]

    @property
    def old_p50_s(self) -> float:
        """The old one's median."""
        return statistics.median(self.old_s)

    @property
    def new_p50_s(self) -> float:
        """The new one's median."""
        return statistics.median(self.new_s)

    @property
    def ratios(self) -> tuple[float, ...]:
        """Of each pair, new to old, lowest first."""
        return tuple(sorted(new / old for old, new in zip(self.old_s, self.new_s, strict=True)))

    @property
    def ratio(self) -> float:
        """Their median."""
        return statistics.median(self.ratios)

    @property
    def low(self) -> float:
        """With 95 % confidence the ratio is not below this."""
        rank = _rank(len(self.ratios))
        return self.ratios[rank - 1] if rank else 0.0

    @property
    def high(self) -> float:
        """With 95 % confidence the ratio is not above this."""
        rank = _rank(len(self.ratios))
        return self.ratios[-rank] if rank else math.inf

    def is_slower_than(self, limit: float) -> bool:
        """Whether noise alone does not explain a ratio above `limit`."""
        return self.low > limit


def _rank(pairs: int) -> int:
    """The k for which the k-th smallest of so many ratios is a lower bound of their median; 0 where none is.

    The largest k with P(Binomial(pairs, 1/2) < k) <= 1 - CONFIDENCE.
    """
    below, rank = 0, 0
    while (below := below + math.comb(pairs, rank)) <= (1 - CONFIDENCE) * 2**pairs:
        rank += 1
    return rank


def compare_ttft(
    address: str,
    old_model: str,
    new_model: str,
    items: Sequence[SmokeItem],
    rounds: int = 2,
    timeout_s: float = 30.0,
) -> TtftComparison:
    """Ask both models every item `rounds` times, one request at a time, old and new in turn.

    address: HOST:PORT of gRPC; timeout_s: of each answer. One token is asked for. Raises OperatorError naming the model
    that gives no answer.
    """
    old_s, new_s = ttft_in_turn(address, (old_model, new_model), list(items) * rounds, timeout_s)
    return TtftComparison(tuple(old_s), tuple(new_s))
