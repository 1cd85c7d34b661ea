"""The command line of trtllm-build, taken by a stand-in that knows upstream's flags and no other."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine_folders import CONFIG
from support import ROOT
from trireme_build.errors import TargetError
from trireme_build.tensorrt_llm_command import (
    QUANTIZATIONS,
    TensorRtLlmTarget,
    build_command,
    command_here,
    container_command,
    missing_for_gpu,
)
from trireme_runtime.engines.tensorrt_llm_folder import read_engine_folder

IMAGE = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
SIZES: dict[str, Any] = {"max_batch_size": 16, "max_input_len": 256, "max_seq_len": 512, "max_num_tokens": 4096}
#: An SM that can compute every format.
TARGET = TensorRtLlmTarget(IMAGE, 120, **SIZES, max_beam_width=2)


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def trtllm_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in on the PATH, as in NVIDIA's container."""
    fake = ROOT / "tests" / "fakes" / "trtllm_build.py"
    path = executable(tmp_path / "bin" / "trtllm-build", f'#!/bin/sh\nexec {sys.executable} {fake} "$@"\n')
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    return path


def write_checkpoint(folder: Path, quantization: str) -> Path:
    weights, kv_cache = QUANTIZATIONS[quantization]
    config = {**CONFIG["pretrained_config"], "quantization": {"quant_algo": weights, "kv_cache_quant_algo": kv_cache}}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def value_of(command: list[str], flag: str) -> str | None:
    return command[command.index(flag) + 1] if flag in command else None


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_the_stand_in_takes_it_and_makes_a_folder_that_can_be_served(
    trtllm_build: Path, tmp_path: Path, quantization: str
) -> None:
    checkpoint, out = write_checkpoint(tmp_path / "checkpoint", quantization), tmp_path / "engine"
    command = command_here(checkpoint, out, TARGET, quantization)
    assert command[0] == "trtllm-build"
    subprocess.run(command, check=True, timeout=30, cwd=tmp_path)
    engine = read_engine_folder(out, TARGET.sm)
    assert (engine.quant_algo, engine.kv_cache_quant_algo) == QUANTIZATIONS[quantization]
    assert {name: getattr(engine, name) for name in SIZES} == SIZES
    assert engine.max_beam_width == 2
    assert engine.paged_context_fmha
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "rank0.engine"]


def test_the_stand_in_refuses_what_upstream_does_not_have(trtllm_build: Path, tmp_path: Path) -> None:
    command = build_command(tmp_path, tmp_path / "engine", TARGET, "fp8")
    for further in (["--max_output_len", "4"], ["--gemm_plugin", "fp4"], ["--use_fp8_context_fmha", "true"]):
        done = subprocess.run([*command, *further], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 2
        assert further[0] in done.stderr


def test_plugins_suit_the_quantization() -> None:
    def flags(quantization: str) -> tuple[str | None, str | None]:
        command = build_command(Path("c"), Path("o"), TARGET, quantization)
        return value_of(command, "--gemm_plugin"), value_of(command, "--use_fp8_context_fmha")

    assert flags("bf16") == ("auto", "disable")
    assert flags("fp8") == ("disable", "disable")
    assert flags("fp8_kv") == ("disable", "enable")
    assert flags("nvfp4") == (None, "disable")
    assert flags("int4_awq") == ("auto", "disable")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_batch_size": 0}, "target: max_batch_size is 0; a whole number above 0 is needed"),
        ({"max_num_tokens": 8.5}, "target: max_num_tokens is 8.5"),
        ({"max_beam_width": True}, "target: max_beam_width is True"),
        ({"max_input_len": 513}, "target: max_input_len is 513; at most max_seq_len, 512, is allowed"),
        ({"tokens_per_block": 48}, "tokens_per_block is 48; a power of two"),
        ({"sm": -1}, "target: sm is -1"),
        ({"image": "--privileged"}, "target: image is '--privileged'"),
        ({"image": "a b"}, "target: image is 'a b'"),
    ],
)
def test_a_target_that_cannot_be_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        TensorRtLlmTarget(**{"image": IMAGE, "sm": 90, **SIZES, **changes})


@pytest.mark.parametrize(("quantization", "sm"), [("fp8", 89), ("fp8_kv", 89), ("nvfp4", 100)])
def test_a_format_needs_a_gpu_that_has_it(quantization: str, sm: int) -> None:
    build_command(Path("c"), Path("o"), TensorRtLlmTarget(IMAGE, sm, **SIZES), quantization)
    older = TensorRtLlmTarget(IMAGE, sm - 1, **SIZES)
    for command in (build_command, container_command):
        with pytest.raises(TargetError, match=f"target: quantization is {quantization}: it needs SM {sm} or above"):
            command(Path("c"), Path("o"), older, quantization)
    with pytest.raises(TargetError, match="int4_awq: SM 100 to 119 have no engines with it"):
        build_command(Path("c"), Path("o"), TensorRtLlmTarget(IMAGE, 103, **SIZES), "int4_awq")
    with pytest.raises(TargetError, match="quantization is 'fp5'; known are bf16, fp8"):
        build_command(Path("c"), Path("o"), TARGET, "fp5")


def test_the_container_has_no_network_and_cannot_change_the_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "engine"
    command = container_command(tmp_path / "checkpoint", out, TARGET, "fp8")
    outside, inside = command[: command.index(IMAGE)], command[command.index(IMAGE) + 1 :]
    assert outside[:3] == ["docker", "run", "--rm"]
    assert value_of(outside, "--gpus") == "all"
    assert value_of(outside, "--network") == "none"
    assert value_of(outside, "--user") == f"{os.getuid()}:{os.getgid()}"
    volumes = [outside[index + 1] for index, word in enumerate(outside) if word == "--volume"]
    assert volumes == [f"{tmp_path}/checkpoint:/checkpoint:ro", f"{out}:/engine"]
    assert value_of(inside, "--checkpoint_dir") == "/checkpoint"
    assert value_of(inside, "--output_dir") == "/engine"
    assert inside[0] == "trtllm-build"
    assert value_of(inside, "--output_timing_cache") == "/tmp/timing-cache", "where its user may write"


def test_what_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools, dev = tmp_path / "bin", tmp_path / "dev"
    tools.mkdir()
    dev.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    assert missing_for_gpu(dev) == [
        "neither trtllm-build nor a container runtime (docker, podman) is on the PATH",
        f"there is no NVIDIA GPU: neither {dev}/nvidia0 nor nvidia-smi",
    ]
    executable(tools / "podman", "#!/bin/sh\n")
    assert [text for text in missing_for_gpu(dev) if "runtime" in text] == []
    command = command_here(tmp_path, tmp_path, TARGET, "fp8")
    assert command[0] == "podman"
    assert value_of(command, "--device") == "nvidia.com/gpu=all"
    (dev / "nvidia0").touch()
    assert missing_for_gpu(dev) == []


def test_inside_nvidias_container_no_other_is_needed(trtllm_build: Path, tmp_path: Path) -> None:
    assert all("runtime" not in text for text in missing_for_gpu(tmp_path))
    executable(trtllm_build.parent / "nvidia-smi", "#!/bin/sh\n")
    assert missing_for_gpu(tmp_path) == []
