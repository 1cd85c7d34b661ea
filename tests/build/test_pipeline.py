"""What runs the stages of a build: each once, as long as nothing that it depends on has changed."""

import fcntl
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support import ROOT
from trireme_build.errors import BuildError
from trireme_build.pipeline.build import Build, Progress, Stage, carry_out
from trireme_build.recipe import read_recipe


@dataclass
class Workshop:
    """Two stages that write a file each, the second from the first one's, and what they were given to do."""

    root: Path
    inputs: dict[str, int] = field(default_factory=lambda: {"cut": 1, "glue": 1})
    ran: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    fail: str = ""

    def stage(self, name: str, after: tuple[str, ...] = (), **more: Any) -> Stage:
        def run(build: Build, out: Path, progress: Progress) -> dict[str, Any]:
            self.ran.append(name)
            progress(1, 2)
            (out / "half").write_text("half")
            if name == self.fail:
                raise BuildError("no glue left")
            before = "".join((build.folder_of(stage) / "whole").read_text() for stage in after)
            (out / "half").rename(out / "whole")
            (out / "whole").write_text(f"{before}{name}{self.inputs[name]}")
            return {"summary": f"{name} done", "length": len(before)}

        def inputs(build: Build) -> Mapping[str, Any]:
            return {"value": self.inputs[name]}

        applies: Callable[[Any], bool] = more.pop("applies", lambda recipe: True)
        return Stage(name, applies, inputs, run, after, **more)

    def build(self, *stages: Stage) -> Build:
        self.ran.clear()
        build = Build(read_recipe(ROOT / "build" / "recipes" / "reference-int8.toml"), self.root)
        carry_out(build, stages or (self.stage("cut"), self.stage("glue", ("cut",))), self.lines.append)
        return build

    def log(self) -> list[dict[str, Any]]:
        path = self.root / ".trireme" / "builds" / "reference-int8" / "build.log"
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_stages_run_in_order_once(workshop: Workshop) -> None:
    build = workshop.build()
    assert workshop.ran == ["cut", "glue"]
    assert (build.folder_of("glue") / "whole").read_text() == "cut1glue1"
    again = workshop.build()
    assert workshop.ran == []
    assert again.results == build.results
    assert again.digests == build.digests
    assert [line["state"] for line in workshop.log()] == ["started", "done", "started", "done", "skipped", "skipped"]
    assert workshop.lines[-1].split() == ["reference-int8:", "glue", "unchanged", "glue", "done"]


def test_what_changed_and_what_comes_after_it_runs_again(workshop: Workshop) -> None:
    workshop.build()
    workshop.inputs["glue"] = 2
    workshop.build()
    assert workshop.ran == ["glue"]
    workshop.inputs["cut"] = 2
    build = workshop.build()
    assert workshop.ran == ["cut", "glue"]
    assert (build.folder_of("glue") / "whole").read_text() == "cut2glue2"


@pytest.mark.parametrize("damage", ["changed", "removed", "extra", "folder"])
def test_results_that_were_tampered_with_are_made_again(workshop: Workshop, damage: str) -> None:
    folder = workshop.build().folder_of("cut")
    if damage == "changed":
        (folder / "whole").write_text("cut9")
    elif damage == "removed":
        (folder / "whole").unlink()
    elif damage == "extra":
        (folder / "more").touch()
    else:
        shutil.rmtree(folder)
    build = workshop.build()
    assert workshop.ran == ["cut"]
    assert (build.folder_of("cut") / "whole").read_text() == "cut1"


def test_a_stage_that_fails_leaves_nothing_and_is_tried_again(workshop: Workshop) -> None:
    workshop.fail = "glue"
    with pytest.raises(BuildError, match="no glue left"):
        workshop.build()
    folder = workshop.root / ".trireme" / "builds" / "reference-int8"
    assert not (folder / "glue").exists()
    assert workshop.log()[-1]["state"] == "failed"
    assert workshop.log()[-1]["error"] == "no glue left"
    workshop.fail = ""
    workshop.build()
    assert workshop.ran == ["glue"]
    assert sorted(path.name for path in folder.iterdir()) == ["build.log", "cut", "glue", "lock"]


def test_stages_that_a_recipe_does_not_have_are_left_out(workshop: Workshop) -> None:
    build = workshop.build(workshop.stage("cut"), workshop.stage("glue", applies=lambda recipe: False))
    assert workshop.ran == ["cut"]
    assert "glue" not in build.results


def test_a_stage_whose_effect_lies_elsewhere_runs_each_time(workshop: Workshop) -> None:
    stages = (workshop.stage("cut"), workshop.stage("glue", always=True))
    workshop.build(*stages)
    workshop.build(*stages)
    assert workshop.ran == ["glue"]


def test_two_builds_of_a_recipe_do_not_mix(workshop: Workshop) -> None:
    folder = workshop.build().folder
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BuildError, match="reference-int8: is being built by another process"):
            workshop.build()


def test_the_log_tells_time_and_memory(workshop: Workshop) -> None:
    workshop.build()
    line = workshop.log()[1]
    assert line["stage"] == "cut"
    assert line["seconds"] >= 0
    assert line["peak_rss"] > 1_000_000
    assert line["result"] == {"summary": "cut done", "length": 0}
