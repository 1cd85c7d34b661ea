"""One build: its recipe, its folder, and the stages that have been done in it."""

import fcntl
import hashlib
import json
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from trireme_runtime.manifest import ManifestError, read_manifest, verify_manifest, write_manifest

from ..engine_folder import source_of
from ..errors import BuildError
from ..memory import forget_peak, peak_rss, release
from ..progress import Progress
from ..recipe import Recipe


@dataclass(frozen=True)
class Build:
    """A recipe to be carried out in the checkout `root`. key: the private one that the version is signed with."""

    recipe: Recipe
    root: Path
    key: Path | None = None
    #: What the stages found so far, by their names.
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: The SHA-256 of what each stage wrote, and of what it depended on.
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where it works."""
        return self.root / ".trireme" / "builds" / self.recipe.name

    @cached_property
    def source(self) -> dict[str, Any]:
        """Where the checkpoint is, and the SHA-256 of its files."""
        return source_of(self.recipe.source.checkpoint, self.root)

    def folder_of(self, stage: str) -> Path:
        """What a stage wrote."""
        return self.folder / stage


@dataclass(frozen=True)
class Stage:
    """One step of a build.

    applies: whether a recipe has it. inputs: what its result depends on, besides the stages named in `after`. run:
    writes files into an empty folder; what it found, for a manifest and for the screen (under "summary").
    always: run it even if nothing has changed, since what it did lies elsewhere.
    """

    name: str
    applies: Callable[[Recipe], bool]
    inputs: Callable[[Build], Mapping[str, Any]]
    run: Callable[[Build, Path, Progress], dict[str, Any]]
    after: Sequence[str] = ()
    always: bool = False


def digest_of(values: Mapping[str, Any]) -> str:
    """The SHA-256 of JSON values, the order of keys aside."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def carry_out(build: Build, stages: Sequence[Stage], say: Callable[[str], None] = print) -> None:
    """Run the stages that a recipe has, in order; those whose inputs have not changed are skipped.

    Raises BuildError, also if the same recipe is being built by another process.
    """
    build.folder.mkdir(parents=True, exist_ok=True)
    with _alone(build):
        for stage in stages:
            if stage.applies(build.recipe):
                _carry_out(build, stage, say)


def _carry_out(build: Build, stage: Stage, say: Callable[[str], None]) -> None:
    upstream = {name: build.digests[name] for name in stage.after if name in build.digests}
    inputs = digest_of({"stage": stage.name, "inputs": stage.inputs(build), "after": upstream})
    label = f"{build.recipe.name}: {stage.name}"
    before = None if stage.always else _done_before(build, stage, inputs)
    if before is not None:
        _note(build, stage, "skipped", inputs=inputs)
        say(f"{label:36} unchanged   {before['result'].get('summary', '')}")
        build.results[stage.name], build.digests[stage.name] = before["result"], _output_digest(before)
        return
    _note(build, stage, "started", inputs=inputs)
    began = time.monotonic()
    staging = build.folder / f"{stage.name}.staging"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    release()
    forget_peak()
    try:
        with _bar(label) as progress:
            result = stage.run(build, staging, progress)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        expected = isinstance(error, (BuildError, ManifestError, KeyboardInterrupt))
        further = {} if expected else {"traceback": traceback.format_exc()}
        seconds = round(time.monotonic() - began, 2)
        _note(build, stage, "failed", seconds=seconds, error=str(error) or repr(error), **further)
        if expected or not isinstance(error, Exception):
            raise
        raise BuildError(
            f"the stage {stage.name} failed: {type(error).__name__}: {error} (more in {build.folder / 'build.log'})"
        ) from error
    seconds, peak = round(time.monotonic() - began, 2), peak_rss()
    write_manifest(staging, {"stage": stage.name, "inputs": inputs, "result": result})
    final = build.folder_of(stage.name)
    if final.exists():
        shutil.rmtree(final)
    staging.rename(final)
    _note(build, stage, "done", seconds=seconds, peak_rss=peak, inputs=inputs, result=result)
    say(f"{label:36} {seconds:7.1f} s   {result.get('summary', '')}")
    build.results[stage.name] = result
    build.digests[stage.name] = _output_digest(read_manifest(final))


def _done_before(build: Build, stage: Stage, inputs: str) -> dict[str, Any] | None:
    """The manifest of what a stage wrote, if it is whole and was made of the same inputs."""
    try:
        manifest = verify_manifest(build.folder_of(stage.name))
    except (ManifestError, OSError):
        return None
    return manifest if manifest.get("inputs") == inputs else None


def _output_digest(manifest: Mapping[str, Any]) -> str:
    return digest_of({"files": manifest["files"], "inputs": manifest["inputs"]})


@contextmanager
def _alone(build: Build) -> Iterator[None]:
    with (build.folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildError(f"{build.recipe.name}: is being built by another process") from None
        yield


@contextmanager
def _bar(label: str) -> Iterator[Progress]:
    """A progress bar on a terminal; nothing elsewhere, and nothing for a stage that does not count its steps."""
    from tqdm import tqdm

    bar: Any = None
    # Stages may silence libraries that write to it.
    screen = sys.stderr

    def progress(done: int, total: int) -> None:
        nonlocal bar
        if bar is None or bar.total != total or done < bar.n:
            if bar is not None:
                bar.close()
            bar = tqdm(total=total, desc=label, file=screen, leave=False, disable=None)
        bar.update(done - bar.n)

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()


def _note(build: Build, stage: Stage, state: str, **values: Any) -> None:
    """A line of the build log: JSON, with the time in UTC."""
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    line = {"time": now, "recipe": build.recipe.name, "stage": stage.name, "state": state, **values}
    with (build.folder / "build.log").open("a", encoding="utf-8") as log:
        log.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
