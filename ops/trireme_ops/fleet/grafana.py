"""Grafana's JSON model of dashboards, as far as they need it. What is on them stands in `dashboards`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_WIDTH = 24
#: Of every panel and variable: whoever imports a dashboard chooses which Prometheus.
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

#: Kinds whose queries show one value now, not a course.
_NOW = ("stat", "table", "bargauge")


@dataclass(frozen=True)
class Query:
    """A PromQL expression, and what its series are called."""

    expr: str
    legend: str = "__auto"


@dataclass(frozen=True)
class Panel:
    """kind: timeseries, stat, bargauge or table. unit: of Grafana. thresholds: from so much on -> a colour; None: below
    all others."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    thresholds: Mapping[float | None, str] = field(default_factory=lambda: {None: "blue"})


@dataclass(frozen=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """The values of a label, to choose from; of all of them at once if `multi`."""

    name: str
    label: str
    query: str
    multi: bool = True


@dataclass(frozen=True)
class Dashboard:
    """uid: which it keeps for ever, since links hold it."""

    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """The model that Grafana imports and provisions."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["trireme"],
            "schemaVersion": 38,
            "version": 1,
            "editable": True,
            "refresh": "10s",
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "links": [
                {"title": "Trireme", "type": "dashboards", "tags": ["trireme"], "asDropdown": True, "keepTime": True}
            ],
            "annotations": {"list": []},
            "templating": {"list": [_datasource_variable(), *(_variable(one) for one in self.variables)]},
            "panels": self._panels(),
        }

    def _panels(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        y = 0
        for row in self.rows:
            place = {"x": 0, "y": y, "w": _WIDTH, "h": 1}
            found.append(
                {
                    "id": len(found) + 1,
                    "type": "row",
                    "title": row.title,
                    "gridPos": place,
                    "collapsed": False,
                    "panels": [],
                }
            )
            x, y, height = 0, y + 1, 0
            for panel in row.panels:
                if x + panel.width > _WIDTH:
                    x, y, height = 0, y + height, 0
                place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
                found.append({"id": len(found) + 1, **_panel(panel), "gridPos": place})
                x, height = x + panel.width, max(height, panel.height)
            y += height
        return found


def _datasource_variable() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0}


def _variable(variable: Variable) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": variable.name,
        "label": variable.label,
        "type": "query",
        "datasource": _DATASOURCE,
        "definition": variable.query,
        "query": {"query": variable.query, "refId": variable.name},
        "refresh": 2,
        "sort": 1,
        "multi": variable.multi,
        "includeAll": variable.multi,
    }
    if variable.multi:
        made |= {"allValue": ".*", "current": {"selected": True, "text": ["All"], "value": ["$__all"]}}
    return made


def _panel(panel: Panel) -> dict[str, Any]:
    steps = [{"color": color, "value": value} for value, color in panel.thresholds.items()]
    now = panel.kind in _NOW
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": _DATASOURCE,
            "expr": query.expr,
            "legendFormat": query.legend,
            "range": not now,
            "instant": now,
            **({"format": "table"} if panel.kind == "table" else {}),
        }
        for number, query in enumerate(panel.queries)
    ]
    made: dict[str, Any] = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "targets": targets,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
    }
    if panel.kind == "timeseries":
        made["fieldConfig"]["defaults"] |= {"min": 0, "custom": {"fillOpacity": 10, "showPoints": "never"}}
        made["options"] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    elif panel.kind == "table":
        made["transformations"] = [{"id": "organize", "options": {"excludeByName": {"Time": True, "__name__": True}}}]
    else:
        made["options"] = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    return made
