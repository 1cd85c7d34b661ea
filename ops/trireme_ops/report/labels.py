"""What a version is called and how it is marked: the same in every table and chart."""

from collections.abc import Sequence
from dataclasses import dataclass

from trireme_load.report.palette import COLOURS, MARKERS, SIGNS

from .versions import Version

#: Longer lines do not fit beside a chart on a phone.
_MOST_CHARACTERS = 15


@dataclass(frozen=True)
class Label:
    """title: what it is at a glance. subtitle: which version it is. index: of its colour and its sign.

    is_twin: whether another one has the same title.
    """

    title: str
    subtitle: str
    index: int
    is_twin: bool

    @property
    def sign(self) -> str:
        """Its mark in text."""
        return SIGNS[self.index]

    @property
    def marker(self) -> str:
        """Its mark in charts."""
        return MARKERS[self.index]

    @property
    def colour(self) -> str:
        """On light paper."""
        return COLOURS[self.index]

    @property
    def short(self) -> str:
        """Two lines for the side of a chart."""
        return f"{_cut(self.title)}\n{_cut(self.subtitle)}"

    @property
    def brief(self) -> str:
        """One line for a point in a chart."""
        return f"{_cut(self.title)}, {_cut(self.subtitle)}" if self.is_twin else _cut(self.title)


def labels_of(versions: Sequence[Version]) -> list[Label]:
    """A label each, no two alike."""
    titles = [version.quantization for version in versions]
    one_model = len({version.model for version in versions}) == 1
    found: list[Label] = []
    for index, version in enumerate(versions):
        subtitle = f"version {version.number}" if one_model else version.name
        if any((label.title, label.subtitle) == (titles[index], subtitle) for label in found):
            subtitle = f"{subtitle} ({index + 1})"
        found.append(Label(titles[index], subtitle, index, titles.count(titles[index]) > 1))
    return found


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"
