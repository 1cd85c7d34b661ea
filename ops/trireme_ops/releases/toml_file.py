"""Reading the TOML files that operators write, with errors that name file, key and value."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from trireme_runtime import toml_file
from trireme_runtime.toml_file import problems

from ..errors import OperatorError

__all__ = ["Table", "problems", "read_toml"]


class Table(BaseModel):
    """A table whose keys are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a file. Raises OperatorError naming it where it cannot be read."""
    try:
        return toml_file.read_toml(path)
    except toml_file.TomlError as error:
        raise OperatorError(str(error)) from None
