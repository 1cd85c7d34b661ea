"""What a server sees of its checkout, state by state."""

from dataclasses import replace
from pathlib import Path

import pytest

import releases_built
from trireme_ops.errors import OperatorError
from trireme_ops.layout import Layout
from trireme_ops.releases.release import propose
from trireme_ops.releases.view import Served, View, went_live


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return releases_built.checkout(tmp_path / "root")


@pytest.fixture
def view(layout: Layout) -> View:
    return View.of_server(layout, "test")


def names(view: View) -> set[str]:
    return {path.name for path in view.current.iterdir() if path.is_dir()}


def test_without_a_release_the_repositories_are_served_as_they_stand(layout: Layout, view: View) -> None:
    assert view.begin() == (view.current,)
    assert names(view) == {path.name for repository in layout.repositories for path in repository.iterdir()}
    assert (view.current / "tensorrt_llm").resolve() == layout.root / "model_repository" / "tensorrt_llm"
    assert view.layout_of_live().pinned == {}


def test_what_is_added_later_is_not_waited_for(layout: Layout, view: View) -> None:
    view.begin()
    (layout.root / "model_repository" / "added_later").mkdir()
    view.write(view.state())
    assert "added_later" not in names(view)
    assert "added_later" not in view.serving()
    view.begin()
    assert "added_later" in names(view)


def test_a_release_on_trial_is_there_and_nobody_depends_on_it(layout: Layout, view: View) -> None:
    view.begin()
    view.add(propose(layout, "r1"))
    state = view.state()
    view.write(state.with_llm("ensemble", Served(loaded=(None, "r1"))))
    assert {"tensorrt_llm@r1", "ensemble@r1", "tensorrt_llm", "ensemble"} <= names(view)
    assert not [name for name in view.serving() if name.endswith("@r1")]
    engine = view.current / "tensorrt_llm@r1" / "1"
    assert engine.resolve() == layout.root / "model_repository" / "tensorrt_llm" / "1"
    # A server that is started again has forgotten it.
    view.begin()
    assert "tensorrt_llm@r1" not in names(view)
    assert not (view.folder / "releases" / "r1").exists()


def test_another_release_of_the_same_versions_leaves_them_as_they_are(layout: Layout, view: View) -> None:
    """Triton loads a model again whose files have another time, a live one, too."""

    def times() -> dict[Path, int]:
        folder = layout.root / "model_repository"
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    bytecode = layout.root / "model_repository" / "preprocessing" / "1" / "__pycache__"
    view.begin()
    view.add(propose(layout, "r1"))
    (cached,) = bytecode.iterdir()
    before = times()
    view.add(propose(layout, "r2"))
    other = View.of_server(layout, "other")
    other.begin()
    other.add(propose(layout, "r1"))
    assert times() == before
    # What a stub would not take it writes itself, later.
    cached.write_bytes(b"\0" * 16)
    view.add(propose(layout, "r3"))
    assert len(cached.read_bytes()) > 16


def test_a_live_release_is_behind_the_public_names(layout: Layout, view: View) -> None:
    view.start_with(propose(layout, "r1"))
    view.begin()
    text = (view.current / "ensemble" / "config.pbtxt").read_text()
    assert 'model_name: "tensorrt_llm@r1"' in text
    assert 'model_name: "tensorrt_llm"' not in text
    assert 'platform: "ensemble"' in (view.current / "tensorrt_llm" / "config.pbtxt").read_text()
    assert "tensorrt_llm@r1" in view.serving()
    assert view.layout_of_live().pinned["tensorrt_llm"] == 1


def test_what_is_live_stays_unless_it_is_replaced(layout: Layout, view: View) -> None:
    view.start_with(propose(layout, "r1"))
    view.start_with(propose(layout, "r2"))
    assert view.state().of("ensemble").live == "r1"
    view.start_with(propose(layout, "r2"), replaces=True)
    assert view.state().of("ensemble").live == "r2"


def test_another_release_of_a_name_that_is_needed_is_refused(layout: Layout, view: View) -> None:
    view.start_with(propose(layout, "r1"))
    view.keep(propose(layout, "r1"))
    with pytest.raises(OperatorError, match="knows another release that is called 'r1'"):
        view.keep(propose(layout, "r1", changes={"settings.max_num_sequences": "3"}))


@pytest.mark.parametrize("name", ["../r1", "", "r/1"])
def test_a_document_is_never_looked_for_elsewhere(view: View, name: str) -> None:
    with pytest.raises(OperatorError, match="cannot be used for a release"):
        view.document(name)


def test_a_damaged_view_is_named(layout: Layout, view: View) -> None:
    view.begin()
    (view.current / "view.json").write_text("{")
    with pytest.raises(OperatorError, match=r"view.json: damaged"):
        view.state()


def test_going_live_keeps_what_else_is_known() -> None:
    served = Served(live="r1", loaded=("r1", "r2"), good=("r1",))
    changed = went_live(served, "r2")
    assert changed.live == "r2"
    assert changed.since
    assert replace(changed, live="r1", since="") == served
