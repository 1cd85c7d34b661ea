"""Writes the dashboards' files."""

from pathlib import Path

from . import DASHBOARDS, text_of

_FOLDER = Path(__file__).resolve().parents[4] / "docker" / "grafana" / "dashboards"

for name, dashboard in DASHBOARDS.items():
    (_FOLDER / f"{name}.json").write_text(text_of(dashboard), encoding="utf-8")
