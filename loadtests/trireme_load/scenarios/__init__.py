"""Scenarios, each a locustfile of its own: `trireme load --scenario NAME`, or `locust -f` with its file.

To make one of your own, copy the one that is nearest, and name your file: `trireme load --scenario ./mine.py`.
"""

from pathlib import Path

from ..errors import SettingError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The scenarios that there are."""
    return sorted(path.stem.replace("_", "-") for path in FOLDER.glob("[!_]*.py"))


def file_of(name: str) -> Path:
    """The locustfile of a scenario, or of one's own if `name` is a file. Raises SettingError."""
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise SettingError(f"scenario {name}: no such file")
        return Path(name)
    path = FOLDER / f"{name.replace('-', '_')}.py"
    if name.startswith("_") or not path.is_file():
        raise SettingError(f"scenario is {name!r}; allowed are {', '.join(names())}, or a file of your own")
    return path
