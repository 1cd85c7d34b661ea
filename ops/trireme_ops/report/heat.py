"""A colour for a share, and the ink that can be read on it."""

from dataclasses import dataclass

#: Dark blue to pale yellow, even to the eye and for colour-blind ones: five steps of Cividis (Nunez et al. 2018).
_STEPS = ((0, 34, 78), (62, 74, 109), (124, 123, 120), (187, 174, 113), (254, 232, 56))


@dataclass(frozen=True)
class Heat:
    """CSS colours of a cell."""

    paper: str
    ink: str


def heat(share: float, lowest: float) -> Heat:
    """Of `share` on a scale from `lowest` to 1."""
    place = (share - lowest) / (1 - lowest) if lowest < 1 else 1.0
    position = min(max(place, 0.0), 1.0) * (len(_STEPS) - 1)
    index = min(int(position), len(_STEPS) - 2)
    part = position - index
    red, green, blue = (
        round((1 - part) * low + part * high) for low, high in zip(_STEPS[index], _STEPS[index + 1], strict=True)
    )
    return Heat(f"rgb({red}, {green}, {blue})", "#000" if _luminance(red, green, blue) > 0.18 else "#fff")


def _luminance(*channels: int) -> float:
    """Relative luminance as WCAG 2 has it; black and white are equally far from 0.18."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in channels)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
