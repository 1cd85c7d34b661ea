"""The page of a comparison."""

from collections.abc import Sequence

from markupsafe import Markup

from ..compare import Comparison
from ..compared import BETTER, CELLS, WORSE, Row
from ..definitions import DEFINITIONS
from .charts import legend, panels
from .distribution_charts import two_curves
from .html import Chart, environment
from .page import Card, Section
from .palette import COLOURS, INK, LINE, MUTED, PAPER
from .svg import chart_style, new_figure, to_svg
from .tables import Table, said

_CURVES = {"ttft": "Time to first token", "tpot": "Time per output token", "itl": "Inter-token latency", "e2e": "E2E"}

#: Colour and shape of what is better and worse.
_MARKS = {BETTER: (COLOURS[2], "^"), WORSE: (COLOURS[1], "v")}

_NOTE = (
    "An interval is of one pair of runs: it says how sure the difference of these two is, not how much runs differ "
    "from day to day. One in twenty intervals misses what is true."
)


def compare_page(comparison: Comparison) -> str:
    """One HTML file that refers to nothing outside it."""
    a, b = comparison.a, comparison.b
    bad = [f"{side.name}: {reason}" for side in (a, b) for reason in side.summary["invalid_because"]]
    curves = [
        two_curves(key, title, (a.samples_s[key], b.samples_s[key]), (f"A {a.name}", f"B {b.name}"))
        for key, title in _CURVES.items()
    ]
    charts = [chart for chart in (*_ratios(comparison.rows), *_over_time(comparison), *curves) if chart is not None]
    return (
        environment()
        .get_template("run.html.jinja")
        .render(
            title=f"Load tests compared: {a.name} (A) and {b.name} (B)",
            started=f"{a.summary['started']} (A) and {b.summary['started']} (B)",
            measured=f"{a.summary['measured_s']:g} s and {b.summary['measured_s']:g} s",
            warm_up=f"{a.summary['warm_up_s']:g} s and {b.summary['warm_up_s']:g} s",
            loop=" and ".join("open loop" if side.summary["open_loop"] else "closed loop" for side in (a, b)),
            verdict="INVALID: do not use this comparison",
            reasons=bad,
            misses=[],
            cards=_cards(comparison.rows),
            sections=[
                *([Section("What is not alike", (), [_warnings(comparison)])] if comparison.warnings else []),
                Section("Figures", (), [_table(comparison.rows)], _NOTE),
                Section("Charts", charts),
                Section("Settings", (), [_settings(comparison)]),
            ],
            definitions=DEFINITIONS,
        )
    )


def _cards(rows: Sequence[Row]) -> list[Card]:
    shown = [row for row in rows if row.title in ("TTFT p99, ms", "TPOT p50, ms", "output tokens/s", "errors, share")]
    return [Card(f"{row.title}, B against A", row.change, row.verdict) for row in shown]


def _warnings(comparison: Comparison) -> Table:
    rows = [[str(number), text] for number, text in enumerate(comparison.warnings, 1)]
    return Table("What is not alike", ["", "What is not alike"], rows, left=(1,))


def _table(rows: Sequence[Row]) -> Table:
    return Table("Figures", CELLS, [row.cells for row in rows])


def _settings(comparison: Comparison) -> Table:
    sides = [
        {**side.summary["settings"], **{f"server: {key}": value for key, value in side.summary["server"].items()}}
        for side in (comparison.a, comparison.b)
    ]
    keys = [*sides[0], *(key for key in sides[1] if key not in sides[0])]
    rows = [[key, *(said(side[key]) if key in side else "-" for side in sides)] for key in keys]
    return Table("Settings", ["Setting", "A", "B"], rows, left=(1, 2))


def _ratios(rows: Sequence[Row]) -> list[Chart]:
    """Of every ratio, with its interval."""
    from matplotlib.ticker import MaxNLocator

    shown = [row for row in rows if row.kind.is_ratio and row.value is not None and row.interval is not None]
    if not shown:
        return []
    height = 22 * len(shown) + 30
    with chart_style():
        drawing = new_figure(height)
        axes = drawing.add_axes((0.36, 30 / height, 0.6, 1 - 34 / height))
        for place, row in enumerate(shown):
            assert row.interval is not None
            colour, marker = _MARKS.get(row.verdict, (MUTED, "o"))
            axes.plot((row.interval.low, row.interval.high), (place, place), color=colour, linewidth=2.4)
            axes.plot(row.value, place, marker, color=colour, markersize=7, markeredgecolor=PAPER)
        axes.axvline(1, color=INK, linewidth=1, linestyle=(0, (3, 3)))
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_yticks(range(len(shown)), [row.title for row in shown], fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
        axes.tick_params(length=0)
        axes.grid(axis="x", linewidth=0.8, color=LINE)
        svg = to_svg(drawing, "ratios")
    spoken = "; ".join(f"{row.title}: {row.change}, {row.verdict}" for row in shown)
    return [
        Chart(
            "B as a multiple of A",
            "▲ better, ▼ worse, ● no clear difference. Line: the 95 % interval.",
            Markup(svg),
            spoken,
        )
    ]


def _over_time(comparison: Comparison) -> list[Chart]:
    """TTFT and tokens/s of both, from the begin of each."""
    lines = [side.summary["timeline"] for side in (comparison.a, comparison.b)]
    if not all(lines):
        return []
    with chart_style():
        drawing, found = panels((80, 80), ("TTFT p50, ms", "output tokens/s"), "time since its begin, s")
        for axes, key in zip(found, ("ttft_p50", "tokens_per_s"), strict=True):
            for index, line in enumerate(lines):
                points = [(one["t"] + one["width"] / 2, one[key]) for one in line if one[key] is not None]
                xs, ys = zip(*points, strict=True) if points else ((), ())
                axes.plot(
                    xs, ys, color=COLOURS[index], linewidth=1.4, linestyle=("-", (0, (4, 2)))[index], label="AB"[index]
                )
            axes.set_ylim(bottom=0)
        legend(found[0])
        svg = to_svg(drawing, "compared-time")
    spoken = "The median TTFT and the tokens/s of both runs, from the begin of each"
    return [Chart("Over time", "Warm-up included.", Markup(svg), spoken)]
