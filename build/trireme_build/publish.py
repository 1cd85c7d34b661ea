"""Publishes a version: staged whole on the same file system, flushed to the disk, and renamed to the next number."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
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

#: The engine model of an LLM; another LLM's has its name in front.
ENGINE_MODEL = "tensorrt_llm"

#: The models of an LLM that have its tokenizer, named alike.
TOKENIZING = ("preprocessing", "postprocessing")

#: Within a version.
_TOKENIZER = Path("tokenizer", "tokenizer.json")

#: Where versions are staged, below the root: outside every model folder, where Triton would take one for a version.
_STATE = ".trireme"


@dataclass(frozen=True)
class Candidate:
    """What becomes a version of the engine model `model` below `root`/model_repository.

    engine_folder: copied as `engine/`. origin: further keys of the manifest; origin["build"]["digest"] tells whether it
    has been published before. with_tokenizer: whether the checkpoint's tokenizer is published along with it, so that it
    need not be one that the LLM has already.
    """

    root: Path
    model: str
    engine: str
    engine_folder: Path
    checkpoint: Path
    context_tokens: int
    origin: Mapping[str, Any]
    with_tokenizer: bool = False

    @property
    def model_folder(self) -> Path:
        """Where the versions are."""
        return self.root / "model_repository" / self.model


def check_target(candidate: Candidate) -> None:
    """Raise PublishError if the model is not there, runs another engine, or no version of its LLM has the tokenizer."""
    config = candidate.model_folder / "config.pbtxt"
    if not config.is_file():
        raise PublishError(f"{candidate.model_folder}: no such model; trireme add makes one for another LLM")
    engine = read_parameters(config).get("engine")
    if engine != candidate.engine:
        raise PublishError(
            f"{config}: runs the engine {engine}, and this version is for {candidate.engine}; publish it into a "
            "repository that was rendered for it: trireme render PROFILE DIR, then TRIREME_ROOT=DIR trireme build ..."
        )
    for part in TOKENIZING:
        model = candidate.root / "model_repository" / candidate.model.replace(ENGINE_MODEL, part)
        tokenizers = [path for version in version_folders(model) if (path := version / _TOKENIZER).is_file()]
        if not tokenizers:
            raise PublishError(f"{model}: has no version with a tokenizer; {candidate.model} is served with it")
        ours = candidate.checkpoint / "tokenizer.json"
        if candidate.with_tokenizer or any(path.read_bytes() == ours.read_bytes() for path in tokenizers):
            continue
        raise PublishError(
            f"{ours}: is another tokenizer than {tokenizers[-1]}; publish it along with the engine "
            f"(publish.tokenizer = true), or make a family of its own for it: trireme add NAME --checkpoint "
            f'{candidate.checkpoint}, then publish.model = "NAME_tensorrt_llm"'
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
    return publish_version(
        candidate.root,
        candidate.model,
        lambda: published_before(candidate),
        lambda staging, number: _fill(staging, candidate, number),
        key,
    )


def publish_version(
    root: Path,
    model: str,
    before: Callable[[], Path | None],
    fill: Callable[[Path, int], None],
    key: Path | None,
) -> Published:
    """Publish a version of `model`, unless `before` names one that is the same.

    fill: makes the folder that it gets, for the number that it gets, manifest included. Raises as `publish` does.
    """
    model_folder = root / "model_repository" / model
    with _publishing(root, model_folder) as staging_root:
        found = before()
        if found is not None:
            if key is not None:
                _ensure_signed(found, key)
            make_read_only(found)
            return Published(found, False, int(version_folders(model_folder)[-1].name))
        staging = staging_root / "version"
        versions = version_folders(model_folder)
        number = int(versions[-1].name) + 1 if versions else 1
        fill(staging, number)
        if key is not None:
            sign(staging, key)
        flush(staging)
        target = model_folder / str(number)
        if target.exists():
            raise PublishError(f"{target}: has just been made by another")
        staging.rename(target)
        _flush_entry(model_folder)
        make_read_only(target)
        return Published(target, True, number)


@contextmanager
def _publishing(root: Path, model_folder: Path) -> Iterator[Path]:
    """A folder to stage in, while nobody else publishes; what others left when they were killed is removed."""
    state = root / _STATE
    state.mkdir(exist_ok=True)
    if state.stat().st_dev != model_folder.stat().st_dev:
        raise PublishError(f"{state}: is on another file system than {model_folder}, and cannot be renamed to it")
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
