"""How the load goes over time: users, or requests/s in an open loop."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .errors import SettingError
from .quantities import number

NAMES = ("constant", "ramp", "step", "spike", "soak")

#: How long a soak lasts where nothing says so.
SOAK_S = 3600.0


@dataclass(frozen=True)
class Shape:
    """A load over time: (s, level) corners, straight lines between, the last level until the end."""

    corners: Sequence[tuple[float, float]]

    def level(self, at_s: float) -> float:
        """The load at a time; 0 before the first corner."""
        before = None
        for corner in self.corners:
            if corner[0] > at_s:
                if before is None:
                    return 0.0
                share = (at_s - before[0]) / (corner[0] - before[0])
                return before[1] + share * (corner[1] - before[1])
            before = corner
        return before[1] if before else 0.0

    @property
    def top(self) -> float:
        """The highest load."""
        return max(level for _, level in self.corners)

    def begin_time(self, arrivals: float, end_s: float) -> float | None:
        """When so many arrivals were to have come at `level` a second; None if that is after end_s.

        The integral of the level, inverted: corners at one time are a jump.
        """
        left = arrivals
        corners = [*self.corners, (max(end_s, self.corners[-1][0]), self.corners[-1][1])]
        for (t0, v0), (t1, v1) in pairwise(corners):
            whole = (t1 - t0) * (v0 + v1) / 2
            if left <= whole and t1 > t0:
                slope = (v1 - v0) / (t1 - t0)
                # v0 x + slope x^2 / 2 = left
                x = left / v0 if slope == 0 else (-v0 + (v0 * v0 + 2 * slope * left) ** 0.5) / slope
                return t0 + x if t0 + x <= end_s else None
            left -= whole
        return None


def parse_shape(text: str, level: float, duration_s: float, ramp_up_s: float = 0.0) -> Shape:
    """The shape of a name, with the load and duration of the run.

    constant: `level`, reached after ramp_up_s. ramp[:FROM-TO]: evenly over the whole time. step[:STEPS]: in so many
    equal steps up to `level`. spike[:TIMES]: `level`, and TIMES as much in the middle fifth. soak: constant, for hours.
    Raises SettingError naming the value and what is allowed.
    """
    name, _, detail = text.partition(":")
    if name not in NAMES:
        raise SettingError(f"shape is {text!r}; allowed are {', '.join(NAMES)}")
    if name in ("constant", "soak"):
        if detail:
            raise SettingError(f"shape is {text!r}; {name} takes no value")
        corners = [(0.0, 0.0), (ramp_up_s, level)] if ramp_up_s else [(0.0, level)]
        return Shape(corners)
    if name == "ramp":
        first, dash, last = (detail or f"0-{level:g}").partition("-")
        if not dash:
            raise SettingError(f"shape is {text!r}; ramp takes FROM-TO, such as ramp:1-64")
        return Shape([(0.0, _level(first, text)), (duration_s, _level(last, text))])
    if name == "step":
        steps = int(number(detail or "4", f"steps of shape {text!r}", 1, 100, whole=True))
        return Shape(_stairs([level * (step + 1) / steps for step in range(steps)], duration_s))
    times = number(detail or "3", f"height of shape {text!r}", 1, 1000)
    return Shape(
        [
            (0.0, level),
            (0.4 * duration_s, level),
            (0.4 * duration_s, times * level),
            (0.6 * duration_s, times * level),
            (0.6 * duration_s, level),
        ]
    )


def _level(text: str, shape: str) -> float:
    return number(text, f"level of shape {shape!r}", 0, 1_000_000)


def _stairs(levels: Sequence[float], duration_s: float) -> list[tuple[float, float]]:
    corners: list[tuple[float, float]] = []
    for index, level in enumerate(levels):
        corners += [(index * duration_s / len(levels), level), ((index + 1) * duration_s / len(levels), level)]
    return corners
