"""What a server serves, as the folder that its Triton sees: links to version folders, and configurations made for them.

    .trireme/servers/NAME/
        documents/r7.json         the releases that this server was given
        releases/r7/              their models under the names that they are loaded by: tensorrt_llm@r7/{config.pbtxt,2}
        views/12/                 one state of the repository, with view.json, which says it in words
        current -> views/12       what Triton sees; renaming this link is how the state changes, whole

A release's model folders are made once and only linked, so that Triton, which looks at times of files, never takes a
model that runs for one that has changed.
"""

import contextlib
import fcntl
import importlib.util
import json
import os
import py_compile
import shutil
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from trireme_runtime.checkout import version_folders
from trireme_runtime.model_config import read_config

from ..errors import OperatorError
from ..layout import Layout
from . import graphs
from .llm import Llm, llms, scoped, unscoped
from .release import Release, check_name, differences, now

_STATE = "view.json"


@dataclass(frozen=True)
class Served:
    """What a server serves of one LLM; None is what stands in the repositories, without a release.

    live: the release behind the public names, since when, in UTC. loaded: all that are in the server's memory. good:
    the ones that proved themselves, in the order in which they went live; the last but one is what to go back to.
    """

    live: str | None = None
    since: str = ""
    loaded: tuple[str | None, ...] = (None,)
    good: tuple[str, ...] = ()


@dataclass(frozen=True)
class ViewState:
    """What a view holds: LLM -> what is served of it. folders: of the repositories, as the server began with them."""

    number: int = 0
    llms: Mapping[str, Served] = field(default_factory=dict)
    folders: tuple[str, ...] = ()

    def of(self, llm: str) -> Served:
        """What is served of one LLM."""
        return self.llms.get(llm, Served())

    def with_llm(self, llm: str, served: Served) -> "ViewState":
        """The same with one LLM changed."""
        return replace(self, llms={**self.llms, llm: served})


