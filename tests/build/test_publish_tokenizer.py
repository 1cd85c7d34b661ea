"""Further versions of preprocessing and postprocessing: the checkpoint's tokenizer, whole or not at all."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import releases_built
from keys import key_pair
from support import CHECKPOINT, ROOT, TRIREME
from trireme_build.errors import PublishError
from trireme_build.pipeline.build import Build, carry_out
from trireme_build.pipeline.stages import STAGES
from trireme_build.publish_tokenizer import publish_tokenizer
from trireme_build.recipe import read_recipe
from trireme_ops.bench.root import copy_repositories
from trireme_ops.layout import Layout
from trireme_runtime.manifest import SIGNATURE, verify_manifest
from trireme_runtime.tokenizing import load_tokenizer

RECIPE = """
[source]
checkpoint = "{checkpoint}"

[verify]
texts = "texts.txt"
max_kl = 0.0
min_top1 = 0.0
max_perplexity_increase = 0.0

[compile]
engine = "openvino"

[publish]
tokenizer = {tokenizer}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the repositories to publish in."""
    return copy_repositories(Layout(ROOT), tmp_path / "root", {}).root


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A checkpoint with another tokenizer than the committed one's."""
    folder = tmp_path / "other"
    shutil.copytree(releases_built.permuted_checkpoint(), folder)
    return folder


def publish(root: Path, checkpoint: Path, model: str = "preprocessing", key: Path | None = None) -> Path:
    return publish_tokenizer(root, model, checkpoint, 1024, key).folder


@pytest.mark.parametrize("model", ["preprocessing", "postprocessing"])
def test_a_version_is_the_committed_one_with_another_tokenizer(root: Path, other: Path, model: str) -> None:
    version = publish(root, other, model)
    manifest = verify_manifest(version)
    assert (manifest["model"], manifest["version"], version.name) == (model, 2, "2")
    assert manifest["made_from"]["files"].keys() >= {"tokenizer.json", "model.safetensors"}
    assert (version / "model.py").read_text() == (version.parent / "1" / "model.py").read_text()
    assert (version / "tokenizer" / "tokenizer.json").read_bytes() == (other / "tokenizer.json").read_bytes()
    assert load_tokenizer(version / "tokenizer").model_max_length == 1024
    assert all(path.stat().st_mode & 0o222 == 0 for path in [version, *version.rglob("*")])


def test_a_tokenizer_that_is_published_is_not_published_again(root: Path, other: Path) -> None:
    first = publish(root, other)
    again = publish_tokenizer(root, "preprocessing", other, 1024)
    assert (again.folder, again.new, again.newest) == (first, False, 2)
    committed = publish_tokenizer(root, "preprocessing", CHECKPOINT, 2048)
    assert (committed.folder.name, committed.new, committed.newest) == ("1", False, 2)


@pytest.mark.parametrize("name", ["tokenizer.json", "special_tokens_map.json", "chat_template.jinja"])
def test_any_change_of_the_tokenizer_makes_a_version(root: Path, other: Path, name: str) -> None:
    publish(root, other)
    with (other / name).open("a") as file:
        file.write("\n")
    assert publish(root, other).name == "3"


def test_what_is_published_with_a_key_is_signed(root: Path, other: Path, tmp_path: Path) -> None:
    version = publish(root, other)
    assert not (version / SIGNATURE).exists()
    key, _ = key_pair(tmp_path)
    assert publish(root, other, key=key) == version
    assert (version / SIGNATURE).is_file()


def test_models_that_do_not_tokenize_or_are_not_there_are_refused(root: Path, other: Path) -> None:
    for model in ("tensorrt_llm", "ensemble_unary"):
        with pytest.raises(PublishError, match=f"{model}: does not tokenize; preprocessing and postprocessing do"):
            publish(root, other, model)
    with pytest.raises(PublishError, match="tiny_preprocessing: no such model; trireme add makes one"):
        publish(root, other, "tiny_preprocessing")


def test_a_checkpoint_without_a_tokenizer_is_refused(root: Path, other: Path) -> None:
    (other / "tokenizer.json").unlink()
    with pytest.raises(PublishError, match=r"other/tokenizer\.json: missing; a fast tokenizer is needed"):
        publish(root, other)


def test_a_key_that_cannot_sign_leaves_nothing(root: Path, other: Path, tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no key")
    with pytest.raises(ValueError, match="cannot be used to sign"):
        publish(root, other, key=tmp_path / "no.pem")
    assert sorted(path.name for path in (root / "model_repository" / "preprocessing").iterdir()) == [
        "1",
        "config.pbtxt",
    ]


def build(root: Path, folder: Path, checkpoint: Path, tokenizer: bool) -> Build:
    """Carry a recipe out, but for the stages that need torch."""
    path = folder / "mine.toml"
    path.write_text(RECIPE.format(checkpoint=checkpoint, tokenizer=str(tokenizer).lower()))
    (folder / "texts.txt").write_text("What is 37 + 58?\n")
    carried = Build(read_recipe(path), root)
    carry_out(carried, [stage for stage in STAGES if stage.name in ("inspect", "target", "compile", "publish")])
    return carried


def test_a_recipe_publishes_the_tokenizer_with_the_engine_once(root: Path, other: Path, tmp_path: Path) -> None:
    wanted = {"preprocessing": 2, "postprocessing": 2, "tensorrt_llm": 2}
    for _ in range(2):
        assert build(root, tmp_path, other, True).results["publish"]["versions"] == wanted
    manifest = verify_manifest(root / "model_repository" / "postprocessing" / "2")
    assert manifest["recipe"] == "mine"


def test_another_chat_template_makes_versions_of_all_models(root: Path, other: Path, tmp_path: Path) -> None:
    build(root, tmp_path, other, True)
    (other / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert set(build(root, tmp_path, other, True).results["publish"]["versions"].values()) == {3}


def test_without_that_key_an_engine_needs_a_tokenizer_that_is_there(root: Path, other: Path, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match=r"is another tokenizer than .*publish\.tokenizer = true.*trireme add NAME"):
        build(root, tmp_path, other, False)
    publish(root, other, "preprocessing")
    publish(root, other, "postprocessing")
    assert build(root, tmp_path, other, False).results["publish"]["versions"] == {"tensorrt_llm": 2}
    # That of version 1 is there still.
    assert build(root, tmp_path, CHECKPOINT, False).results["publish"]["versions"] == {"tensorrt_llm": 3}


def command(root: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    words = [TRIREME, "publish-tokenizer", *arguments]
    env = {"TRIREME_ROOT": str(root), "PATH": "/usr/bin:/bin"}
    return subprocess.run(words, capture_output=True, text=True, timeout=60, env=env)


def test_the_command_publishes_both(root: Path, other: Path) -> None:
    assert command(root, "--checkpoint", other).stdout == "preprocessing/2\npostprocessing/2\n"
    assert command(root, "--checkpoint", other).stdout.count("published before") == 2


def test_the_command_names_what_is_wrong(root: Path, other: Path, tmp_path: Path) -> None:
    assert "there is no LLM 'tiny'; there are ensemble" in command(root, "--checkpoint", other, "--llm", "tiny").stderr
    assert "no.pem: no such file; --key names it" in command(root, "--checkpoint", other, "--key", "no.pem").stderr
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    done = command(root, "--checkpoint", other)
    assert done.returncode == 1
    assert done.stderr.startswith("trireme: ")
    assert "100" in done.stderr
