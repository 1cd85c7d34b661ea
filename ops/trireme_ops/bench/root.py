"""A repository to measure: the committed one with another engine, in a folder of its own."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from google.protobuf import text_format

from trireme_runtime.checkout import version_folders
from trireme_runtime.manifest import read_manifest, write_manifest
from trireme_runtime.model_config import read_config

from ..layout import Layout

_NAIVE = Path(__file__).parent / "naive"
_NAIVE_ENSEMBLES = Path(__file__).parent / "naive_ensembles"


@dataclass(frozen=True)
class NullModel:
    """What the null engine's config.json says; see `trireme_runtime.engines.null`."""

    vocab_size: int
    silent_ids: tuple[int, ...]
    max_position_embeddings: int = 65_536
    steps_per_s: float = 0.0
    first_token_ms: float = 0.0
    token_ms: float = 0.0
    seed: int = 0
    hang_after_steps: int = -1
    hang: str = "sleep"

    @classmethod
    def of_tokenizer(cls, folder: Path, steps_per_s: float = 0.0) -> "NullModel":
        """All ids of the tokenizer but the special ones."""
        from trireme_runtime.tokenizing import load_tokenizer

        tokenizer = load_tokenizer(folder)
        return cls(len(tokenizer), tuple(sorted(tokenizer.all_special_ids)), steps_per_s=steps_per_s)

    def write(self, folder: Path) -> None:
        """Make the engine folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")


def set_parameters(model: Path, values: Mapping[str, str]) -> None:
    """Change parameters in the config.pbtxt of a model. Raises KeyError for one that is not there."""
    path = model / "config.pbtxt"
    config = read_config(path)
    for key, value in values.items():
        if key not in config.parameters:
            raise KeyError(f"{path} has no parameter {key!r}")
        config.parameters[key].string_value = value
    path.write_text(text_format.MessageToString(config), encoding="utf-8")


def copy_repositories(layout: Layout, target: Path, settings: Mapping[str, str]) -> Layout:
    """A copy of both repositories under `target`, with parameters of `tensorrt_llm` changed.

    Of each model the oldest version alone, and no engine.
    """
    from trireme_build.publish import make_writable

    ignore = shutil.ignore_patterns("__pycache__", "engine")
    for repository in layout.repositories:
        shutil.copytree(repository, target / repository.name, ignore=ignore)
        for model in sorted(path for path in (target / repository.name).iterdir() if path.is_dir()):
            for newer in version_folders(model)[1:]:
                make_writable(newer)
                shutil.rmtree(newer)
    set_parameters(target / "model_repository" / "tensorrt_llm", settings)
    return Layout(target)


def use_null_engine(layout: Layout, model: NullModel) -> None:
    """Put the null engine in the place of the engine of `tensorrt_llm`."""
    folder = layout.root / "model_repository" / "tensorrt_llm"
    (version,) = version_folders(folder)
    model.write(version / "engine")
    origin = {key: value for key, value in read_manifest(version).items() if key not in ("files", "source")}
    write_manifest(version, origin)
    set_parameters(folder, {"engine": "null"})


def add_naive(layout: Layout, model: NullModel) -> None:
    """Add the models and the ensemble `naive`, the baseline: one message a token, decoded by itself."""
    repository, ensembles = layout.repositories
    shutil.copytree(_NAIVE, repository, dirs_exist_ok=True)
    shutil.copytree(_NAIVE_ENSEMBLES, ensembles, dirs_exist_ok=True)
    model.write(repository / "engine_naive" / "1" / "engine")
    tokenizer = repository / "postprocessing_naive" / "1" / "tokenizer"
    shutil.copytree(repository / "postprocessing" / "1" / "tokenizer", tokenizer)
    for name in ("engine_naive", "postprocessing_naive"):
        write_manifest(repository / name / "1", {"model": name, "version": 1, "recipe": "trireme bench"})
