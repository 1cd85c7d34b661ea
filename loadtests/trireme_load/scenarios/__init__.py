"""Scenarios, each a locustfile of its own: `trireme load --scenario NAME`, or `locust -f` with its file.

To make one of your own, copy the one that is nearest, and name your file: `trireme load --scenario ./mine.py`.
"""

import ast
from pathlib import Path

from ..errors import SettingError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The scenarios that there are."""
    return sorted(path.stem.replace("_", "-") for path in FOLDER.glob("[!_]*.py"))


def file_of(name: str) -> Path:
    """The locustfile of a scenario, or of one's own if `name` is a file. Raises SettingError."""
    if name.endswith(".py"):
        _check(name)
        return Path(name)
    path = FOLDER / f"{name.replace('-', '_')}.py"
    if name.startswith("_") or not path.is_file():
        raise SettingError(f"scenario is {name!r}; allowed are {', '.join(names())}, or a file of your own")
    return path


def _check(path: str) -> None:
    """Raise SettingError for a file that cannot be a locustfile."""
    try:
        body = ast.parse(Path(path).read_bytes(), path).body
    except OSError as error:
        raise SettingError(f"scenario {path}: {(error.strerror or str(error)).lower()}") from None
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise SettingError(f"scenario {path}{line}: {getattr(error, 'msg', error)}") from None
    if not any(isinstance(node, ast.ClassDef | ast.ImportFrom) for node in body):
        raise SettingError(f"scenario {path}: there is no class in it; one that is derived from LlmUser is needed")
