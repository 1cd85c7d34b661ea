"""A release: one version of each model of an LLM, and the settings that they run with. A file that never changes.

`releases/NAME.json`, below the checkout's root, is what `trireme release create` writes and a server is given.
"""

import getpass
import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from trireme_runtime.checkout import version_folders
from trireme_runtime.manifest import MANIFEST, sha256_of

from ..errors import OperatorError
from ..family import check_setting
from ..layout import Layout
from .llm import DEFAULT_LLM, Llm, find_llm

#: What a server serves that no release was put live on.
UNRELEASED = "unreleased"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
MAX_INSTANCES = 16

#: The sections of a release that `--set` can name.
_SECTIONS = ("settings", "instances", "sampling")


@dataclass(frozen=True)
class Release:
    """What goes live as a whole.

    llm: the name of its public ensemble. versions: model -> number of its version; manifests: model -> SHA-256 of that
    version's manifest, because numbers can be given twice. settings: parameters of the engine model. instances: model
    -> how many processes it has. sampling: what holds where a client sends nothing. smoke: prompts with the answers
    that are expected, see `smoke.SmokeItem`.
    """

    name: str
    llm: str
    versions: Mapping[str, int]
    manifests: Mapping[str, str]
    settings: Mapping[str, str] = field(default_factory=dict)
    instances: Mapping[str, int] = field(default_factory=dict)
    sampling: Mapping[str, str] = field(default_factory=dict)
    smoke: tuple[Mapping[str, Any], ...] = ()
    created_at: str = ""
    created_by: str = ""

    def __post_init__(self) -> None:
        check_name(self.name)

    def to_json(self) -> dict[str, Any]:
        """As it stands in its file."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Any) -> "Release":
        """Read a document. Raises OperatorError naming what is wrong with it."""
        if not isinstance(document, dict):
            raise OperatorError("a release is a JSON object")
        known = {name: value.type for name, value in cls.__dataclass_fields__.items()}
        for key in document:
            if key not in known:
                raise OperatorError(f"the key {key!r} is unknown; known are {', '.join(known)}")
        kinds: dict[str, tuple[str, ...]] = {"versions": ("int",), "instances": ("int",), "manifests": ("str",)}
        kinds |= {"settings": ("str",), "sampling": ("str",)}
        for key, (kind,) in kinds.items():
            values = document.get(key, {})
            expected: type = int if kind == "int" else str
            if not isinstance(values, dict) or not all(
                isinstance(value, expected) and not isinstance(value, bool) for value in values.values()
            ):
                raise OperatorError(f"{key} is {str(values)[:80]}; an object of {kind} is needed")
        for key in ("name", "llm", "created_at", "created_by"):
            if not isinstance(document.get(key, ""), str):
                raise OperatorError(f"{key} is {document[key]!r}; a string is needed")
        if not isinstance(document.get("smoke", []), list):
            raise OperatorError(f"smoke is {str(document['smoke'])[:80]}; a list is needed")
        for key in ("name", "llm", "versions", "manifests"):
            if not document.get(key):
                raise OperatorError(f"{key} is missing")
        models = Llm.named(document["llm"]).models
        for key in ("versions", "manifests"):
            for model in models:
                if model not in document[key]:
                    raise OperatorError(f"{key} says nothing of {model}")
            for model in document[key]:
                if model not in models:
                    raise OperatorError(f"{key} names {model}, which is no model of {document['llm']}")
        return cls(**{**document, "smoke": tuple(document.get("smoke", []))})

    def version_folder(self, layout: Layout, model: str) -> Path:
        """Where the version of a model is that it pins."""
        return layout.repositories[0] / model / str(self.versions[model])


def check_name(name: str) -> None:
    """Raise OperatorError if a release cannot be called so."""
    if not _NAME.fullmatch(name) or name == UNRELEASED:
        allowed = "up to 40 of A-Z, a-z, 0-9, _ and -, a letter or digit first"
        reserved = f"; {UNRELEASED!r} is what a server serves without one" if name == UNRELEASED else ""
        raise OperatorError(f"the name {name[:60]!r} cannot be used for a release; allowed are {allowed}{reserved}")


def folder_of(layout: Layout) -> Path:
    """Where the releases of a checkout are."""
    return layout.root / "releases"


def manifest_digest(version: Path) -> str:
    """The SHA-256 of a version's manifest. Raises OperatorError if it has none."""
    try:
        return sha256_of(version / MANIFEST)
    except OSError as error:
        raise OperatorError(f"{version}: no such version ({MANIFEST}: {error.strerror})") from error