class View:
    """The view of one server, in `folder`."""

    def __init__(self, layout: Layout, folder: Path) -> None:
        self._layout = layout
        self._folder = folder
        #: Held by whoever changes it.
        self.lock = threading.RLock()

    @classmethod
    def of_server(cls, layout: Layout, name: str) -> "View":
        """That of the server of this name."""
        return cls(layout, layout.state / "servers" / name)

    @property
    def folder(self) -> Path:
        """Where all of it is."""
        return self._folder

    @property
    def current(self) -> Path:
        """The model repository for Triton."""
        return self._folder / "current"

    def state(self) -> ViewState:
        """What the current view says of itself. Raises OperatorError if it is damaged."""
        path = self.current / _STATE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            served = {
                name: Served(
                    values["live"], values["since"], tuple(values["loaded"]), tuple(name for name in values["good"])
                )
                for name, values in document["llms"].items()
            }
            return ViewState(document["number"], served, tuple(document.get("folders", ())))
        except FileNotFoundError:
            return ViewState()
        except (ValueError, KeyError, TypeError) as error:
            raise OperatorError(f"{path}: damaged ({error}); rm -r {self._folder} forgets its releases") from error

    def begin(self) -> Sequence[Path]:
        """The repository for a server that starts: what is live, and nothing that was on trial when it ended."""
        with self.lock:
            state = self.state()
            served = {
                llm.name: replace(state.of(llm.name), loaded=(state.of(llm.name).live,)) for llm in llms(self._layout)
            }
            # Made anew: the checkout may have other configurations by now.
            for name in self._made():
                self.remove(name)
            # What is added to the checkout while a server runs is not loaded by it.
            folders = (path.name for repository in self._layout.repositories for path in repository.iterdir())
            self.write(ViewState(state.number, served, tuple(sorted(folders))))
        return (self.current,)

    def write(self, state: ViewState) -> ViewState:
        """Make the view of this state, and put it in the place of the current one at once."""
        state = replace(state, number=self._next_number())
        target = self._folder / "views" / str(state.number)
        target.mkdir(parents=True)
        self._fill(target, state)
        (target / _STATE).write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")
        staging = self._folder / f"current.{os.getpid()}"
        staging.unlink(missing_ok=True)
        staging.symlink_to(Path("views") / str(state.number))
        staging.rename(self.current)
        for old in (self._folder / "views").iterdir():
            # The one before is left: Triton may be reading it.
            if old.name.isdecimal() and int(old.name) < state.number - 1:
                shutil.rmtree(old)
        return state

    def _next_number(self) -> int:
        there = [int(path.name) for path in (self._folder / "views").glob("*") if path.name.isdecimal()]
        return max(there, default=0) + 1

    def document(self, release: str) -> Release:
        """A release that this server was given. Raises OperatorError if it was not."""
        check_name(release)
        path = self._folder / "documents" / f"{release}.json"
        try:
            return Release.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise OperatorError(f"this server was never given the release {release!r}") from None
        except ValueError as error:
            raise OperatorError(f"{path}: damaged: {error}") from error

    def add(self, release: Release) -> None:
        """Keep a release, and make its models' folders. Raises OperatorError, see `keep`."""
        self.keep(release)
        self._make(release)

    def keep(self, release: Release) -> None:
        """Remember a release. Raises OperatorError if one that this server needs has the same name."""
        documents = self._folder / "documents"
        documents.mkdir(parents=True, exist_ok=True)
        path = documents / f"{release.name}.json"
        if path.exists() and differences(self.document(release.name), release):
            served = self.state().llms.values()
            if any(release.name in (*value.loaded, *value.good) for value in served):
                raise OperatorError(f"this server knows another release that is called {release.name!r}")
        staging = path.with_name(f".{path.name}.{os.getpid()}")
        staging.write_text(json.dumps(release.to_json(), ensure_ascii=False), encoding="utf-8")
        staging.rename(path)

    def _make(self, release: Release) -> None:
        """Make the folders of a release's models, which are only made once."""
        llm = Llm.named(release.llm)
        target = self._folder / "releases" / release.name
        shutil.rmtree(target, ignore_errors=True)
        staging = target.with_name(f".{release.name}")
        shutil.rmtree(staging, ignore_errors=True)
        models, ensembles = self._layout.repositories
        for model in llm.steps:
            config = graphs.scoped_config(
                read_config(models / model / "config.pbtxt"),
                llm,
                release.name,
                release.settings,
                release.instances.get(model),
                release.sampling,
            )
            _write_model(staging / config.name, config, release.version_folder(self._layout, model))
        for ensemble in llm.ensembles:
            config = graphs.ensemble_config(read_config(ensembles / ensemble / "config.pbtxt"), release.name, False)
            _write_model(staging / config.name, config)
        unary = read_config(models / llm.unary / "config.pbtxt")
        unary.ClearField("version_policy")
        _write_model(staging / llm.unary, unary, release.version_folder(self._layout, llm.unary))
        staging.rename(target)

    def remove(self, release: str) -> None:
        """Remove the folders of a release's models; what it was stays known."""
        shutil.rmtree(self._folder / "releases" / release, ignore_errors=True)

    def _made(self) -> list[str]:
        folder = self._folder / "releases"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def _fill(self, target: Path, state: ViewState) -> None:
        released = {name: served for name, served in state.llms.items() if served.live is not None}
        hidden = {name for llm in map(Llm.named, released) for name in llm.models}
        # Made anew each time, so that Triton sees a change whichever way it goes.
        hidden |= {name for llm in map(Llm.named, state.llms) for name in llm.ensembles}
        for repository in self._layout.repositories:
            for folder in repository.iterdir():
                if folder.is_dir() and folder.name in state.folders and folder.name not in hidden:
                    (target / folder.name).symlink_to(folder)
        for name, served in state.llms.items():
            llm = Llm.named(name)
            for release in served.loaded:
                if release is not None:
                    self._link(target, llm, release)
            if served.live is not None:
                self._fill_public(target, llm, served)
                continue
            for ensemble in llm.ensembles:
                config = read_config(self._layout.repositories[1] / ensemble / "config.pbtxt")
                _write_model(target / ensemble, config)

    def _link(self, target: Path, llm: Llm, release: str) -> None:
        made = self._folder / "releases" / release
        if not made.is_dir():
            self._make(self.document(release))
        for model in (*llm.steps, *llm.ensembles):
            (target / scoped(model, release)).symlink_to(made / scoped(model, release))

    def _fill_public(self, target: Path, llm: Llm, served: Served) -> None:
        """The public names of an LLM, of which a release is live: as that release was made, not as the checkout is."""
        assert served.live is not None
        made = self._folder / "releases" / served.live
        for ensemble in llm.ensembles:
            config = read_config(made / scoped(ensemble, served.live) / "config.pbtxt")
            config.name = ensemble
            _write_model(target / ensemble, config)
        for model in llm.steps:
            if None in served.loaded:
                # They still run for answers that began before the first release.
                (target / model).symlink_to(self._layout.repositories[0] / model)
            else:
                config = read_config(made / scoped(model, served.live) / "config.pbtxt")
                config.name = model
                _write_model(target / model, graphs.alias_config(config, llm, served.live))
        (target / llm.unary).symlink_to(made / llm.unary)

    def ensembles(self) -> list[str]:
        """The ensembles of the current view, the public ones among them."""
        return sorted(folder.name for folder in self._models() if _is_ensemble(folder))

    def serving(self) -> list[str]:
        """The models of the current view that clients depend on: all but those of releases on trial, or let go."""
        live = {served.live for served in self.state().llms.values()}
        names = [(folder.name, unscoped(folder.name)[1]) for folder in self._models()]
        return sorted(name for name, release in names if release is None or release in live)

    def _models(self) -> list[Path]:
        return [path for path in self.current.iterdir() if path.is_dir()]

    def start_with(self, release: Release, replaces: bool = False) -> None:
        """Have a server that never had a release start with this one; where one is live, that stays, or is replaced."""
        with self.lock:
            state = self.state()
            if state.of(release.llm).live is None or replaces:
                self.keep(release)
                served = went_live(Served(loaded=(release.name,), good=(release.name,)), release.name)
                self.write(state.with_llm(release.llm, served))

    def follow(self, other: "View") -> list[Release]:
        """Have a server that knows nothing begin with what proved itself on another one, and go back as that does.

        Returns the releases that are live on both.
        """
        state, live = ViewState(), []
        for name, served in other.state().llms.items():
            good = served.good[: served.good.index(served.live) + 1] if served.live in served.good else served.good
            if served.live is not None and good:
                for release in good:
                    self.keep(other.document(release))
                live.append(self.document(good[-1]))
                state = state.with_llm(name, replace(served, live=good[-1], loaded=good[-1:], good=good))
        if live:
            with self.lock:
                self.write(state)
        return live

    def live(self, first: Release | None = None, replaces: bool = False) -> list[Release]:
        """The releases that a server is started with; first and replaces: see `start_with`."""
        found = {
            name: self.document(served.live) for name, served in self.state().llms.items() if served.live is not None
        }
        if first is not None and (replaces or first.llm not in found):
            found[first.llm] = first
        return list(found.values())

    def layout_of_live(self, first: Release | None = None, replaces: bool = False) -> Layout:
        """The checkout, pinned to the versions of the releases that a server is started with, see `live`."""
        pinned: dict[str, int] = {}
        for release in self.live(first, replaces):
            pinned |= release.versions
        return replace(self._layout, pinned=pinned)


