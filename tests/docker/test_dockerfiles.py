"""Each Dockerfile: linted, pinned, without root, and made of what a builder is sent."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dockerfiles import DockerfileError, Instruction, Stage, context_of, parse
from support import ROOT

DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
#: The images that are run: (Dockerfile, stage).
FINAL = [
    *(("server", "cpu"), ("server", "gpu")),
    *(("gateway", "gateway"), ("loadtest", "loadtest"), ("build", "build")),
]


def stage_of(name: str, target: str) -> Stage:
    return parse((ROOT / "docker" / f"{name}.Dockerfile").read_text(encoding="utf-8")).stage(target)


def last(stage: Stage, keyword: str) -> Instruction:
    return [instruction for instruction in stage.instructions if instruction.keyword == keyword][-1]


def test_every_dockerfile_and_stage_is_looked_at_here() -> None:
    assert {path.stem for path in DOCKERFILES} == {name for name, _ in FINAL}
    for path in DOCKERFILES:
        stages = {stage.name for stage in parse(path.read_text(encoding="utf-8")).stages}
        finals = {stage for stage in stages if "builder" not in stage}
        assert finals == {target for name, target in FINAL if name == path.stem}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, "--no-color", path], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_bases_are_pinned_to_a_version(path: Path) -> None:
    dockerfile = parse(path.read_text(encoding="utf-8"))
    names = {stage.name for stage in dockerfile.stages}
    for stage in dockerfile.stages:
        assert stage.base in names or re.fullmatch(r"[a-z0-9./]+:\d+\.\d[\w.-]*(@sha256:[0-9a-f]{64})?", stage.base), (
            stage
        )


def test_every_image_has_the_same_python() -> None:
    assert len({stage_of(name, target).base for name, target in FINAL if target != "gpu"}) == 1


@pytest.mark.parametrize(("name", "target"), FINAL)
def test_an_image_is_not_run_as_root_and_gets_signals_itself(name: str, target: str) -> None:
    stage = stage_of(name, target)
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", last(stage, "USER").text)
    for keyword in ("ENTRYPOINT", "CMD"):
        assert last(stage, keyword).exec_form, "a shell would not hand SIGTERM on"
    assert last(stage, "ENTRYPOINT").exec_form[0] == "trireme"
    assert last(stage, "STOPSIGNAL").text == "SIGTERM"
    # Nothing is installed after root's rights are given up, nor before them in a stage that is shipped.
    assert not [i for i in stage.instructions if i.keyword == "RUN" and not i.text.startswith("install -d -o 10001 ")]


@pytest.mark.parametrize(("name", "target"), FINAL)
def test_an_image_says_whether_it_is_healthy_or_that_nobody_can_ask(name: str, target: str) -> None:
    text = last(stage_of(name, target), "HEALTHCHECK").text
    assert text.startswith("CMD [") if name in ("server", "gateway") else text == "NONE"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_is_in_the_context(path: Path) -> None:
    files = context_of(ROOT)
    for stage in parse(path.read_text(encoding="utf-8")).stages:
        for instruction in stage.instructions:
            if instruction.keyword == "COPY" and "from" not in instruction.flags:
                for source in instruction.words[:-1]:
                    assert [f for f in files if source == "." or f == source or f.startswith(f"{source}/")], instruction


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_packages_are_installed_by_their_hashes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for command in re.findall(r"pip(?: --python \S+)? install (.*?)(?: &&|$)", text, re.MULTILINE):
        # The project itself, and torch, of which requirements/torch.txt says why.
        allowed = ("-q --no-deps --no-build-isolation --editable .", "-q --no-deps -r requirements/torch.txt")
        assert "--require-hashes -r" in command or command in allowed, command
    assert not re.search(r"--(extra-)?index-url|--find-links|apt-get|curl|wget", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM a:1\nADD x y", "line 2: ADD is not known"),
        ("FROM a:1\nRUN <<EOF\nls\nEOF", "heredocs"),
        ("RUN ls", "before the first FROM"),
        ("FROM a:1\nRUN ls && \\\n", "continued past the end"),
    ],
)
def test_what_the_reader_of_dockerfiles_does_not_know_it_refuses(text: str, message: str) -> None:
    with pytest.raises(DockerfileError, match=message):
        parse(text)
