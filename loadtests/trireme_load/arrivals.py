"""When requests are to be sent in an open loop, whatever the server does."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import SettingError
from .quantities import number
from .shapes import Shape
from .trace import Call

NAMES = ("closed", "poisson", "gamma", "constant", "trace")

#: The coefficient of variation of gamma arrivals where none is named: burstier than Poisson's 1.
GAMMA_CV = 2.0


@dataclass(frozen=True)
class Arrivals:
    """closed: a user asks again when it has its answer. The others are open loops.

    cv: the standard deviation of the time between two, over its mean: 0 constant, 1 Poisson, above that in bursts.
    """

    name: str
    cv: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "Arrivals":
        """`closed`, `poisson`, `gamma[:CV]`, `constant` or `trace`. Raises SettingError."""
        name, colon, detail = text.partition(":")
        if name not in NAMES or (colon and name != "gamma"):
            raise SettingError(f"arrival is {text!r}; allowed are closed, poisson, gamma:2, constant, trace")
        if name == "gamma":
            return cls(name, number(detail, "the variation of gamma arrivals", 0.1, 20) if colon else GAMMA_CV)
        return cls(name, 0.0 if name == "constant" else 1.0)

    @property
    def is_open(self) -> bool:
        """Whether requests are sent when their time comes, not when an answer has come."""
        return self.name != "closed"

    def times(self, shape: Shape, duration_s: float, seed: str) -> Iterator[float]:
        """When requests are to be sent, in s since the begin, at the rate that `shape` gives.

        A renewal process of rate 1 whose gaps are gamma-distributed, with its time stretched so that the rate follows
        the shape (Cinlar 1975, time change of a point process).
        """
        chance = random.Random(seed)
        shape_parameter = 1 / self.cv**2 if self.cv else 0.0
        arrivals = 0.0
        while True:
            arrivals += chance.gammavariate(shape_parameter, 1 / shape_parameter) if self.cv else 1.0
            at_s = shape.begin_time(arrivals, duration_s)
            if at_s is None:
                return
            yield at_s


@dataclass(frozen=True)
class Arrival:
    """One request that is to be sent: its number, its time, and what a trace says of it."""

    number: int
    at_s: float
    call: Call | None = None


def schedule(
    arrivals: Arrivals, shape: Shape, duration_s: float, seed: str, trace: list[Call], worker: int, workers: int
) -> Iterator[Arrival]:
    """The arrivals that one of `workers` processes sees to: each process counts the same ones, and takes its own."""
    if arrivals.name == "trace":
        timed: Iterator[tuple[float, Call | None]] = ((call.at_s, call) for call in trace if call.at_s <= duration_s)
    else:
        timed = ((at_s, None) for at_s in arrivals.times(shape, duration_s, seed))
    for number_, (at_s, call) in enumerate(timed):
        if number_ % workers == worker:
            yield Arrival(number_, at_s, call)
