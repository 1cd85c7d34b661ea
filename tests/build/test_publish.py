"""Publishing: the next number, whole or not at all."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from keys import key_pair
from support import CHECKPOINT, ROOT
from trireme_build.errors import PublishError
from trireme_build.publish import Candidate, check_target, publish
from trireme_ops.bench.root import copy_repositories
from trireme_ops.layout import Layout
from trireme_runtime.manifest import SIGNATURE, verify_manifest


@pytest.fixture
def candidate(tmp_path: Path) -> Candidate:
    """An engine to publish in a copy of the repositories."""
    root = copy_repositories(Layout(ROOT), tmp_path / "root", {}).root
    engine = tmp_path / "engine"
    (engine / "inner").mkdir(parents=True)
    (engine / "model.bin").write_bytes(bytes(5000))
    (engine / "inner" / "more").write_text("more")
    origin = {"recipe": "r", "engine": "openvino", "build": {"digest": "d1"}}
    return Candidate(root, "tensorrt_llm", "openvino", engine, CHECKPOINT, 2048, origin)


def of_build(candidate: Candidate, digest: str) -> Candidate:
    return replace(candidate, origin={**candidate.origin, "build": {"digest": digest}})


def test_versions_get_the_next_number(candidate: Candidate) -> None:
    assert [publish(of_build(candidate, digest)).folder.name for digest in ("a", "b", "c")] == ["2", "3", "4"]
    manifest = verify_manifest(candidate.model_folder / "3")
    assert (manifest["model"], manifest["version"], manifest["recipe"]) == ("tensorrt_llm", 3, "r")
    assert {"model.py", "tokenizer/tokenizer.json", "engine/model.bin", "engine/inner/more"} <= manifest["files"].keys()


def test_the_first_version_of_a_model_is_1(candidate: Candidate) -> None:
    shutil.rmtree(candidate.model_folder / "1")
    assert publish(candidate).folder.name == "1"


def test_a_version_cannot_be_written_to(candidate: Candidate) -> None:
    version = publish(candidate).folder
    for path in [version, *version.rglob("*")]:
        assert path.stat().st_mode & 0o222 == 0, path
    if os.geteuid() != 0:
        with pytest.raises(PermissionError):
            (version / "new").touch()


def test_the_same_build_is_published_once(candidate: Candidate) -> None:
    first = publish(candidate)
    assert (first.new, first.newest) == (True, 2)
    publish(of_build(candidate, "later"))
    again = publish(candidate)
    assert (again.folder, again.new, again.newest) == (first.folder, False, 3)
    assert sorted(path.name for path in candidate.model_folder.iterdir()) == ["1", "2", "3", "config.pbtxt"]


def test_nothing_is_left_in_the_staging_folder(candidate: Candidate) -> None:
    abandoned = candidate.root / ".trireme" / "publish-of-a-killed-one"
    abandoned.mkdir(parents=True)
    publish(candidate)
    assert [path.name for path in (candidate.root / ".trireme").iterdir()] == ["publish.lock"]


def test_what_is_published_unsigned_is_signed_when_a_key_comes(candidate: Candidate, tmp_path: Path) -> None:
    key, _ = key_pair(tmp_path)
    version = publish(candidate).folder
    assert not (version / SIGNATURE).exists()
    assert publish(candidate, key).folder == version
    assert (version / SIGNATURE).is_file()
    assert version.stat().st_mode & 0o222 == 0
    assert publish(candidate, key).folder == version
    other, _ = key_pair(tmp_path, "other")
    with pytest.raises(PublishError, match="is published already, and not signed with"):
        publish(candidate, other)
    assert (publish(of_build(candidate, "other"), key).folder / SIGNATURE).is_file()


def test_many_that_publish_at_once_get_numbers_of_their_own(candidate: Candidate) -> None:
    code = (
        "import sys, pathlib\n"
        "from trireme_build.publish import Candidate, publish\n"
        "root, engine, checkpoint, digest = sys.argv[1:]\n"
        "origin = {'engine': 'openvino', 'build': {'digest': digest}}\n"
        "p = pathlib.Path\n"
        "candidate = Candidate(p(root), 'tensorrt_llm', 'openvino', p(engine), p(checkpoint), 2048, origin)\n"
        "print(publish(candidate).folder.name)"
    )
    command = [sys.executable, "-c", code, str(candidate.root), str(candidate.engine_folder), str(CHECKPOINT)]
    running = [subprocess.Popen([*command, d], stdout=subprocess.PIPE, text=True) for d in ("a", "b", "b", "c")]
    names = [process.communicate(timeout=60)[0].strip() for process in running]
    assert sorted(set(names)) == ["2", "3", "4"]
    assert names[1] == names[2]
    for name in set(names):
        verify_manifest(candidate.model_folder / name)


def test_a_model_that_is_not_there_is_named(candidate: Candidate) -> None:
    with pytest.raises(PublishError, match="other_tensorrt_llm: no such model; trireme add makes one"):
        check_target(replace(candidate, model="other_tensorrt_llm"))


def test_a_version_for_another_engine_is_refused(candidate: Candidate) -> None:
    with pytest.raises(PublishError, match=r"runs the engine openvino, and this version is for tensorrt_llm; .*render"):
        publish(replace(candidate, engine="tensorrt_llm"))
    assert not (candidate.model_folder / "2").exists()


def test_another_tokenizer_than_that_of_the_family_is_refused(candidate: Candidate, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(CHECKPOINT, other)
    text = (other / "tokenizer.json").read_text(encoding="utf-8")
    (other / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    with pytest.raises(PublishError, match=r"is another tokenizer than .*preprocessing/1/tokenizer/tokenizer\.json"):
        publish(replace(candidate, checkpoint=other))


def test_a_key_that_cannot_sign_leaves_nothing(candidate: Candidate, tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no key")
    with pytest.raises(ValueError, match="cannot be used to sign"):
        publish(candidate, tmp_path / "no.pem")
    assert sorted(path.name for path in candidate.model_folder.iterdir()) == ["1", "config.pbtxt"]
    assert [path.name for path in (candidate.root / ".trireme").iterdir()] == ["publish.lock"]
