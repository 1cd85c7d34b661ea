"""What the servers of a fleet remember from one start to the next: the releases that are live on them."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from ..layout import Layout
from ..releases.view import View


def remember(folder: Path, names: Sequence[str]) -> None:
    """Write down whom the fleet in `folder` consists of; what others remember is of no use to the next one."""
    staging = _path(folder).with_suffix(".new")
    staging.write_text(json.dumps(list(names)) + "\n", encoding="utf-8")
    staging.rename(_path(folder))


def _path(folder: Path) -> Path:
    return folder / "members.json"


def _members(folder: Path) -> list[str] | None:
    """Whom the fleet before consisted of; None where that is not known."""
    try:
        return list(map(str, json.loads(_path(folder).read_text(encoding="utf-8"))))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def prepare_memories(layout: Layout, folder: Path, names: Sequence[str], say: Callable[[str], None]) -> None:
    """Have the servers of a fleet that is started begin as they ended, and those that it did not have as the others."""
    members = _members(folder)
    old = [name for name in names if View.of_server(layout, name).folder.exists() and name in (members or names)]
    follow(layout, old, [name for name in names if name not in old], say)


def follow(layout: Layout, old: Sequence[str], added: Sequence[str], say: Callable[[str], None]) -> None:
    """Have servers that are added to `old` ones forget what they knew, and begin with what is live on those."""
    known = next((view for name in old if (view := View.of_server(layout, name)).live()), None)
    for name in added:
        view = View.of_server(layout, name)
        shutil.rmtree(view.folder, ignore_errors=True)
        live = [] if known is None else view.follow(known)
        if live:
            say(f"{name}: to serve {', '.join(release.name for release in live)}, which is live on the others.")
