"""What a run comes to: its summary, its report, what was missed, and the exit status."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .record import Record
from .report.page import run_page
from .run import Run
from .summary import summarize
from .table import render
from .thresholds import Miss, Threshold, check


@dataclass(frozen=True)
class Verdict:
    """A run that is over."""

    run: Run
    records: Sequence[Record]
    summary: dict[str, Any]
    misses: Sequence[Miss]
    has_thresholds: bool

    @classmethod
    def of(cls, run: Run, records: Sequence[Record], thresholds: Sequence[Threshold] | None) -> "Verdict":
        """Sum it up."""
        summary = summarize(run, records)
        misses = check(thresholds, summary) if thresholds is not None else []
        return cls(run, records, summary, misses, thresholds is not None)

    @property
    def exit_code(self) -> int:
        """0 if the figures are valid and nothing was missed; without thresholds, a failed request is a miss."""
        failed = bool(self.summary["requests"]["failed"]) and not self.has_thresholds
        return int(bool(self.misses) or failed or not self.summary["valid"])

    def write(self, folder: Path | None) -> None:
        """summary.json and report.html."""
        if folder is None:
            return
        (folder / "summary.json").write_text(json.dumps(self.summary, indent=1) + "\n", encoding="utf-8")
        page = run_page(self.run, self.records, self.summary, self.misses)
        (folder / "report.html").write_text(page, encoding="utf-8")

    def shown(self, bold: bool) -> str:
        """For a terminal."""
        return render(self.summary, self.misses, bold)
