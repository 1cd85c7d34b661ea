"""The folders that runs leave their files in."""

from datetime import datetime, timezone
from itertools import count
from pathlib import Path

from .errors import SettingError

#: What a run or a sweep that has begun leaves.
_TRACES = ("requests.csv", "summary.json", "sweep.json")


def default_folder() -> Path:
    """One named after the time, where nobody named one."""
    return Path("load-results") / datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")


def check_folder(folder: Path) -> None:
    """Raise SettingError if nothing can be written there, or if another run's results would be lost."""
    for one in (folder, *folder.parents):
        if one.exists() and not one.is_dir():
            raise SettingError(f"out is {str(folder)!r}; {one} is a file, and a folder is needed")
    if holds_run(folder):
        raise SettingError(f"out is {str(folder)!r}; it holds the results of another run: name another, or remove it")


def make_folder(folder: Path) -> None:
    """Make it, if it is not there. Raises SettingError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "requests.csv").touch()
    except OSError as error:
        raise SettingError(f"out is {str(folder)!r}; {error.strerror or error}") from None


def holds_run(folder: Path) -> bool:
    """Whether a run has left something in it."""
    return any((folder / name).exists() for name in _TRACES)


def free_folder(folder: Path) -> Path:
    """It, or the first of NAME-2, NAME-3 ... that holds no run."""
    names = (folder if number == 1 else folder.with_name(f"{folder.name}-{number}") for number in count(1))
    return next(one for one in names if not holds_run(one))