@contextlib.contextmanager
def one_of_its_name(layout: Layout, name: str) -> Iterator[None]:
    """While a server runs. Raises OperatorError if one of the same name does in this checkout."""
    path = layout.state / "servers" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OperatorError(
                f"a server called {name!r} runs in this checkout; give this one another --name"
            ) from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def runs(layout: Layout, name: str) -> bool:
    """Whether a server of this name runs in this checkout, or comes to its end."""
    try:
        with (layout.state / "servers" / f"{name}.lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def went_live(served: Served, release: str | None) -> Served:
    """The same with another release behind the public names."""
    return replace(served, live=release, since=now())


def proved(served: Served, left: str) -> Served:
    """The same, now that the live release has proved itself; `left`: what to go back to."""
    assert served.live is not None
    good = list(served.good) if served.good else [left]
    if served.live in good:
        # Back to an earlier one: what came after it does not count.
        good = good[: good.index(served.live)]
    return replace(served, good=(*good, served.live))


def _is_ensemble(folder: Path) -> bool:
    return bool(read_config(folder / "config.pbtxt").platform == "ensemble")


def _write_model(folder: Path, config: Any, version: Path | None = None) -> None:
    """A model's folder: its configuration, and a link to its version, or an empty one."""
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")
    if version is None:
        (folder / "1").mkdir()
    else:
        if version not in version_folders(version.parent):
            raise OperatorError(f"{version}: no such version")
        _ensure_bytecode(version / "model.py")
        (folder / version.name).symlink_to(version)


def _ensure_bytecode(source: Path) -> None:
    """Have the bytecode there that a stub writes otherwise, whatever its environment says: see importlib's format.

    Triton would take the model for changed, and load it again. So would it one that serves already, on this server or
    another one of the checkout, if what is right were written anew.
    """
    cached = Path(importlib.util.cache_from_source(str(source)))
    with contextlib.suppress(OSError, py_compile.PyCompileError):
        seen = source.stat()
        # The magic number, no flags, and the time and the size of the source, each of 32 bits.
        right = importlib.util.MAGIC_NUMBER + struct.pack(
            "<III", 0, int(seen.st_mtime) & 0xFFFFFFFF, seen.st_size & 0xFFFFFFFF
        )
        if not cached.is_file() or cached.read_bytes()[: len(right)] != right:
            py_compile.compile(str(source), doraise=True)
