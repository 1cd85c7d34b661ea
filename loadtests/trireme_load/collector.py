"""Gathers what the processes of a run report, and writes each request to disk as it comes."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from .record import COLUMNS, Record, from_row, written_row
from .results import make_folder
from .run import Generator


class Collector:
    """The requests of a run. With a folder, requests.csv in it is complete up to what was reported last."""

    def __init__(self, folder: Path | None) -> None:
        self.records: list[Record] = []
        self.errors = 0
        self.generators: dict[int, Generator] = {}
        self._file: IO[str] | None = None
        if folder is not None:
            make_folder(folder)
            self._file = (folder / "requests.csv").open("w", newline="", encoding="utf-8")
            csv.writer(self._file).writerow(COLUMNS)
            self._file.flush()

    def take(self, rows: Sequence[Sequence[Any]], generator: dict[str, Any]) -> None:
        """Take what one process reports."""
        for row in rows:
            record = from_row(list(row))
            self.records.append(record)
            self.errors += record.is_failed
        if self._file is not None and rows:
            csv.writer(self._file).writerows(written_row(list(row)) for row in rows)
            self._file.flush()
        seen = Generator(**generator)
        self.generators[seen.worker] = seen

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
