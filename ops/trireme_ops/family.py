"""Families of models: one LLM each, under names of its own, made after the committed one.

The family `tiny` is the models tiny_preprocessing, tiny_tensorrt_llm and tiny_postprocessing, the ensembles tiny and
tiny_llmapi over them, and tiny_unary. No code is copied: a version's model.py names a model of `trireme_runtime`.
"""

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from trireme_runtime.manifest import ManifestError, read_manifest, write_manifest
from trireme_runtime.model_config import read_config
from trireme_runtime.settings import FLAGS, NUMBERS, WHOLE_NUMBERS
from trireme_runtime.toml_file import TomlError, read_toml

from .errors import OperatorError
from .layout import DEFAULT_ENGINE, Layout

#: In the manifest of every version that belongs to an added family.
RECIPE = "trireme add"

#: What a family can be called.
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")

#: The committed family: (repository, model) -> the name that it has in a family called {0}.
_MODELS = {
    ("model_repository", "preprocessing"): "{0}_preprocessing",
    ("model_repository", "tensorrt_llm"): "{0}_tensorrt_llm",
    ("model_repository", "postprocessing"): "{0}_postprocessing",
    ("model_repository", "ensemble_unary"): "{0}_unary",
    ("ensembles", "ensemble"): "{0}",
    ("ensembles", "llmapi"): "{0}_llmapi",
}

#: Parameters of the engine model's configuration that a family may have values of its own for.
SETTINGS = (*WHOLE_NUMBERS, *NUMBERS, *FLAGS)


@dataclass(frozen=True)
class FamilySpec:
    """What to add. settings: values of SETTINGS, as in config.pbtxt. weights: how they are stored, a WeightFormat.

    Raises OperatorError for what cannot be.
    """

    name: str
    checkpoint: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    weights: str = "f32"

    def __post_init__(self) -> None:
        from trireme_build.matrices import WeightFormat

        if not NAME.fullmatch(self.name):
            raise OperatorError(
                f"the name {self.name!r} cannot be used; allowed are up to 40 of a-z, 0-9 and _, a letter first"
            )
        formats = [weight_format.value for weight_format in WeightFormat]
        if self.weights not in formats:
            raise OperatorError(f"weights {self.weights[:40]!r} are unknown; known are {', '.join(formats)}")
        for key, value in self.settings.items():
            check_setting(key, value)


def check_setting(key: str, value: str) -> None:
    """Raise OperatorError if an engine model cannot have this value of a setting."""
    limits = {**WHOLE_NUMBERS, **NUMBERS}
    if key not in SETTINGS:
        raise OperatorError(f"the setting {key!r} is unknown; known are {', '.join(SETTINGS)}")
    lowest, highest = limits.get(key, (0, 0))
    number = value.isascii() and value.isdecimal() and len(value) < 12 and lowest <= int(value) <= highest
    if not (number if key in limits else value in ("true", "false")):
        wanted = f"a whole number from {lowest} to {highest}" if key in limits else "true or false"
        raise OperatorError(f"the setting {key} has the value {value[:40]!r}; it must be {wanted}")


def read_spec(path: Path) -> FamilySpec:
    """A spec file: TOML with name, checkpoint (relative to the file), weights and a table settings."""
    try:
        values = read_toml(path)
    except TomlError as error:
        raise OperatorError(str(error)) from error
    for key in values.keys() - {"name", "checkpoint", "weights", "settings"}:
        raise OperatorError(f"{path}: the key {key!r} is unknown; known are name, checkpoint, weights and settings")
    values.setdefault("weights", "f32")
    for key in ("name", "checkpoint", "weights"):
        if not isinstance(values.get(key), str):
            raise OperatorError(f"{path}: {key} is {values.get(key)!r}; a string is needed")
    settings = values.get("settings", {})
    if not isinstance(settings, dict):
        raise OperatorError(f"{path}: settings is {settings!r}; a table is needed")
    texts = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in settings.items()}
    return FamilySpec(values["name"], path.parent / values["checkpoint"], texts, values["weights"])


def model_names(family: str) -> list[str]:
    """The names of a family's models and ensembles."""
    return [pattern.format(family) for pattern in _MODELS.values()]


def add_family(layout: Layout, spec: FamilySpec) -> None:
    """Make the models and ensembles of a family, whole or not at all. The engine itself is made at the next serve.

    Raises OperatorError for a name that is taken, for a checkpoint that cannot be served, and in a root that was
    rendered for another engine.
    """
    _check_engine(layout)
    taken = {path.name.lower(): path for repository in layout.repositories for path in repository.iterdir()}
    for name in model_names(spec.name):
        if name in taken:
            raise OperatorError(f"the name {spec.name!r} is taken: {taken[name].relative_to(layout.root)} is there")
    checkpoint = spec.checkpoint.resolve()
    context, source = _check_checkpoint(checkpoint, layout.root)
    layout.state.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=layout.state, prefix="family-") as staging_name:
        staging = Path(staging_name)
        for (repository, model), pattern in _MODELS.items():
            target = staging / repository / pattern.format(spec.name)
            version = target / "1"
            version.mkdir(parents=True)
            _write_config(layout.root / repository / model / "config.pbtxt", target, spec)
            if repository == "model_repository":
                _fill_version(layout, model, version, spec, checkpoint, context, source)
            else:
                (version / ".gitkeep").touch()
        _move_in(layout, staging)


