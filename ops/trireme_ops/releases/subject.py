"""A release beside the files that it pins: what its checks look at, each read once."""

from functools import cached_property
from pathlib import Path
from typing import Any

from tritonclient.grpc import model_config_pb2

from trireme_runtime.model_config import read_config
from trireme_runtime.tokenizing import load_tokenizer

from ..checks import Finding, Status
from ..errors import OperatorError
from ..layout import Layout
from .engine_facts import EngineFacts, read_facts
from .llm import Llm
from .release import Release


class Subject:
    """sm: the compute capability of the GPU that the engine will run on, 90 for 9.0, if there is one.

    What cannot be read raises OperatorError, ManifestError, TokenizerError, OSError or ParseError.
    """

    def __init__(self, layout: Layout, release: Release, llm: Llm, sm: int | None) -> None:
        self.layout = layout
        self.release = release
        self.llm = llm
        self._sm = sm
        self._tokenizers: dict[str, Any] = {}

    def folder(self, model: str) -> Path:
        """The version of a model that is pinned."""
        return self.release.version_folder(self.layout, model)

    @staticmethod
    def config(model: Path) -> model_config_pb2.ModelConfig:
        """The config.pbtxt in a model's folder."""
        return read_config(model / "config.pbtxt")

    @cached_property
    def parameters(self) -> dict[str, str]:
        """Those of the engine model, as in its config.pbtxt."""
        config = self.config(self.layout.repositories[0] / self.llm.engine)
        return {key: parameter.string_value for key, parameter in config.parameters.items()}

    def setting(self, key: str) -> str:
        """What it is served with: as the release says, or config.pbtxt. Raises OperatorError where neither does."""
        value = self.release.settings.get(key, self.parameters.get(key))
        if value is None:
            raise OperatorError(f"the setting {key!r} is unknown to {self.llm.engine}")
        return value

    def whole(self, key: str) -> int:
        """A setting that is a whole number. Raises OperatorError naming it if it is none."""
        value = self.setting(key)
        if not value.isascii() or not value.isdecimal():
            raise OperatorError(f"the setting {key} has the value {value[:40]!r}; it must be a whole number")
        return int(value)

    @cached_property
    def instances(self) -> int:
        """How many processes preprocessing has."""
        model = self.llm.preprocessing
        groups = self.config(self.layout.repositories[0] / model).instance_group
        configured = sum(group.count or 1 for group in groups) or 1
        return self.release.instances.get(model, configured)

    @cached_property
    def facts(self) -> EngineFacts:
        """What the engine's files say."""
        return read_facts(
            self.folder(self.llm.engine), self.layout.root, self.parameters.get("engine_dir", "engine"), self._sm
        )

    def tokenizer_folder(self, model: str) -> Path:
        """Where a version has its tokenizer."""
        config = self.config(self.layout.repositories[0] / model)
        return self.folder(model) / (config.parameters["tokenizer_dir"].string_value or "tokenizer")

    def tokenizer(self, model: str) -> Any:
        """The tokenizer of a model's version."""
        if model not in self._tokenizers:
            self._tokenizers[model] = load_tokenizer(self.tokenizer_folder(model))
        return self._tokenizers[model]

    def label(self, model: str) -> str:
        """A version for people."""
        return f"{model}/{self.release.versions[model]}"


def ok(check: str, detail: str) -> Finding:
    """Nothing is wrong."""
    return Finding(check, Status.OK, detail)


def note(check: str, detail: str, fix: str = "") -> Finding:
    """Something to know."""
    return Finding(check, Status.NOTE, detail, fix)


def fails(check: str, detail: str, fix: str = "trireme release create, with something else") -> Finding:
    """It must not go live."""
    return Finding(check, Status.FAIL, detail, fix)
