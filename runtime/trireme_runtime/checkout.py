"""The checkout that a command works in, and the versions of its models."""

import os
from pathlib import Path


def checkout_root() -> Path:
    """The folder that $TRIREME_ROOT names, or that this package lies in; it holds model_repository/ and ensembles/.

    Raises FileNotFoundError if there is no model repository.
    """
    named = os.environ.get("TRIREME_ROOT")
    root = Path(named).resolve() if named else Path(__file__).resolve().parents[2]
    if not (root / "model_repository").is_dir():
        hint = "is what TRIREME_ROOT names" if named else "is where this package lies; set TRIREME_ROOT"
        raise FileNotFoundError(f"{root} holds no model_repository/ ({hint})")
    return root


def version_folders(model: Path) -> list[Path]:
    """The numbered folders of a model, lowest first; none for one that is not there."""
    if not model.is_dir():
        return []
    return sorted(
        (path for path in model.iterdir() if path.is_dir() and path.name.isdecimal()), key=lambda p: int(p.name)
    )
