"""What a version is called and how it is marked: the same in every table and chart."""

from collections.abc import Sequence
from dataclasses import dataclass

from .versions import Version

#: Okabe and Ito's colours (jfly.uni-koeln.de/color, 2008), for light paper: yellow and the light ones are darkened.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b8578f", "#b57f00", "#3a97c9", "#8a8300", "#555562")

#: The same for dark screens.
DARK_COLOURS = ("#4ba3e0", "#f08a4b", "#2fc79a", "#e39cc6", "#f0b93a", "#8fd0f5", "#e6dc5a", "#b9b9c6")

#: Shapes in Matplotlib's names, so that nothing is told by colour alone.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

#: The same in text.
SIGNS = ("●", "■", "▲", "◆", "▼", "✚", "✖", "★")

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