def _check_engine(layout: Layout) -> None:
    path = layout.root / "model_repository" / "tensorrt_llm" / "config.pbtxt"
    config = read_config(path)
    engine = config.parameters["engine"].string_value
    if engine != DEFAULT_ENGINE:
        raise OperatorError(
            f"{layout.root} is for the engine {engine}, and a checkpoint is made into one for {DEFAULT_ENGINE}; "
            "add the LLM to the checkout, and render that"
        )


def remove_family(layout: Layout, name: str) -> None:
    """Remove a family that `add_family` made. Raises OperatorError if there is none of that name."""
    folders = [
        folder
        for (repository, _), pattern in _MODELS.items()
        if (folder := layout.root / repository / pattern.format(name)).is_dir()
    ]
    engine = layout.root / "model_repository" / f"{name}_tensorrt_llm" / "1"
    try:
        added = NAME.fullmatch(name) is not None and read_manifest(engine).get("recipe") == RECIPE
    except ManifestError:
        added = False
    if not added:
        raise OperatorError(f"there is no added family {name!r}; added are: {', '.join(families(layout)) or 'none'}")
    # The ensembles first: without their models they would keep a server from starting.
    from trireme_build.publish import make_writable

    for folder in reversed(folders):
        make_writable(folder)
        shutil.rmtree(folder)


def families(layout: Layout) -> list[str]:
    """The names of the families that were added."""
    found = []
    for engine in (layout.root / "model_repository").glob("*_tensorrt_llm/1/manifest.json"):
        if read_manifest(engine.parent).get("recipe") == RECIPE:
            found.append(engine.parents[1].name.removesuffix("_tensorrt_llm"))
    return sorted(found)


def _check_checkpoint(checkpoint: Path, root: Path) -> tuple[int, dict[str, Any]]:
    """The context in tokens, and what a manifest says of the source."""
    from trireme_build.engine_folder import source_of
    from trireme_build.errors import CheckpointError
    from trireme_build.inspection import inspect_checkpoint

    try:
        return inspect_checkpoint(checkpoint).shape.max_positions, source_of(checkpoint, root)
    except (CheckpointError, KeyError) as error:
        raise OperatorError(f"the checkpoint cannot be served: {error}") from error


def _write_config(original: Path, target: Path, spec: FamilySpec) -> None:
    config = read_config(original)
    renamed = {model: pattern.format(spec.name) for (_, model), pattern in _MODELS.items()}
    config.name = target.name
    for step in config.ensemble_scheduling.step:
        step.model_name = renamed[step.model_name]
    for key in ("engine_model", "ensemble"):
        if key in config.parameters:
            config.parameters[key].string_value = renamed[config.parameters[key].string_value]
    for key, value in spec.settings.items():
        if key in config.parameters:
            config.parameters[key].string_value = value
    (target / "config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")


def _fill_version(
    layout: Layout,
    model: str,
    version: Path,
    spec: FamilySpec,
    checkpoint: Path,
    context: int,
    source: dict[str, Any],
) -> None:
    from trireme_build.tokenizer_folder import copy_tokenizer

    shutil.copyfile(layout.root / "model_repository" / model / "1" / "model.py", version / "model.py")
    origin: dict[str, Any] = {"model": version.parent.name, "version": 1, "recipe": RECIPE, "family": spec.name}
    if model != "ensemble_unary":
        copy_tokenizer(checkpoint, version / "tokenizer", context)
        origin["source" if model == "tensorrt_llm" else "made_from"] = source
    if model == "tensorrt_llm" and spec.weights != "f32":
        origin["weights"] = spec.weights
    write_manifest(version, origin)


def _move_in(layout: Layout, staging: Path) -> None:
    """Move everything to its place, models first; what was moved is taken back if one cannot be."""
    moved: list[Path] = []
    try:
        for repository in ("model_repository", "ensembles"):
            for folder in sorted((staging / repository).iterdir()):
                target = layout.root / repository / folder.name
                if target.exists():
                    raise OperatorError(f"the name is taken: {target.relative_to(layout.root)} has just been made")
                folder.rename(target)
                moved.append(target)
    except BaseException:
        # Ctrl-C too.
        for target in moved:
            shutil.rmtree(target)
        raise
