"""Releases as files: proposed, written once, read, compared."""

import json
import stat
from pathlib import Path

import pytest

import releases_built
from trireme_ops.errors import OperatorError
from trireme_ops.layout import Layout
from trireme_ops.releases.release import (
    Release,
    create,
    differences,
    propose,
    read_release,
    release_names,
)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    made = releases_built.checkout(tmp_path_factory.mktemp("releases") / "root")
    releases_built.permuted(made)
    return made


def test_what_is_not_named_is_the_newest_version(layout: Layout) -> None:
    release = propose(layout, "r", changes={"tensorrt_llm": "1"})
    assert release.versions == {"preprocessing": 2, "tensorrt_llm": 1, "postprocessing": 2, "ensemble_unary": 1}
    assert all(len(digest) == 64 for digest in release.manifests.values())


def test_a_release_starts_with_what_another_says(layout: Layout) -> None:
    base = propose(layout, "base", changes={"tensorrt_llm": "1", "settings.max_num_sequences": "7"})
    release = propose(
        layout, "r", changes={"instances.preprocessing": "2", "settings.max_num_sequences": ""}, base=base
    )
    assert release.versions == base.versions
    assert release.settings == {}
    assert release.instances == {"preprocessing": 2}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tensorrt_llm": "9"}, "tensorrt_llm has no version '9'; there are 1, 2"),
        ({"tensorrt_llm": "../1"}, "tensorrt_llm has no version '../1'"),
        ({"engine": "1"}, "'engine' cannot be set; known are preprocessing, tensorrt_llm"),
        ({"settings.speed": "9"}, "the setting 'speed' is unknown"),
        ({"settings.max_num_sequences": "0"}, "max_num_sequences has the value '0'; it must be a whole number from 1"),
        ({"instances.tensorrt_llm": "2"}, "instances.tensorrt_llm cannot be set; preprocessing alone"),
        ({"instances.preprocessing": "99"}, "instances.preprocessing is '99'; allowed are 1 to 16"),
        ({"sampling.temperature": "hot"}, "sampling.temperature is 'hot'; allowed are"),
        ({"sampling.colour": "1"}, "sampling.colour is unknown; known are"),
    ],
)
def test_what_cannot_be_set_is_named_with_what_can(layout: Layout, changes: dict[str, str], said: str) -> None:
    with pytest.raises(OperatorError) as raised:
        propose(layout, "r", changes=changes)
    assert said in str(raised.value)


@pytest.mark.parametrize("name", ["", "r 1", "../r", "r@1", "r.1", "-r", "unreleased", "x" * 41])
def test_a_name_that_cannot_be_used_is_refused(layout: Layout, name: str) -> None:
    with pytest.raises(OperatorError, match="cannot be used for a release"):
        propose(layout, name)


def test_a_release_is_written_once_and_never_changes(layout: Layout) -> None:
    release = propose(layout, "once", changes={"sampling.temperature": "0.7"})
    path = create(layout, release)
    assert read_release(layout, "once") == release
    assert not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    text = path.read_bytes()
    # Made again it is the same one, whoever made it when.
    create(layout, propose(layout, "once", changes={"sampling.temperature": "0.7"}))
    with pytest.raises(OperatorError, match="is there already, and says otherwise; releases never change"):
        create(layout, propose(layout, "once"))
    assert path.read_bytes() == text
    assert "once" in release_names(layout)
    assert not list(path.parent.glob(".*"))


def test_an_unknown_release_is_refused_with_those_that_there_are(layout: Layout) -> None:
    create(layout, propose(layout, "known"))
    with pytest.raises(OperatorError, match=r"there is no release 'other'; there are: .*known"):
        read_release(layout, "other")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"versions": {"tensorrt_llm": 1}}, "versions says nothing of preprocessing"),
        ({"versions": {"tensorrt_llm": "1"}}, "versions is"),
        ({"manifests": {}}, "manifests is missing"),
        ({"manifests": {"preprocessing": "0"}}, "manifests says nothing of tensorrt_llm"),
        ({"llm": "../ensemble"}, "there is no LLM '../ensemble'"),
        ({"colour": "red"}, "the key 'colour' is unknown"),
        ({"smoke": "none"}, "smoke is none; a list is needed"),
        ({"llm": 3}, "llm is 3; a string is needed"),
    ],
)
def test_a_damaged_file_is_named_with_its_key(layout: Layout, change: dict[str, object], said: str) -> None:
    path = create(layout, propose(layout, "damaged"))
    document = {**json.loads(path.read_text()), **change}
    path.unlink()
    path.write_text(json.dumps(document))
    with pytest.raises(OperatorError) as raised:
        read_release(layout, "damaged")
    assert str(path) in str(raised.value)
    assert said in str(raised.value)
    path.unlink()


def test_what_two_releases_say_differently_is_listed(layout: Layout) -> None:
    one = propose(layout, "one", changes={"tensorrt_llm": "1", "settings.max_num_sequences": "8"})
    other = propose(layout, "other", changes={"settings.max_num_sequences": "16"})
    found = {key: (left, right) for key, left, right in differences(one, other)}
    assert found.keys() == {"tensorrt_llm", "settings.max_num_sequences"}
    assert found["settings.max_num_sequences"] == ("8", "16")
    assert differences(one, one) == []


def test_a_document_goes_round(layout: Layout) -> None:
    release = propose(layout, "round", smoke=({"prompt": "a", "expect": "b"},))
    assert Release.from_json(json.loads(json.dumps(release.to_json()))) == release


def test_a_version_without_a_manifest_is_refused(layout: Layout, tmp_path: Path) -> None:
    folder = layout.root / "model_repository" / "tensorrt_llm" / "77"
    folder.mkdir()
    try:
        with pytest.raises(OperatorError, match=r"77: no such version \(manifest.json"):
            propose(layout, "r", changes={"tensorrt_llm": "77"})
    finally:
        folder.rmdir()
