"""Where things are: the repository's root, the two Triton repositories, and the state that is kept between runs."""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trireme_runtime.checkout import checkout_root, version_folders
from trireme_runtime.manifest import read_manifest

from .errors import OperatorError

#: The engine of versions whose manifest names none.
DEFAULT_ENGINE = "openvino"


@dataclass(frozen=True)
class Layout:
    """The folders of one checkout. `root` holds model_repository/ and ensembles/.

    pinned: model -> the version that is served of it, whatever its configuration says, because a release is live.
    """

    root: Path
    pinned: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def find(cls) -> "Layout":
        """The checkout that $TRIREME_ROOT names, or that this package lies in.

        Raises OperatorError if there is no model repository.
        """
        try:
            return cls(checkout_root())
        except FileNotFoundError as error:
            raise OperatorError(str(error)) from error

    @property
    def repositories(self) -> tuple[Path, Path]:
        """The two Triton model repositories: the models, and the graphs that join them."""
        return self.root / "model_repository", self.root / "ensembles"

    @property
    def state(self) -> Path:
        """What `serve` keeps: control key, logs, the assembled backend."""
        return self.root / ".trireme"

    @property
    def engine_versions(self) -> list[Path]:
        """Every version folder that a server loads, and whose engine is made from a checkpoint at the first serve."""
        return [
            version
            for version in self.served_versions
            if read_manifest(version).get("source") and engine_of(version) == DEFAULT_ENGINE
        ]

    @property
    def versions(self) -> list[Path]:
        """Every version folder of every model."""
        models = sorted(path for path in (self.root / "model_repository").iterdir() if path.is_dir())
        return [version for model in models for version in version_folders(model)]

    @property
    def served_versions(self) -> list[Path]:
        """Every version folder of every model that a server loads."""
        # Not needed, and slow to import, where a command only calls a server.
        from google.protobuf.text_format import ParseError

        from trireme_runtime.model_config import read_config, served_versions

        served = []
        for model in sorted({version.parent for version in self.versions}):
            folders = {int(folder.name): folder for folder in version_folders(model)}
            numbers = list(folders)
            # A configuration that is missing or cannot be read is a finding of the checks; Triton loads nothing then.
            with contextlib.suppress(OSError, UnicodeDecodeError, ParseError):
                numbers = served_versions(read_config(model / "config.pbtxt"), numbers)
            if model.name in self.pinned:
                numbers = [self.pinned[model.name]]
            served += [folders[number] for number in numbers if number in folders]
        return served

    def has_model(self, name: str, version: str | None = None) -> bool:
        """Whether either repository has a model of this name, and of this version if one is named."""
        for repository in self.repositories:
            for folder in repository.iterdir():
                if folder.is_dir() and folder.name == name:
                    return version is None or version in [path.name for path in version_folders(folder)]
        return False

    def control_key(self) -> str:
        """The key to the control APIs, from a file that only its owner can read; made where there is none.

        Whoever finds the file finds it written: of several that begin at once, one makes it. Raises OperatorError if
        others can read it, or if it is empty.
        """
        path = self.state / "control.key"
        self.state.mkdir(exist_ok=True)
        if not path.exists():
            _write_once(path, secrets.token_urlsafe(32) + "\n")
        if path.stat().st_mode & 0o077:
            raise OperatorError(f"{path} can be read by others. Type: chmod 600 {path}")
        key = path.read_text(encoding="ascii").strip()
        if not key:
            raise OperatorError(f"{path} is empty, and would let anybody in. Type: rm {path}")
        return key


def _write_once(path: Path, text: str) -> None:
    """A file of its owner, whole from the moment that it has its name; one that is there stays."""
    # mkstemp's files are for their owner alone.
    descriptor, staging = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
        with contextlib.suppress(FileExistsError):
            os.link(staging, path)
    finally:
        Path(staging).unlink()


def engine_of(version: Path) -> str:
    """The engine adapter that a version of an engine model is for. Raises ManifestError if it has no manifest."""
    return str(read_manifest(version).get("engine", DEFAULT_ENGINE))
