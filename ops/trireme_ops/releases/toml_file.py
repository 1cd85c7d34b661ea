"""Reading the TOML files that operators write, with errors that name file, key and value."""

import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import OperatorError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Table(BaseModel):
    """A table whose keys are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a file. Raises OperatorError naming it where it cannot be read."""
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return values
    except OSError as error:
        raise OperatorError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OperatorError(f"{path}: cannot be read: {error}") from None


def problems(error: ValidationError) -> str:
    """What a model found wrong, each with its key and value, in one line."""
    return "; ".join(_words(detail) for detail in error.errors())


def _words(detail: Any) -> str:
    # Entries of a list are counted from 1, as people do.
    place = ".".join(str(part + 1) if isinstance(part, int) else str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"the key {place} is unknown"
    if detail["type"] == "missing":
        return f"{place} is missing"
    if detail["type"] == "value_error":
        return f"{place}: {detail['ctx']['error']}" if place else str(detail["ctx"]["error"])
    return f"{place} is {detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
