"""One figure of two runs, and the word for its difference."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from .report.numbers import percent, significant
from .statistics import Floats, Interval, bootstrap_difference, bootstrap_ratio

#: What the cells of a row are.
CELLS = ("", "A", "B", "B against A", "95 % interval", "B is")

BETTER, WORSE, UNCLEAR, UNKNOWN = "better", "worse", "no clear difference", "not measured"


class Kind(Enum):
    """What a figure is, and so how it is compared and which way is better."""

    LATENCY = "less is better, as a ratio"
    RATE = "more is better, as a ratio"
    GOOD_SHARE = "more is better, as a difference"
    BAD_SHARE = "less is better, as a difference"

    @property
    def is_ratio(self) -> bool:
        """Whether B over A is compared; of shares, which can be 0, it is B less A."""
        return self in (Kind.LATENCY, Kind.RATE)

    @property
    def less_is_better(self) -> bool:
        """Which way is better."""
        return self in (Kind.LATENCY, Kind.BAD_SHARE)


@dataclass(frozen=True)
class Row:
    """A figure of A and of B, and the 95 % interval of their ratio or difference; None where it is not known."""

    title: str
    kind: Kind
    a: float | None
    b: float | None
    interval: Interval | None

    @property
    def value(self) -> float | None:
        """B over A, or B less A."""
        if self.a is None or self.b is None:
            return None
        if not self.kind.is_ratio:
            return self.b - self.a
        return self.b / self.a if self.a else None

    @property
    def change(self) -> str:
        """The same as text."""
        return "-" if self.value is None else self._shown(self.value)

    @property
    def interval_text(self) -> str:
        """As text."""
        if self.interval is None:
            return "-"
        return f"{self._shown(self.interval.low)} to {self._shown(self.interval.high)}"

    @property
    def verdict(self) -> str:
        """Of B: better or worse only if the interval does not hold "the same"."""
        if self.a is None or self.b is None:
            return UNKNOWN
        if self.interval is None or self.interval.holds(1.0 if self.kind.is_ratio else 0.0):
            return UNCLEAR
        is_less = self.interval.high < (1.0 if self.kind.is_ratio else 0.0)
        return BETTER if is_less == self.kind.less_is_better else WORSE

    @property
    def cells(self) -> list[str]:
        """All of it as text, as CELLS names it."""
        return [self.title, self._figure(self.a), self._figure(self.b), self.change, self.interval_text, self.verdict]

    def _figure(self, value: float | None) -> str:
        if value is None:
            return "-"
        return significant(value) if self.kind.is_ratio else percent(value).replace("\N{NO-BREAK SPACE}", " ")

    def _shown(self, value: float) -> str:
        if self.kind.is_ratio:
            return f"{significant(value)}×"
        return f"{100 * value:+.2f} points" if value else "0 points"


def row_of(
    title: str,
    kind: Kind,
    a: float | None,
    b: float | None,
    sample_a: Floats | Sequence[Floats],
    sample_b: Floats | Sequence[Floats],
    figure: str,
) -> Row:
    """figure: which one of the samples a and b are. No interval where one of them was not measured."""
    if a is None or b is None:
        return Row(title, kind, a, b, None)
    bootstrap = bootstrap_ratio if kind.is_ratio else bootstrap_difference
    return Row(title, kind, a, b, bootstrap(sample_a, sample_b, figure))
