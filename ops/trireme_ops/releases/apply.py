"""`trireme release apply releases/llm.toml`: a file says which release is to be live, and everything follows from it.

    name = "r7"
    llm = "ensemble"                 # the default
    [versions]                       # as --set; what is not named is the newest version
    tensorrt_llm = 2
    [settings]
    max_num_sequences = 64
    [instances]
    preprocessing = 2
    [sampling]
    temperature = 0.7
    [promote]                        # how it goes live; the options of `promote`
    canary = [5, 25, 50]
    hold_s = 30
    [smoke]
    file = "smoke/ensemble.jsonl"    # relative to this file

The release is made if there is none of that name, and promoted wherever it is not live. Applied again, it does nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from ..errors import OperatorError
from ..layout import Layout
from .llm import DEFAULT_LLM
from .promote import Options
from .release import Release, create, differences, folder_of, propose, read_release
from .smoke import default_smoke, read_smoke
from .toml_file import Table, problems, read_toml

_Number = Annotated[int, Field(strict=True, ge=1)]


class PromoteTable(Table):
    """See `promote.Options`."""

    canary: tuple[Annotated[float, Field(gt=0, lt=100)], ...] = ()
    hold_s: Annotated[float, Field(ge=0)] = 10.0
    max_error_rate: Annotated[float, Field(ge=0, le=1)] = 0.001
    max_ttft_ratio: Annotated[float, Field(gt=0)] = 1.3
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.95
    max_unavailable: _Number | None = None
    keep_old: bool = False
    drain_timeout_s: Annotated[float, Field(gt=0)] = 600.0


class SmokeTable(Table):
    """file: see `smoke.read_smoke`; relative to the file that names it."""

    file: Path


class Declaration(Table):
    """What a file declares."""

    name: str
    llm: str = DEFAULT_LLM
    versions: Mapping[str, _Number] = Field(default_factory=dict)
    settings: Mapping[str, bool | int | float | str] = Field(default_factory=dict)
    instances: Mapping[str, _Number] = Field(default_factory=dict)
    sampling: Mapping[str, int | float | str] = Field(default_factory=dict)
    promote: PromoteTable = PromoteTable()
    smoke: SmokeTable | None = None

    @property
    def options(self) -> Options:
        """How it goes live."""
        return Options(**self.promote.model_dump())

    @property
    def changes(self) -> dict[str, str]:
        """As `release.propose` takes them."""
        found = {model: str(number) for model, number in self.versions.items()}
        for section in ("settings", "instances", "sampling"):
            for key, value in getattr(self, section).items():
                found[f"{section}.{key}"] = str(value).lower() if isinstance(value, bool) else str(value)
        return found


def read_declaration(path: Path) -> Declaration:
    """Read a file. Raises OperatorError naming file, key and value."""
    values = read_toml(path)
    try:
        return Declaration.model_validate(values)
    except ValidationError as error:
        raise OperatorError(f"{path}: {problems(error)}") from None


def declared(layout: Layout, path: Path, declaration: Declaration) -> Release:
    """The release that a file declares, made if there is none of that name.

    Raises OperatorError if there is one that says otherwise: releases never change.
    """
    smoke = None
    if declaration.smoke is not None:
        smoke = tuple(item.to_json() for item in read_smoke(path.parent / declaration.smoke.file))
    else:
        smoke = default_smoke(layout, declaration.llm)
    wanted = propose(layout, declaration.name, declaration.llm, declaration.changes, smoke=smoke)
    if (folder_of(layout) / f"{declaration.name}.json").exists():
        there = read_release(layout, declaration.name)
        # What the file leaves open was decided when the release was made.
        open_models = set(there.versions) - set(declaration.versions)
        different = [line for line in differences(there, wanted) if line[0] not in open_models and line[0] != "smoke"]
        if different:
            key, old, new = different[0]
            raise OperatorError(
                f"{path}: {key} is {new}, and the release {there.name} has {old}; releases never change: give it "
                "another name"
            )
        return there
    create(layout, wanted)
    return wanted
