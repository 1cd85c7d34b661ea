"""Locust's web UI with LLM figures: a table of its own with a row for each scenario, and a page of charts at /llm."""

import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from flask import Response, request

from . import plugin
from .columns import latencies_s
from .record import Record

#: Which quantiles of which figures, in percent.
SHARES = (*((figure, share) for figure in ("ttft", "tpot", "itl") for share in (50, 95, 99)), ("e2e", 95))

#: The table's columns in the order of the page: key, title.
COLUMNS = (
    ("scenario", "Scenario"),
    ("requests", "Requests"),
    ("errors", "Errors"),
    *((f"{figure}P{share}", f"{figure.upper()} p{share} (ms)") for figure, share in SHARES),
    ("tokensPerS", "Tokens/s"),
    ("goodput", "Within the SLO (%)"),
)

_KEY = "llm"

#: Of how many of the last requests the live table is made.
_MOST = 2_000


def extend(environment: Any, web_ui: Any) -> None:
    """Add them to a web UI that has not started yet."""
    web_ui.template_args["extended_tables"] = [
        {"key": _KEY, "title": "LLM", "structure": [{"key": key, "title": title} for key, title in COLUMNS]}
    ]
    web_ui.template_args["extended_tabs"] = [{"key": _KEY, "title": "LLM"}]
    web_ui.template_args["extended_csv_files"] = [{"href": "llm", "title": "LLM charts"}]

    @web_ui.app.after_request
    def add_rows(response: Response) -> Response:
        if request.path.endswith("/stats/requests") and response.is_json:
            extended = [{"key": _KEY, "data": rows(environment)}]
            response.set_data(json.dumps({**(response.json or {}), "extended_stats": extended}))
        return response

    @web_ui.app.route("/llm")
    def page() -> Response:
        return Response((Path(__file__).parent / "live.html").read_text(encoding="utf-8"), mimetype="text/html")

    @web_ui.app.route("/llm/moments")
    def moments() -> Response:
        conductor = plugin.conductor_of(environment)
        seen = conductor.moments if conductor is not None else []
        return Response(json.dumps([asdict(one) for one in seen[-1200:]]), mimetype="application/json")


def rows(environment: Any) -> list[dict[str, Any]]:
    """A row for each scenario of the run that is under way or was last."""
    conductor = plugin.conductor_of(environment)
    if conductor is None:
        return []
    by_scenario: defaultdict[str, list[Record]] = defaultdict(list)
    for record in conductor.collector.records[-_MOST:]:
        if record.intended_s >= conductor.settings.warm_up_s:
            by_scenario[record.scenario].append(record)
    return [_row(conductor, name, by_scenario[name]) for name in sorted(by_scenario)]


def _row(conductor: Any, name: str, records: list[Record]) -> dict[str, Any]:
    good = [record for record in records if record.is_ok]
    figures = latencies_s(good)
    row: dict[str, Any] = {"scenario": name, "requests": len(records)}
    row["errors"] = sum(record.is_failed for record in records)
    for figure, share in SHARES:
        values = figures[figure]
        row[f"{figure}P{share}"] = round(1000 * float(np.quantile(values, share / 100)), 1) if values.size else None
    seconds = max(0.5, records[-1].end_s - records[0].sent_s)
    row["tokensPerS"] = round(sum(record.output_tokens for record in good) / seconds, 1)
    met = sum(conductor.settings.slo.is_met(record) for record in records)
    row["goodput"] = round(100 * met / len(records), 1)
    return row
