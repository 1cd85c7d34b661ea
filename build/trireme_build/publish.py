"""Publishes a version: staged whole on the same file system, flushed to the disk, and renamed to the next number."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trireme_runtime.checkout import version_folders
from trireme_runtime.manifest import SIGNATURE, ManifestError, read_manifest, write_manifest
from trireme_runtime.model_config import read_parameters
from trireme_runtime.versions import public_key_of, sign, verify_signature

from .errors import PublishError
from .tokenizer_folder import copy_tokenizer

#: What a version's model.py is: it names a model of the runtime.
_MODEL_PY = '''"""Token ids to token ids: the engine slot."""

from trireme_runtime.models.engine import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''

#: Where versions are staged, below the root: outside every model folder, where Triton would take one for a version.
_STATE = ".trireme"


@dataclass(frozen=True)
class Candidate:
    """What becomes a version of the engine model `model` below `root`/model_repository.

    engine_folder: copied as `engine/`. origin: further keys of the manifest; origin["build"]["digest"] tells whether it
    has been published before.
    """

    root: Path
    model: str
    engine: str
    engine_folder: Path
    checkpoint: Path
    context_tokens: int
    origin: Mapping[str, Any]

    @property
    def model_folder(self) -> Path:
        """Where the versions are."""
        return self.root / "model_repository" / self.model


def check_target(candidate: Candidate) -> None:
    """Raise PublishError if the model is not there, runs another engine, or its family has another tokenizer."""
    config = candidate.model_folder / "config.pbtxt"
    if not config.is_file():
        raise PublishError(f"{candidate.model_folder}: no such model; trireme add makes one for another LLM")
    engine = read_parameters(config).get("engine")
    if engine != candidate.engine:
        raise PublishError(
            f"{config}: runs the engine {engine}, and this version is for {candidate.engine}; publish it into a "
            "repository that was rendered for it: trireme render PROFILE DIR, then TRIREME_ROOT=DIR trireme build ..."
        )
    for part in ("preprocessing", "postprocessing"):
        model = candidate.root / "model_repository" / candidate.model.replace("tensorrt_llm", part)
        versions = version_folders(model)
        theirs = versions[-1] / "tokenizer" / "tokenizer.json" if versions else None
        if theirs is None or not theirs.is_file():
            raise PublishError(f"{model}: has no version with a tokenizer; {candidate.model} is served with it")
        if theirs.read_bytes() != (candidate.checkpoint / "tokenizer.json").read_bytes():
            raise PublishError(
                f"{candidate.checkpoint / 'tokenizer.json'}: is another tokenizer than {theirs}; make a family of its "
                f"own for it: trireme add NAME --checkpoint {candidate.checkpoint}, then publish.model = "
                '"NAME_tensorrt_llm"'
            )


def published_before(candidate: Candidate) -> Path | None:
    """The version that was published from the same build, if there is one."""
    for version in version_folders(candidate.model_folder):
        try:
            build = read_manifest(version).get("build", {})
        except ManifestError:
            continue
        if build.get("digest") == candidate.origin["build"]["digest"]:
            return version
    return None


@dataclass(frozen=True)
class Published:
    """A version's folder; new: whether it was published just now; newest: the number of the model's newest version."""

    folder: Path
    new: bool
    newest: int


def publish(candidate: Candidate, key: Path | None = None) -> Published:
    """Publish a version, signed where there is a private `key`. What is published already is not again.

    A crash leaves no new version, or a whole one. Raises PublishError, see `check_target`, and ManifestError for a key
    that cannot sign.
    """
    check_target(candidate)
    with _publishing(candidate) as staging_root:
        before = published_before(candidate)
        if before is not None:
            if key is not None:
                _ensure_signed(before, key)
            make_read_only(before)
            return Published(before, False, int(version_folders(candidate.model_folder)[-1].name))
        staging = staging_root / "version"
        versions = version_folders(candidate.model_folder)
        number = int(versions[-1].name) + 1 if versions else 1
        _fill(staging, candidate, number)
        if key is not None:
            sign(staging, key)
        flush(staging)
        target = candidate.model_folder / str(number)
        if target.exists():
            raise PublishError(f"{target}: has just been made by another")
        staging.rename(target)
        _flush_entry(candidate.model_folder)
        make_read_only(target)
        return Published(target, True, number)


@contextmanager
def _publishing(candidate: Candidate) -> Iterator[Path]:
    """A folder to stage in, while nobody else publishes; what others left when they were killed is removed."""
    state = candidate.root / _STATE
    state.mkdir(exist_ok=True)
    if state.stat().st_dev != candidate.model_folder.stat().st_dev:
        raise PublishError(
            f"{state}: is on another file system than {candidate.model_folder}, and cannot be renamed to it"
        )
    with (state / "publish.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for abandoned in state.glob("publish-*"):
            shutil.rmtree(abandoned)
        with tempfile.TemporaryDirectory(dir=state, prefix="publish-") as name:
            yield Path(name)


def _fill(staging: Path, candidate: Candidate, number: int) -> None:
    staging.mkdir()
    (staging / "model.py").write_text(_MODEL_PY, encoding="utf-8")
    copy_tokenizer(candidate.checkpoint, staging / "tokenizer", candidate.context_tokens)
    shutil.copytree(candidate.engine_folder, staging / "engine")
    write_manifest(staging, {"model": candidate.model, "version": number, **candidate.origin})


def flush(folder: Path) -> None:
    """Have the disk hold everything in a folder."""
    for path in sorted(folder.rglob("*")):
        _flush_entry(path)
    _flush_entry(folder)


def _flush_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_read_only(version: Path) -> None:
    """Take away everybody's right to write in a version."""
    for path in [version, *version.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)


def make_writable(version: Path) -> None:
    """Give its owner the right back, to remove it."""
    for path in [version, *version.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o200)


def _ensure_signed(version: Path, key: Path) -> None:
    if (version / SIGNATURE).is_file():
        with tempfile.NamedTemporaryFile() as public:
            public.write(public_key_of(key))
            public.flush()
            try:
                verify_signature(version, Path(public.name))
            except ManifestError:
                raise PublishError(f"{version}: is published already, and not signed with {key}") from None
        return
    version.chmod(version.stat().st_mode | 0o200)
    sign(version, key)
    flush(version)
