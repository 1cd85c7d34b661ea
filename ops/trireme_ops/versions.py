"""`trireme versions`: what is published."""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trireme_runtime.checkout import version_folders
from trireme_runtime.manifest import SIGNATURE, ManifestError, read_manifest
from trireme_runtime.versions import key_of_environment, verify_signature, verify_version

from .errors import OperatorError
from .layout import DEFAULT_ENGINE, Layout


@dataclass(frozen=True)
class PublishedVersion:
    """One version of a model, as its manifest describes it; None for what it does not say.

    signature: "none", "unchecked", "valid" or "invalid", the latter two where there is a key. accuracy: see
    `trireme_build.accuracy.Accuracy`. problem: what is wrong with its files, if they were looked at.
    """

    model: str
    version: int
    newest: bool
    path: str
    bytes: int
    recipe: str | None
    engine: str | None
    quantization: str | None
    target: str | None
    checkpoint: str | None
    accuracy: dict[str, Any]
    signature: str
    problem: str | None = None


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand."""
    parser = commands.add_parser("versions", help="list what is published")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default: all of the model repository")
    parser.add_argument("--check", action="store_true", help="compare every file with the manifests too")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """List them; 0, or 1 if one that was looked at is not what it should be."""
    layout = Layout.find()
    found = published(layout, arguments.models, arguments.check)
    if arguments.json:
        print(json.dumps([asdict(version) for version in found], indent=2, ensure_ascii=False))
    else:
        print(_table(found))
    return int(any(version.problem for version in found))


def published(layout: Layout, models: list[str], check: bool) -> list[PublishedVersion]:
    """The versions of the named models, or of all. Raises OperatorError for a model that is not there."""
    repository = layout.repositories[0]
    there = sorted(path.name for path in repository.iterdir() if path.is_dir())
    for model in models:
        if model not in there:
            raise OperatorError(f"there is no model {model!r}; there are {', '.join(there)}")
    versions = []
    for model in models or there:
        folders = version_folders(repository / model)
        versions += [_look(layout, folder, folder is folders[-1], check) for folder in folders]
    return versions


def _look(layout: Layout, folder: Path, newest: bool, check: bool) -> PublishedVersion:
    problem, manifest = None, {}
    try:
        manifest = verify_version(folder) if check else read_manifest(folder)
    except ManifestError as error:
        problem = str(error)
    made_from = manifest.get("source") or manifest.get("made_from") or {}
    return PublishedVersion(
        model=folder.parent.name,
        version=int(folder.name),
        newest=newest,
        path=folder.relative_to(layout.root).as_posix(),
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        recipe=manifest.get("recipe"),
        engine=manifest.get("engine") or (DEFAULT_ENGINE if "source" in manifest else None),
        quantization=manifest.get("quantization") or (manifest.get("weights", "f32") if "source" in manifest else None),
        target=manifest.get("target"),
        checkpoint=made_from.get("checkpoint"),
        accuracy=manifest.get("accuracy", {}),
        signature=_signature(folder),
        problem=problem,
    )


def _signature(folder: Path) -> str:
    if not (folder / SIGNATURE).is_file():
        return "none"
    key = key_of_environment()
    if key is None:
        return "unchecked"
    try:
        verify_signature(folder, key)
    except ManifestError:
        return "invalid"
    return "valid"


def _table(versions: list[PublishedVersion]) -> str:
    rows = [("VERSION", "SIZE", "ENGINE", "QUANTIZATION", "EXACT", "KL", "TOP-1", "SIGNATURE", "RECIPE", "")]
    for version in versions:
        accuracy = version.accuracy
        exact = accuracy.get("exact_match", {}).get("all")
        rows.append(
            (
                f"{version.model}/{version.version}{'*' if version.newest else ''}",
                f"{version.bytes / 1e6:.1f} MB",
                version.engine or "-",
                version.quantization or "-",
                "-" if exact is None else f"{100 * exact:.1f} %",
                f"{accuracy['kl']:.2g}" if "kl" in accuracy else "-",
                f"{100 * accuracy['top1']:.1f} %" if "top1" in accuracy else "-",
                version.signature,
                version.recipe or "-",
                version.problem or "",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "* the newest: what a server without a release loads"])
