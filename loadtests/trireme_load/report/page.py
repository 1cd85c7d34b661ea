"""The page of one run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..columns import latencies_s
from ..definitions import DEFINITIONS
from ..record import Record
from ..releases import phases, releases_of
from ..run import Run
from ..summary import measured
from ..table import figure
from ..thresholds import Miss
from . import tables
from .distribution_charts import distribution
from .html import Chart, environment
from .request_charts import errors_over_time, ttft_by_request
from .tables import Table, share
from .time_charts import latency_over_time, throughput_over_time

_DISTRIBUTIONS = {
    "ttft": "Time to first token (TTFT)",
    "itl": "Inter-token latency (ITL)",
    "tpot": "Time per output token (TPOT)",
    "e2e": "End-to-end latency (E2E)",
}


_RELEASES_NOTE = (
    "More than one release answered. Latencies are in ms. Who failed seldom says so: errors without a release are not "
    "said, and count in the phase in which their requests were to be sent."
)


@dataclass(frozen=True)
class Card:
    """A figure that is seen first."""

    title: str
    figure: str
    note: str


@dataclass(frozen=True)
class Section:
    """What stands below one heading."""

    title: str
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    note: str = ""


def run_page(run: Run, records: Sequence[Record], summary: Mapping[str, Any], misses: Sequence[Miss] = ()) -> str:
    """One HTML file that refers to nothing outside it. summary: summarize(run, records)."""
    return (
        environment()
        .get_template("run.html.jinja")
        .render(
            title="Load test",
            started=summary["started"],
            measured=f"{summary['measured_s']:g} s",
            warm_up=f"{summary['warm_up_s']:g} s",
            loop="open loop (requests/s)" if summary["open_loop"] else "closed loop (users)",
            verdict=verdict(summary),
            reasons=summary["invalid_because"],
            misses=[str(miss) for miss in misses],
            cards=_cards(summary),
            sections=_sections(run, records, summary),
            definitions=DEFINITIONS,
        )
    )


def verdict(summary: Mapping[str, Any]) -> str:
    """Of a run whose figures cannot be used."""
    return "PARTIAL AND INVALID: the run ended early" if summary["partial"] else "INVALID: do not use these figures"


def _cards(summary: Mapping[str, Any]) -> list[Card]:
    requests, goodput, errors = summary["requests"], summary["goodput"], summary["errors"]
    slo = ", ".join(f"{name} ≤ {limit:g} ms" for name, limit in goodput["slo"].items())
    cancelled = f", {requests['cancelled']:,} cancelled" if requests["cancelled"] else ""
    return [
        *(
            Card(
                f"{tables.TITLES[key]}, p50",
                f"{figure(summary[key]['p50'])} ms" if summary[key]["count"] else "not measured",
                f"p99 {figure(summary[key]['p99'])} ms",
            )
            for key in ("ttft", "tpot", "e2e")
        ),
        Card("Requests/s", figure(summary["requests_per_s"]), f"{requests['sent']:,} were sent{cancelled}"),
        Card(
            "Output tokens/s",
            figure(summary["tokens_per_s"]["total"]),
            f"{figure(summary['tokens_per_s']['per_user']['p50'])} per user, p50",
        ),
        Card("Goodput", share(goodput["share"]), slo or "no objective"),
        Card("Errors", share(errors["share"]), f"{errors['count']:,} requests failed"),
    ]


def _sections(run: Run, records: Sequence[Record], summary: Mapping[str, Any]) -> list[Section]:
    ours = measured(run, records)
    releases = releases_of(records)
    over_time = _over_time(summary, records, releases)
    samples = latencies_s(ours)
    distributions = [
        chart for key, title in _DISTRIBUTIONS.items() if (chart := distribution(key, title, samples[key])) is not None
    ]
    found = [
        Section("Over time", over_time, note="" if over_time else "Nothing was measured."),
        Section("Latency", distributions, [tables.latencies(summary)], "Of requests that succeeded, in ms."),
    ]
    if summary["errors"]["by_code"]:
        found.append(Section("Errors", (), [tables.errors(summary)]))
    if len(releases) > 1:
        changed = [tables.changes(phases(records)), tables.groups("Release", summary["by_release"])]
        found.append(Section("Releases", (), changed, _RELEASES_NOTE))
    if summary["by_scenario"]:
        found.append(Section("Scenarios", (), [tables.groups("Scenario", summary["by_scenario"])], "In ms."))
    if len(summary["by_model"]) > 1:
        found.append(Section("Models", (), [tables.groups("Model", summary["by_model"])], "In ms."))
    facts = {"Setting": summary["settings"], "Server": summary["server"], "Machine": summary["machine"]}
    shown = [tables.facts(name, values) for name, values in facts.items() if values]
    if summary["generators"]:
        shown.append(tables.generators(summary))
    found.append(Section("How this was measured", (), shown))
    return found


def _over_time(summary: Mapping[str, Any], records: Sequence[Record], releases: Sequence[str]) -> list[Chart]:
    if not summary["timeline"]:
        return []
    drawn = [
        latency_over_time(summary),
        throughput_over_time(summary),
        ttft_by_request(summary, records, releases or [""]),
        errors_over_time(summary, records),
    ]
    return [chart for chart in drawn if chart is not None]
