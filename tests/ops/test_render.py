"""Deployment profiles, and the repositories that `trireme render` writes."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from raw import ask, connected
from support import CHECKPOINT, ROOT, TRIREME, start_server, stop_server
from trireme_ops import profiles, render
from trireme_ops.errors import OperatorError
from trireme_ops.family import FamilySpec, add_family
from trireme_ops.layout import Layout
from trireme_runtime.engines import ENGINE_NAMES
from trireme_runtime.manifest import read_manifest, verify_manifest, write_manifest
from trireme_runtime.settings import FLAGS, NUMBERS, WHOLE_NUMBERS

GPU_PROFILES = [profile for profile in profiles.PROFILES if profile != "cpu"]


def parse(text: str) -> Any:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def configs(root: Path) -> dict[str, Any]:
    paths = [*root.glob("model_repository/*/config.pbtxt"), *root.glob("ensembles/*/config.pbtxt")]
    return {path.parent.name: parse(path.read_text(encoding="utf-8")) for path in paths}


def trireme(root: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    env = {"TRIREME_ROOT": str(root), "PATH": "/usr/bin:/bin"}
    return subprocess.run([TRIREME, *arguments], capture_output=True, text=True, env=env, timeout=60)


@pytest.fixture
def checkout(tmp_path: Path) -> Layout:
    """The committed repositories with a second LLM's engine model, and a version of each for TensorRT-LLM."""
    root = tmp_path / "checkout"
    for name in ("model_repository", "ensembles"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "engine"))
    models = root / "model_repository"
    shutil.copytree(models / "tensorrt_llm", models / "tiny_tensorrt_llm")
    config = models / "tiny_tensorrt_llm" / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "tensorrt_llm"', 'name: "tiny_tensorrt_llm"'))
    version = models / "tensorrt_llm" / "2"
    shutil.copytree(models / "tensorrt_llm" / "1", version)
    write_manifest(version, {"model": "tensorrt_llm", "version": 2, "engine": "tensorrt_llm"})
    shutil.copytree(ROOT / "build" / "checkpoints", root / "build" / "checkpoints")
    return Layout(root)


class TestLayingOver:
    def test_scalars_and_messages_are_merged(self) -> None:
        config = parse('name: "m" backend: "python" max_batch_size: 128 dynamic_batching { preserve_ordering: true }')
        profiles.lay_over(config, parse("max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 7 }"))
        assert config == parse(
            'name: "m" backend: "python" max_batch_size: 4 '
            "dynamic_batching { preserve_ordering: true max_queue_delay_microseconds: 7 }"
        )

    def test_a_repeated_field_is_replaced_and_a_map_by_key(self) -> None:
        config = parse(
            "instance_group [ { count: 1, kind: KIND_CPU }, { count: 2 } ] "
            'parameters { key: "a", value: { string_value: "1" } }'
            'parameters { key: "b", value: { string_value: "2" } }'
        )
        changes = 'instance_group [ { count: 3 } ] parameters { key: "b", value: { string_value: "3" } }'
        profiles.lay_over(config, parse(changes))
        assert [group.count for group in config.instance_group] == [3]
        assert {key: value.string_value for key, value in config.parameters.items()} == {"a": "1", "b": "3"}

    def test_an_empty_message_counts(self) -> None:
        config = parse('name: "m"')
        profiles.lay_over(config, parse("dynamic_batching { }"))
        assert config.HasField("dynamic_batching")

    @pytest.mark.parametrize(
        ("overlay", "message"),
        [
            ("max_batch_sizes: 4", r'm\.pbtxt: 1:1 : .*no field named "max_batch_sizes"'),
            ('max_batch_size: "four"', r"m\.pbtxt: 1:"),
            ("instance_group { kind: KIND_TPU }", "KIND_TPU"),
            ('parameters { key: "engin", value: { string_value: "x" } }', "m has no parameter 'engin'"),
        ],
    )
    def test_what_is_misspelt_is_refused(self, tmp_path: Path, overlay: str, message: str) -> None:
        (tmp_path / "p").mkdir()
        (tmp_path / "p" / "m.pbtxt").write_text(overlay)
        config = parse('name: "m" parameters { key: "engine", value: { string_value: "x" } }')
        with pytest.raises(OperatorError, match=message):
            profiles.apply("p", config, tmp_path)


@pytest.mark.parametrize("profile", GPU_PROFILES)
def test_what_a_profile_sets_is_within_the_limits_of_the_settings(profile: str) -> None:
    limits = {**WHOLE_NUMBERS, **NUMBERS}
    config = configs(ROOT)["tensorrt_llm"]
    before = {key: value.string_value for key, value in config.parameters.items()}
    assert profiles.apply(profile, config)
    values = {key: value.string_value for key, value in config.parameters.items()}
    assert values["engine"] in ENGINE_NAMES
    assert values["engine"] != before["engine"]
    assert values.keys() == before.keys()
    for key in limits:
        if key in values:
            lowest, highest = limits[key]
            assert lowest <= float(values[key]) <= highest
    assert all(values[key] in ("true", "false") for key in FLAGS)
    # One process owns the GPU.
    assert [group.count for group in config.instance_group] == [1]


