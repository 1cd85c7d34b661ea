"""A run at each of several loads, and where more load stops paying."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from .errors import SettingError
from .quantities import number
from .report.sweep_page import sweep_page
from .sweep import knee
from .table import aligned, figure

_DEFAULT = "1,2,4,8,16,32,64"


def levels_of(arguments: argparse.Namespace) -> list[float]:
    """The loads of --concurrency or --rates. Raises SettingError."""
    if arguments.concurrency and arguments.rates:
        raise SettingError("--concurrency and --rates are both given; a sweep goes over one of them")
    name, text, whole = ("concurrency", arguments.concurrency or _DEFAULT, True)
    if arguments.rates:
        name, text, whole = ("rates", arguments.rates, False)
        if arguments.arrival == "closed":
            raise SettingError("--rates is for an open loop; say --arrival poisson, gamma or constant")
    elif arguments.arrival != "closed":
        raise SettingError(f"--concurrency is for a closed loop; with --arrival {arguments.arrival} say --rates")
    levels = [number(part.strip(), name, 1 if whole else 0.001, 100_000, whole) for part in text.split(",")]
    if sorted(set(levels)) != levels:
        raise SettingError(f"{name} is {text!r}; the loads have to grow")
    return levels


class Sweep:
    """Its folder holds that of each run, sweep.json and sweep.html."""

    def __init__(self, out: Path, levels: list[float], by_rate: bool) -> None:
        self._out = out
        self._levels = levels
        self.by_rate = by_rate
        self._steps: list[tuple[float, dict[str, Any]]] = []

    @property
    def unit(self) -> str:
        """Of the loads."""
        return "requests/s" if self.by_rate else "users"

    def folder(self, level: float) -> Path:
        """Of the run at a load."""
        return self._out / f"{self.unit.replace('/', '_per_')}-{level:g}"

    def take(self, level: float, status: int) -> bool:
        """Take the run at a load; False if there is none, and no use in going on."""
        path = self.folder(level) / "summary.json"
        if not path.exists():
            print(f"trireme load: the run at {level:g} {self.unit} came to nothing (status {status})", file=sys.stderr)
            return False
        summary = json.loads(path.read_text(encoding="utf-8"))
        self._steps.append((level, summary))
        return not summary["partial"]

    def finish(self) -> int:
        """Write and show what came of it; 1 if a run is missing or not valid."""
        found = knee(
            [level for level, _ in self._steps],
            [one["tokens_per_s"]["total"] if one["valid"] else None for _, one in self._steps],
            [one["e2e"]["p50"] for _, one in self._steps],
        )
        at = None if found is None else self._steps[found][0]
        self._out.mkdir(parents=True, exist_ok=True)
        document = {"unit": self.unit, "knee": at, "steps": [{"load": level, **one} for level, one in self._steps]}
        (self._out / "sweep.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        (self._out / "sweep.html").write_text(sweep_page(self._steps, found), encoding="utf-8")
        print(self._table(at))
        print(f"\nReport: {os.path.relpath(self._out / 'sweep.html')}")
        all_valid = all(one["valid"] for _, one in self._steps)
        return int(not all_valid or len(self._steps) < len(self._levels))

    def _table(self, knee_at: float | None) -> str:
        """For a terminal."""
        rows = [[self.unit, "requests/s", "tokens/s", "TTFT p50", "TTFT p99", "TPOT p50", "goodput/s", "errors", ""]]
        for level, one in self._steps:
            numbers = [
                one["requests_per_s"],
                one["tokens_per_s"]["total"],
                one["ttft"]["p50"],
                one["ttft"]["p99"],
                one["tpot"]["p50"],
                one["goodput"]["requests_per_s"],
            ]
            note = "knee" if level == knee_at else "" if one["valid"] else "not valid"
            rows.append([f"{level:g}", *map(figure, numbers), str(one["requests"]["failed"]), note])
        knee_said = "no knee: throughput did not flatten" if knee_at is None else f"knee at {knee_at:g} {self.unit}"
        return "\n".join(["", *aligned(rows), "", knee_said])
