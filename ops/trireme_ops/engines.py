"""Engine folders that are made from a checkpoint on the machine that serves them.

python -m trireme_ops.engines    those of all versions that are served, ahead of the first serve
"""

from pathlib import Path
from typing import Any

from .errors import OperatorError
from .layout import DEFAULT_ENGINE, Layout, engine_of


def prepare_engines(layout: Layout) -> None:
    """Make those of all versions that are served. Raises OperatorError where one cannot be made."""
    for folder in layout.engine_versions:
        prepare_engine(folder, layout.root)


def prepare_engine(version: Path, root: Path) -> None:
    """Make that of one version, if it is not there, or of another checkpoint. Raises OperatorError."""
    from trireme_build.engine_folder import ensure_engine, is_current
    from trireme_build.errors import CheckpointError
    from trireme_runtime.manifest import ManifestError, read_manifest

    manifest: dict[str, Any] = {}
    try:
        manifest = read_manifest(version)
        if not manifest.get("source") or engine_of(version) != DEFAULT_ENGINE:
            return
        if not is_current(version):
            print(f"Making the engine of {version.parent.name}/{version.name} from its checkpoint ...", flush=True)
        ensure_engine(version, root)
    except (CheckpointError, ManifestError, KeyError, RuntimeError, ValueError) as error:
        family = manifest.get("family")
        fix = f"put it back, or type: trireme remove {family}" if family else "Type: git checkout -- build/checkpoints"
        raise OperatorError(f"the engine of {version.parent.name} cannot be made: {error}. {fix}") from error


if __name__ == "__main__":
    # When an image is built: its server then starts on a file system that it cannot write to.
    prepare_engines(Layout.find())