def test_every_overlay_belongs_to_a_model() -> None:
    names = {path.stem for profile in profiles.PROFILES for path in (profiles.FOLDER / profile).glob("*")}
    assert names
    assert names <= configs(ROOT).keys()
    assert {path.name for path in profiles.FOLDER.iterdir() if path.is_dir()} - {"__pycache__"} == set(GPU_PROFILES)


@pytest.mark.parametrize("profile", GPU_PROFILES)
def test_a_gpu_root_parses_and_takes_along_what_is_for_its_engine(
    checkout: Layout, tmp_path: Path, profile: str
) -> None:
    out = tmp_path / "out"
    (checkout.root / "model_repository" / "preprocessing" / "1" / "__pycache__").mkdir()
    rendered = render.render(checkout, profile, out)
    found = configs(out)
    assert found.keys() == configs(checkout.root).keys()
    for config in found.values():
        for step in config.ensemble_scheduling.step:
            assert step.model_name in found
    engine = found["tensorrt_llm"].parameters["engine"].string_value
    assert found["tiny_tensorrt_llm"].parameters["engine"].string_value == engine
    assert found["preprocessing"] == configs(checkout.root)["preprocessing"]
    versions = {path.name for path in (out / "model_repository" / "tensorrt_llm").iterdir() if path.is_dir()}
    assert versions == ({"2"} if engine == "tensorrt_llm" else set())
    missing = ["tiny_tensorrt_llm"] if engine == "tensorrt_llm" else ["tensorrt_llm", "tiny_tensorrt_llm"]
    assert rendered.without_version == missing
    assert not list(out.rglob("__pycache__"))
    assert not (out / "build").exists(), "no checkpoint where no engine is made from one"
    layout = Layout(out)
    assert layout.engine_versions == []
    for version in layout.versions:
        verify_manifest(version)


def test_a_version_for_a_gpu_is_not_made_at_serve(checkout: Layout) -> None:
    version = checkout.root / "model_repository" / "tiny_tensorrt_llm" / "1"
    assert checkout.engine_versions == [version]
    write_manifest(version, {"engine": "tensorrt_llm", "source": read_manifest(version)["source"]})
    assert version in checkout.served_versions
    assert checkout.engine_versions == []


@pytest.mark.parametrize("content", ["file", "folder"])
def test_an_out_that_holds_something_is_refused(tmp_path: Path, content: str) -> None:
    out = tmp_path / "out"
    if content == "folder":
        out.mkdir()
        (out / "mine").touch()
    else:
        out.touch()
    done = trireme(ROOT, "render", "trtllm", out)
    assert done.returncode == 1
    assert done.stderr.strip() == f"trireme: {out} is there and not empty; name a folder that is not"
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing is left behind"


def test_no_llm_is_added_to_a_gpu_root(checkout: Layout, tmp_path: Path) -> None:
    render.render(checkout, "trtllm", tmp_path / "out")
    with pytest.raises(OperatorError, match=r"is for the engine tensorrt_llm.*add the LLM to the checkout"):
        add_family(Layout(tmp_path / "out"), FamilySpec("more", CHECKPOINT))


def test_an_empty_out_is_taken_and_one_inside_a_repository_refused(checkout: Layout, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert render.render(checkout, "trtllm", out).models
    with pytest.raises(OperatorError, match="inside a model repository"):
        render.render(checkout, "trtllm", checkout.root / "model_repository" / "new")


def test_a_changed_version_is_not_rendered_and_nothing_is_left(checkout: Layout, tmp_path: Path) -> None:
    (checkout.root / "model_repository" / "preprocessing" / "1" / "model.py").write_text("print()\n")
    done = trireme(checkout.root, "render", "trtllm", tmp_path / "out")
    assert done.returncode == 1
    assert "a version is not what its manifest says" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["checkout"]


def test_the_next_steps_name_both_repositories_and_keep_the_key_to_themselves(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = trireme(ROOT, "render", "trtllm-engine", out)
    assert done.returncode == 0, done.stderr
    assert f"TRIREME_ROOT={out} trireme build RECIPE" in done.stdout
    key = (out / ".trireme" / "control.key").read_text().strip()
    assert key not in done.stdout
    script = done.stdout[done.stdout.index("docker run") : done.stdout.index("(Never run")]
    # What a shell makes of it: the words of one command.
    fake = tmp_path / "docker"
    fake.write_text('#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done\n')
    fake.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    words = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True, check=True).stdout.split("\n")
    for repository in Layout(out).repositories:
        assert f"--model-repository={repository}" in words
    assert "--load-model=*" in words
    assert "--model-control-mode=explicit" in words
    assert any(word.endswith(f"trireme-control={key}") for word in words)
    assert f"PYTHONPATH={ROOT / 'runtime'}" in words


def test_the_profile_cpu_is_the_committed_repository_and_serves(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = trireme(ROOT, "render", "cpu", out)
    assert done.returncode == 0, done.stderr
    assert "TRIREME_ROOT=" in done.stdout
    assert configs(out) == configs(ROOT)
    server = start_server(tmp_path, env={"TRIREME_ROOT": str(out)})
    try:
        with connected(server.grpc) as raw:
            assert raw.one("ensemble", text_input=ask("Reverse: stream"), max_tokens=20)["text_output"] == ["maerts"]
    finally:
        stop_server(server)
