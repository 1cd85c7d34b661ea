"""Versions as the report sees them: found by name, verified, and their figures checked."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trireme_runtime.checkout import version_folders
from trireme_runtime.manifest import MANIFEST, SIGNATURE, ManifestError, verify_manifest

from ..errors import OperatorError
from ..layout import DEFAULT_ENGINE, Layout

#: As many as there are colours that can be told apart.
MOST_VERSIONS = 8

#: The model whose versions a bare number names.
MODEL = "tensorrt_llm"

#: The key of "exact_match" that is over all tasks.
ALL = "all"

_MODEL_AND_NUMBER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*/[0-9]+")


@dataclass(frozen=True)
class Accuracy:
    """What a manifest says of a version's accuracy; None where it says nothing.

    kl is in nats, top1 and exact_match are shares. tokens: how many kl, top1 and perplexity are means over; answers:
    how many exact_match["all"] is over.
    """

    kl: float | None = None
    top1: float | None = None
    perplexity: float | None = None
    source_perplexity: float | None = None
    tokens: int | None = None
    answers: int | None = None
    exact_match: Mapping[str, float] = field(default_factory=dict)

    @property
    def overall(self) -> float | None:
        """Exact match over all tasks."""
        return self.exact_match.get(ALL)

    @property
    def tasks(self) -> list[str]:
        """The tasks that exact match was measured on, each by itself."""
        return [task for task in self.exact_match if task != ALL]


@dataclass(frozen=True)
class Version:
    """A version whose files are what its manifest says.

    manifest: its own keys, and those of a generated engine's manifest that it lacks. size_bytes: of the whole folder;
    engine_bytes: of engine/ in it.
    """

    folder: Path
    manifest: Mapping[str, Any]
    accuracy: Accuracy
    size_bytes: int
    engine_bytes: int
    is_signed: bool

    @property
    def model(self) -> str:
        """The model that it is a version of."""
        return str(self.manifest.get("model", self.folder.parent.name))

    @property
    def number(self) -> str:
        """Its number."""
        return str(self.manifest.get("version", self.folder.name))

    @property
    def name(self) -> str:
        """MODEL/N."""
        return f"{self.model}/{self.number}"

    @property
    def quantization(self) -> str:
        """How its weights are quantized, as far as the manifest says."""
        return str(self.manifest.get("quantization", "quantization unknown"))

    @property
    def engine(self) -> str:
        """The engine that it is for."""
        return str(self.manifest.get("engine", DEFAULT_ENGINE))

    @property
    def checkpoint(self) -> str | None:
        """The path of the checkpoint that it was made from."""
        made_from = self.manifest.get("made_from") or self.manifest.get("source")
        return str(made_from["checkpoint"]) if isinstance(made_from, dict) and "checkpoint" in made_from else None

    @property
    def tools(self) -> Mapping[str, str]:
        """The tools that made it, and their versions."""
        tools = self.manifest.get("tools")
        return {str(name): str(version) for name, version in tools.items()} if isinstance(tools, dict) else {}


def read_versions(names: Sequence[str], layout: Layout) -> list[Version]:
    """The versions that the operator named, in that order.

    Raises OperatorError, naming it, for one that is not there, is named twice, cannot be verified, or whose figures
    make no sense.
    """
    if len(names) > MOST_VERSIONS:
        raise OperatorError(f"{len(names)} versions are too many for one page; at most {MOST_VERSIONS} can be compared")
    folders: dict[Path, str] = {}
    for name in names:
        folder = _find(name, layout)
        if folder in folders:
            raise OperatorError(f"version {name} is named twice (also as {folders[folder]})")
        folders[folder] = name
    return [_read(folder, name, layout) for folder, name in folders.items()]


def _find(name: str, layout: Layout) -> Path:
    models = layout.root / "model_repository"
    if name.isdecimal() and name.isascii():
        folder = models / MODEL / name
    elif not (folder := Path(name)).is_dir() and _MODEL_AND_NUMBER.fullmatch(name):
        folder = models / name
    if not name or not folder.is_dir():
        there = ", ".join(path.name for path in version_folders(models / MODEL)) or "none"
        raise OperatorError(
            f"version {name!r} is not there; name a folder, MODEL/N, or a number of {MODEL} (there: {there})"
        )
    return folder.resolve()


def _read(folder: Path, name: str, layout: Layout) -> Version:
    try:
        manifest = verify_manifest(folder)
        _ensure_engine(folder, manifest, name, layout)
        engine = folder / "engine"
        if not engine.is_dir():
            raise OperatorError(f"version {name}: {folder} holds no engine/; only versions of engines can be compared")
        # A generated engine has a manifest of its own, which knows what the version's does not.
        generated = verify_manifest(engine) if (engine / MANIFEST).is_file() else {}
        accuracy = _accuracy(manifest.get("accuracy"))
    except ManifestError as error:
        raise OperatorError(f"version {name} is not what its manifest says: {error}") from error
    except ValueError as error:
        raise OperatorError(f"version {name}: {folder / MANIFEST}: {error}") from error
    return Version(
        folder=folder,
        manifest={**generated, **manifest},
        accuracy=accuracy,
        size_bytes=sum(_sizes(folder)),
        engine_bytes=sum(_sizes(engine)),
        is_signed=(folder / SIGNATURE).is_file(),
    )


def _ensure_engine(folder: Path, manifest: Mapping[str, Any], name: str, layout: Layout) -> None:
    """Make the engine of a version that is committed without it, as `trireme serve` does."""
    if not manifest.get("source"):
        return
    from trireme_build.engine_folder import ensure_engine
    from trireme_build.errors import CheckpointError

    # Of another checkout, where the path leads there: the checkpoint's is relative to that.
    inside = folder.parent.parent.name == "model_repository"
    root = folder.parent.parent.parent if inside else layout.root
    try:
        ensure_engine(folder, root)
    except (CheckpointError, KeyError, RuntimeError) as error:
        raise OperatorError(f"version {name}: its engine cannot be made: {error}") from error


def _sizes(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.stat().st_size


def _accuracy(values: Any) -> Accuracy:
    """Raises ValueError naming the key and the value."""
    if values is None:
        return Accuracy()
    if not isinstance(values, dict):
        raise ValueError(f"accuracy has the value {values!r}; it must be an object")
    matches = values.get("exact_match", {})
    if not isinstance(matches, dict):
        raise ValueError(f"exact_match has the value {matches!r}; it must be an object")
    return Accuracy(
        kl=_number(values, "kl"),
        top1=_number(values, "top1", 1.0),
        perplexity=_number(values, "perplexity"),
        source_perplexity=_number(values, "source_perplexity"),
        tokens=_count(values, "tokens"),
        answers=_count(values, "answers"),
        exact_match={task: value for task in matches if (value := _number(matches, task, 1.0)) is not None},
    )


def _number(values: Mapping[str, Any], key: str, most: float = math.inf) -> float | None:
    value = values.get(key)
    if value is None:
        return None
    # JSON as Python reads it knows NaN and Infinity.
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{key} has the value {value!r}; it must be a number")
    if not 0 <= value <= most:
        raise ValueError(f"{key} has the value {value!r}; it must be at least 0{f', at most {most:g}' * (most < 2)}")
    return float(value)


def _count(values: Mapping[str, Any], key: str) -> int | None:
    value = _number(values, key)
    return None if value is None else int(value)
