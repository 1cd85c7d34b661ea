"""Deployment profiles: what another kind of machine needs of the committed configurations.

A profile is a folder of overlays, MODEL.pbtxt, each a text ModelConfig that is laid over the parsed configuration of
that model and of its namesakes in added families. `cpu` has none: it is the repository as committed.
"""

import re
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from trireme_runtime.model_config import read_config

from ..errors import OperatorError

FOLDER = Path(__file__).resolve().parent

#: All of them; the first is what is committed.
PROFILES = ("cpu", "trtllm", "trtllm-engine")

#: Models of a family: NAME_MODEL. The ensembles and the unary front have names of another pattern, and no overlay.
_FAMILY_MODEL = re.compile(r"[a-z][a-z0-9_]*_(preprocessing|tensorrt_llm|postprocessing)")


def base_name(model: str) -> str:
    """The committed model that `model` is made after: itself, or its namesake where it belongs to an added family."""
    match = _FAMILY_MODEL.fullmatch(model)
    return match[1] if match else model


def parse(path: Path) -> Any:
    """A text ModelConfig. Raises OperatorError naming the file for an unknown field or a value that does not fit."""
    try:
        return read_config(path)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path}: {error}") from error


def overlay(profile: str, model: str, folder: Path = FOLDER) -> Path | None:
    """The file that `profile` lays over `model`; None where it leaves it as it is."""
    path = folder / profile / f"{base_name(model)}.pbtxt"
    return path if path.is_file() else None


def lay_over(message: Any, changes: Any) -> None:
    """Change `message` to what `changes`, of the same type, sets.

    Scalars and messages are merged, entries of maps (of messages) replaced by key, and a repeated field as a whole.
    """
    for field, value in changes.ListFields():
        target = getattr(message, field.name)
        if hasattr(value, "GetEntryClass"):
            for key in value:
                target[key].CopyFrom(value[key])
        elif hasattr(value, "extend"):
            del target[:]
            target.extend(value)
        elif hasattr(value, "ListFields"):
            target.SetInParent()
            lay_over(target, value)
        else:
            setattr(message, field.name, value)


def apply(profile: str, config: Any, folder: Path = FOLDER) -> bool:
    """Lay what `profile` has for the model over its parsed configuration; False where that is nothing.

    Raises OperatorError for an overlay that does not parse, or that sets a parameter which the model does not have.
    """
    path = overlay(profile, config.name, folder)
    if path is None:
        return False
    changes = parse(path)
    for key in sorted(changes.parameters):
        if key not in config.parameters:
            raise OperatorError(f"{path}: {config.name} has no parameter {key!r}")
    lay_over(config, changes)
    return True