def propose(
    layout: Layout,
    name: str,
    llm_name: str = DEFAULT_LLM,
    changes: Mapping[str, str] | None = None,
    base: Release | None = None,
    smoke: tuple[Mapping[str, Any], ...] | None = None,
) -> Release:
    """A release that is not written yet: `base`, or the newest versions, with changes.

    changes: MODEL -> version, settings.KEY, instances.MODEL and sampling.KEY -> value; an empty value takes one of
    the latter away. Raises OperatorError naming the key, the value and what is allowed.
    """
    llm = find_llm(layout, llm_name)
    if base is not None and base.llm != llm_name:
        raise OperatorError(f"{base.name} is a release of {base.llm}, not of {llm_name}")
    versions = dict(base.versions) if base else {model: _newest(layout, model) for model in llm.models}
    sections: dict[str, dict[str, Any]] = {key: dict(getattr(base, key)) if base else {} for key in _SECTIONS}
    for key, value in (changes or {}).items():
        section, _, inner = key.partition(".")
        if key in versions:
            versions[key] = _version(layout, key, value)
        elif section in _SECTIONS and inner:
            if value:
                sections[section][inner] = _checked(llm, section, inner, value)
            else:
                sections[section].pop(inner, None)
        else:
            known = f"{', '.join(versions)}, settings.KEY, instances.MODEL and sampling.KEY"
            raise OperatorError(f"{key!r} cannot be set; known are {known}")
    folders = {model: layout.repositories[0] / model / str(number) for model, number in versions.items()}
    return Release(
        name=name,
        llm=llm_name,
        versions=versions,
        manifests={model: manifest_digest(folder) for model, folder in folders.items()},
        smoke=smoke if smoke is not None else base.smoke if base else (),
        created_at=now(),
        created_by=operator_name(),
        **sections,
    )


def _newest(layout: Layout, model: str) -> int:
    folders = version_folders(layout.repositories[0] / model)
    if not folders:
        raise OperatorError(f"{model}: has no version")
    return int(folders[-1].name)


def _version(layout: Layout, model: str, value: str) -> int:
    there = [folder.name for folder in version_folders(layout.repositories[0] / model)]
    if value not in there:
        raise OperatorError(f"{model} has no version {value[:40]!r}; there are {', '.join(there)}")
    return int(value)


def _checked(llm: Llm, section: str, key: str, value: str) -> str | int:
    if section == "settings":
        check_setting(key, value)
        return value
    if section == "sampling":
        _check_sampling(key, value)
        return value
    if key != llm.preprocessing:
        raise OperatorError(f"instances.{key} cannot be set; {llm.preprocessing} alone may have more than one")
    if not value.isdecimal() or not 1 <= int(value) <= MAX_INSTANCES:
        raise OperatorError(f"instances.{key} is {value[:40]!r}; allowed are 1 to {MAX_INSTANCES}")
    return int(value)


def _check_sampling(key: str, value: str) -> None:
    from trireme_runtime.settings import SAMPLING_DEFAULTS

    if key not in SAMPLING_DEFAULTS:
        raise OperatorError(f"sampling.{key} is unknown; known are {', '.join(SAMPLING_DEFAULTS)}")
    lowest, highest = SAMPLING_DEFAULTS[key]
    try:
        inside = lowest <= float(value) <= highest
    except ValueError:
        inside = False
    if not inside:
        raise OperatorError(f"sampling.{key} is {value[:40]!r}; allowed are {lowest:g} to {highest:g}")


def create(layout: Layout, release: Release) -> Path:
    """Write a release to its file, for good. Raises OperatorError if there is one of that name that says otherwise."""
    path = folder_of(layout) / f"{release.name}.json"
    text = json.dumps(release.to_json(), indent=2, ensure_ascii=False) + "\n"
    path.parent.mkdir(exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        staging.write_text(text, encoding="utf-8")
        staging.chmod(0o444)
        # A link, unlike a rename, never takes the place of another.
        os.link(staging, path)
    except FileExistsError:
        if differences(read_release(layout, release.name), release):
            raise OperatorError(f"{path} is there already, and says otherwise; releases never change") from None
    finally:
        staging.unlink(missing_ok=True)
    return path


def read_release(layout: Layout, name: str) -> Release:
    """The release of this name. Raises OperatorError if there is none, or its file is damaged."""
    check_name(name)
    path = folder_of(layout) / f"{name}.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        there = ", ".join(release_names(layout)) or "none"
        raise OperatorError(f"there is no release {name!r}; there are: {there}") from None
    except (OSError, ValueError) as error:
        raise OperatorError(f"{path}: cannot be read: {error}") from error
    try:
        release = Release.from_json(document)
    except OperatorError as error:
        raise OperatorError(f"{path}: {error}") from error
    if release.name != name:
        raise OperatorError(f"{path}: is of the release {release.name!r}")
    return release


def release_names(layout: Layout) -> list[str]:
    """The names of all releases, oldest first."""
    paths = sorted(folder_of(layout).glob("*.json"), key=lambda path: (path.stat().st_mtime, path.name))
    return [path.stem for path in paths]


def differences(one: Release, other: Release) -> list[tuple[str, str, str]]:
    """What two releases say differently: (key, value in the one, value in the other); "-" where it says nothing."""
    found = []
    flat_one, flat_other = _flat(one), _flat(other)
    for key in sorted(flat_one.keys() | flat_other.keys()):
        values = flat_one.get(key, "-"), flat_other.get(key, "-")
        if values[0] != values[1]:
            found.append((key, *values))
    return found


def _flat(release: Release) -> dict[str, str]:
    flat = {"llm": release.llm}
    for model, number in release.versions.items():
        # The number is for people; what decides is the manifest.
        flat[model] = f"{number} ({release.manifests.get(model, '')[:12]})"
    for section in _SECTIONS:
        flat |= {f"{section}.{key}": str(value) for key, value in getattr(release, section).items()}
    if release.smoke:
        flat["smoke"] = json.dumps(release.smoke, sort_keys=True, ensure_ascii=False)
    return flat


def now() -> str:
    """The time, in UTC, as ISO 8601 to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def operator_name() -> str:
    """Who is at work: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
