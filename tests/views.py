"""A folder that Triton serves releases from, made by hand: links to versions, and configurations made for them."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from trireme_ops.layout import Layout
from trireme_ops.releases.graphs import alias_config, ensemble_config, scoped_config
from trireme_ops.releases.llm import DEFAULT_LLM, Llm
from trireme_runtime.model_config import read_config

LLM = Llm.named(DEFAULT_LLM)


@dataclass(frozen=True)
class HandMade:
    """A release: the checkout that its versions are taken from, the oldest of each, and how they run."""

    layout: Layout
    settings: Mapping[str, str] = field(default_factory=dict)
    instances: Mapping[str, int] = field(default_factory=dict)
    sampling: Mapping[str, str] = field(default_factory=dict)


def make_view(root: Path, releases: Mapping[str, HandMade], live: str) -> Layout:
    """A root that serves all of `releases`, and one of them under the public names."""
    models, ensembles = root / "model_repository", root / "ensembles"
    for name, release in releases.items():
        for model in LLM.steps:
            config = read_config(release.layout.root / "model_repository" / model / "config.pbtxt")
            instances = release.instances.get(model)
            made = scoped_config(config, LLM, name, release.settings, instances, release.sampling)
            folder = _write(models, made)
            (folder / "1").symlink_to(release.layout.root / "model_repository" / model / "1")
            if name == live:
                (_write(ensembles, alias_config(config, LLM, name)) / "1").mkdir()
        for ensemble in LLM.ensembles:
            config = read_config(release.layout.root / "ensembles" / ensemble / "config.pbtxt")
            for public in (False, True) if name == live else (False,):
                (_write(ensembles, ensemble_config(config, name, public)) / "1").mkdir()
    shutil.copytree(releases[live].layout.root / "model_repository" / LLM.unary, models / LLM.unary)
    return Layout(root)


def _write(repository: Path, config: model_config_pb2.ModelConfig) -> Path:
    folder = repository / config.name
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")
    return folder
