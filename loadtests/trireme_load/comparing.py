"""Two runs side by side, out of their folders."""

import json
from pathlib import Path

from .compare import compare
from .errors import ReadError
from .record import Record, read_csv
from .report.compare_page import compare_page
from .run import Run


def read_run(folder: Path) -> tuple[Run, list[Record]]:
    """The run that was written to a folder. Raises ReadError naming what is missing."""
    path = folder / "run.json"
    try:
        run = Run.from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ReadError(f"{folder} is not the folder of a run: {path.name} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ReadError(f"{path} is not of a run of this version: {error!r}") from error
    return run, list(read_csv(folder / "requests.csv"))


def compare_folders(first: Path, second: Path, out: Path | None) -> str:
    """The comparison as a table; with a folder, as compare.html in it, too. Raises ReadError."""
    comparison = compare(*read_run(first), *read_run(second), names=(str(first), str(second)))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "compare.html").write_text(compare_page(comparison), encoding="utf-8")
    return comparison.text
