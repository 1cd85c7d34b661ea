"""Manifests: what a version folder holds, by SHA-256, and where it came from.

`manifest.json` is an object with the key "files" (path within the folder -> SHA-256 in hex) and any further keys that
describe the origin. Generated folders inside a version have a manifest of their own. A signature of the manifest stands
beside it and cannot be in it.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"

#: Beside a manifest: a signature of the folder; see `versions`.
SIGNATURE = "signature.json"

#: What Python leaves beside a model.py; never part of a version.
IGNORED_FOLDERS = frozenset({"__pycache__"})


class ManifestError(ValueError):
    """A folder that is not what its manifest says; the message names the file."""


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _files(folder: Path) -> Iterable[Path]:
    """The files that a manifest of `folder` covers: not those of a subfolder with a manifest of its own."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name not in IGNORED_FOLDERS and not (path / MANIFEST).is_file():
                yield from _files(path)
        elif path.name != MANIFEST:
            yield path


def _covered(folder: Path) -> dict[str, Path]:
    """Those files by their path within `folder`, but for the signature."""
    found = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    found.pop(SIGNATURE, None)
    return found


def write_manifest(folder: Path, origin: dict[str, Any]) -> None:
    """Write `folder`/manifest.json over the files that are in it; `origin` holds the further keys."""
    files = {name: sha256_of(path) for name, path in _covered(folder).items()}
    text = json.dumps({**origin, "files": files}, indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of `folder`. Raises ManifestError if it is missing or cannot be read."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(f"{path}: missing") from None
    except ValueError as error:
        raise ManifestError(f"{path}: no valid JSON ({error})") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise ManifestError(f"{path}: has no object 'files'")
    return manifest


def verify_manifest(folder: Path) -> dict[str, Any]:
    """Compare `folder` with its manifest and return that. Raises ManifestError naming the first file that differs."""
    manifest = read_manifest(folder)
    found = _covered(folder)
    for name, expected in manifest["files"].items():
        if name not in found:
            raise ManifestError(f"{folder / name}: missing; the manifest lists it")
        actual = sha256_of(found[name])
        if actual != expected:
            raise ManifestError(f"{folder / name}: sha256 is {actual}, the manifest says {expected}")
    extra = sorted(found.keys() - manifest["files"].keys())
    if extra:
        raise ManifestError(f"{folder / extra[0]}: not in the manifest")
    return manifest
