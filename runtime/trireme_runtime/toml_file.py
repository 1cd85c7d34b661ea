"""Reading the TOML files that people write, with errors that name file, key and value."""

import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class TomlError(ValueError):
    """A file that cannot be read; the message names it."""


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a file. Raises TomlError naming it where it cannot be read."""
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return values
    except OSError as error:
        raise TomlError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TomlError(f"{path}: cannot be read: {error}") from None


def problems(error: ValidationError) -> str:
    """What a model found wrong, each with its key and value, in one line."""
    return "; ".join(words(detail, place_of(detail["loc"])) for detail in error.errors())


def place_of(parts: "tuple[int | str, ...]") -> str:
    """Where something is in a file; entries of a list are counted from 1, as people do."""
    return ".".join(str(part + 1) if isinstance(part, int) else part for part in parts)


def words(detail: Any, place: str) -> str:
    """One of the things that a model found wrong."""
    if detail["type"] == "extra_forbidden":
        return f"the key {place} is unknown"
    if detail["type"] == "missing":
        return f"{place} is missing"
    if detail["type"] == "value_error":
        return f"{place}: {detail['ctx']['error']}" if place else str(detail["ctx"]["error"])
    return f"{place} is {repr(detail['input'])[:80]}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
