"""What benchmarks measure: a copy of the repositories, as committed."""

from dataclasses import replace
from pathlib import Path

from support import CHECKPOINT, ROOT
from trireme_build.publish import Candidate, publish
from trireme_ops.bench.root import NullModel, copy_repositories, use_null_engine
from trireme_ops.layout import Layout
from trireme_runtime.checkout import version_folders
from trireme_runtime.manifest import verify_manifest


def test_published_versions_are_not_measured(tmp_path: Path) -> None:
    """The newest one would be served, and not the engine that a benchmark puts in its place."""
    first = copy_repositories(Layout(ROOT), tmp_path / "first", {})
    (tmp_path / "engine").mkdir()
    origin = {"engine": "openvino", "build": {"digest": "a"}}
    candidate = Candidate(first.root, "tensorrt_llm", "openvino", tmp_path / "engine", CHECKPOINT, 2048, origin)
    publish(candidate)
    publish(replace(candidate, origin={**origin, "build": {"digest": "b"}}))
    second = copy_repositories(first, tmp_path / "second", {})
    model = second.root / "model_repository" / "tensorrt_llm"
    assert [path.name for path in version_folders(model)] == ["1"]
    use_null_engine(second, NullModel(10, ()))
    assert "engine/config.json" in verify_manifest(model / "1")["files"]
