"""Matplotlib figures as SVG that is at home in a page: real text, the page's colours, ids of its own."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .palette import COLOURS, INK, LINE, MUTED, PAPER

#: What a chart is drawn in -> what stands in the page.
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    PAPER: "var(--paper)",
    **{colour: f"var(--v{index})" for index, colour in enumerate(COLOURS)},
}

#: One unit of a chart is a CSS pixel at this width: that of a phone.
WIDTH = 360

_FONT_SIZE = 11


@contextmanager
def chart_style() -> Iterator[None]:
    """How charts look; drawing happens within it."""
    import matplotlib

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "trireme",
        # Names may hold dollar signs.
        "text.parse_math": False,
        "font.size": _FONT_SIZE,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": LINE,
        "axes.linewidth": 1.0,
        "xtick.color": LINE,
        "ytick.color": LINE,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": LINE,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # Texts stay texts: whoever reads the page may well have the letters that Matplotlib's font lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def new_figure(height: float) -> Any:
    """A figure WIDTH units wide and `height` units high."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
    # Extents of texts can be asked for, so that they do not cover each other.
    FigureCanvasAgg(figure)
    return figure


def to_svg(figure: Any, name: str) -> str:
    """An `svg` element, hidden from screen readers: what it shows is to be said beside it. `name` makes ids unique."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Matplotlib's style sheet would hold for the whole page.
    text = re.sub(r"<style type=\"text/css\">.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<svg [^>]*viewBox=\"([^\"]*)\"[^>]*>", r'<svg viewBox="\1" aria-hidden="true">', text, count=1)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1; font-family: var(--font)", text)
    text = text.replace("xlink:href", "href")
    # A hundredth of a pixel is enough, and what is written in a chart is left alone.
    text = re.sub(r'(?<= d=")[^"]*', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)
    text = re.sub(r'( [xy]="-?\d+\.\d\d)\d+"', r'\1"', text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    return text
