"""A report as one page of HTML that needs nothing else: a table, and plots of cost and tokens by day."""

import html
import io
import re
from typing import Any

from .report import Line, Report, cells, remark

#: Of the groups, the dearest first; all further ones are one.
_COLOURS = ("#2f6fb0", "#d1812a", "#4a9a5b", "#a64b83", "#7a6bbf", "#8c8c8c")
_OTHERS = "others"

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --line: #d5d9de; --muted: #5b6570; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --paper: #15181c; --line: #363c43; --muted: #9aa4ae; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { color: var(--muted); font-weight: 600; }
figure { margin: 2rem 0; } svg { width: 100%; height: auto; } figcaption { color: var(--muted); }
"""


def page(report: Report) -> str:
    """The page."""
    title = f"Ledger of {report.month.name}, by {report.by}"
    head, *rows = cells(report)
    table = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    titles = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    missing = f"<p>{html.escape(remark(report))}</p>" if report.lost else ""
    nothing = "" if rows else "<p>There are no requests in this month.</p>"
    costs = _plot(report, f"{report.currency} a day", lambda line: line.cost_by_day)
    tokens = _plot(report, "tokens a day", lambda line: line.tokens_by_day)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><h1>{title}</h1>'
        f'{missing}{nothing}<div class="wide"><table><thead><tr>{titles}</tr></thead>'
        f"<tbody>{table}</tbody></table></div>"
        f"<figure>{costs}<figcaption>Cost by day (UTC)</figcaption></figure>"
        f"<figure>{tokens}<figcaption>Tokens of prompts and answers by day (UTC)</figcaption></figure></body></html>\n"
    )


def _plot(report: Report, unit: str, of: Any) -> str:
    """Bars for each day, of the groups one on the other."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    days = list(range(1, report.month.days + 1))
    settings = {"svg.fonttype": "none", "svg.hashsalt": "trireme", "text.parse_math": False, "font.size": 9}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(9, 2.8), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        below = [0.0] * len(days)
        for (name, values), colour in zip(_series(report, of), _COLOURS, strict=False):
            axes.bar(days, values, bottom=below, color=colour, label=name, width=0.8)
            below = [under + value for under, value in zip(below, values, strict=True)]
        axes.set_ylabel(unit)
        axes.set_xlim(0.4, len(days) + 0.6)
        axes.set_ylim(bottom=0, top=None if any(below) else 1)
        axes.set_xticks([day for day in days if day == 1 or day % 5 == 0])
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.spines[["top", "right"]].set_visible(False)
        if report.lines:
            axes.legend(frameon=False, ncols=6, loc="lower left", bbox_to_anchor=(0, 1))
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # The page's colours; and ids of their own, since two pictures stand in it.
    svg = re.sub(r"(stroke|fill): #000000", r"\1: var(--ink)", svg).replace("<text ", '<text fill="var(--ink)" ')
    prefix = re.sub(r"\W", "", unit)
    return re.sub(r'(id="|url\(#|href="#)', lambda found: f"{found[1]}{prefix}-", svg)


def _series(report: Report, of: Any) -> list[tuple[str, list[float]]]:
    most = len(_COLOURS) - 1
    found = [(line.name, [float(value) for value in of(line)]) for line in report.lines[:most]]
    rest: list[Line] = list(report.lines[most:])
    if rest:
        found.append((_OTHERS, [float(sum(values)) for values in zip(*(of(line) for line in rest), strict=True)]))
    # An underscore in front would keep it out of the legend.
    return [(name.lstrip("_") or name, values) for name, values in found]
