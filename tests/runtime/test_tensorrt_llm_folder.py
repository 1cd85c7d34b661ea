"""Engine folders are judged by their files, without TensorRT."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from engine_folders import CONFIG, PLAN, config_with, write_engine_folder
from trireme_runtime.engines.tensorrt_llm_folder import EngineFolder, EngineFolderError, read_engine_folder, unsuitable


def test_a_folder_says_what_it_was_built_for(tmp_path: Path) -> None:
    folder = write_engine_folder(tmp_path)
    assert read_engine_folder(folder, 90) == EngineFolder(
        tensorrt_llm_version="1.2.1",
        tensorrt_version="10.14.1.48",
        world_size=1,
        dtype="bfloat16",
        quant_algo="FP8",
        kv_cache_quant_algo="FP8",
        vocab_size=100,
        max_batch_size=8,
        max_input_len=512,
        max_seq_len=1024,
        max_num_tokens=2048,
        max_beam_width=4,
        tokens_per_block=32,
        paged_context_fmha=True,
        size_bytes=len(PLAN) + len(json.dumps(CONFIG)),
    )


def test_one_plan_for_each_rank(tmp_path: Path) -> None:
    config = config_with(pretrained_config__mapping={"tp_size": 2, "pp_size": 2, "cp_size": 1})
    assert read_engine_folder(write_engine_folder(tmp_path, config, ranks=4)).world_size == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"further": 1}, "the keys are build_config, further, pretrained_config, version"),
        ({"build_config": None}, "the keys are pretrained_config, version"),
        ({"version": 1.2}, "version is 1.2; a text that is not empty is needed"),
        ({"version": "new"}, 'version is "new"; a version such as 1.2.1'),
        ({"version": "1.3.0rc1"}, 'version is "1.3.0rc1"; 1.2 is the newest whose engines are known'),
        ({"version": "2.0.0"}, "1.2 is the newest"),
        ({"pretrained_config": []}, r"pretrained_config is \[\]; an object is needed"),
        ({"pretrained_config__architecture": ""}, 'pretrained_config.architecture is ""'),
        ({"pretrained_config__dtype": "fp8"}, 'pretrained_config.dtype is "fp8"; known are float16, bfloat16'),
        ({"pretrained_config__hidden_size": 0}, "pretrained_config.hidden_size is 0; a whole number above 0"),
        ({"pretrained_config__num_attention_heads": None}, "pretrained_config.num_attention_heads is missing"),
        ({"pretrained_config__vocab_size": True}, "pretrained_config.vocab_size is true"),
        ({"pretrained_config__quantization__quant_algo": "FP7"}, 'quantization.quant_algo is "FP7"; known are W8A16'),
        ({"pretrained_config__quantization__kv_cache_quant_algo": "W4A16"}, "known are FP8, INT8, NVFP4"),
        ({"pretrained_config__mapping": None}, "pretrained_config.mapping is missing"),
        ({"build_config__max_batch_size": 0}, "build_config.max_batch_size is 0"),
        ({"build_config__max_num_tokens": 8.5}, "build_config.max_num_tokens is 8.5"),
        ({"build_config__max_beam_width": "4"}, 'build_config.max_beam_width is "4"'),
        ({"build_config__max_input_len": 1025}, "max_input_len is 1025; at most max_seq_len, 1024, is allowed"),
        ({"build_config__plugin_config__use_paged_context_fmha": 1}, "use_paged_context_fmha is 1; true or false"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = write_engine_folder(tmp_path, config_with(**changes))
    with pytest.raises(EngineFolderError, match=rf"{re.escape(str(folder / 'config.json'))}: .*{message}"):
        read_engine_folder(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_a_config_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    folder = write_engine_folder(tmp_path)
    (folder / "config.json").write_text(text)
    with pytest.raises(EngineFolderError, match=r"config\.json: "):
        read_engine_folder(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rank0.engine", b"ftrt", "rank0.engine: has 4 bytes; a plan has at least 28"),
        ("rank0.engine", b"onnx" + PLAN[4:], "rank0.engine: begins with b'onnx'"),
        ("rank0.engine", b"ftrt" + b"\1" + PLAN[5:], "rank0.engine: bytes 4 to 7 are 01000000"),
        ("rank1.engine", PLAN, "rank1.engine: not of this engine; it has the ranks 0 to 0"),
        ("decoder.engine", PLAN, "decoder.engine: not of this engine"),
    ],
)
def test_plans_that_do_not_belong_there_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    folder = write_engine_folder(tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(EngineFolderError, match=message):
        read_engine_folder(folder)


def test_a_missing_plan_and_plans_of_two_versions_are_refused(tmp_path: Path) -> None:
    config = config_with(pretrained_config__mapping={"tp_size": 2})
    folder = write_engine_folder(tmp_path, config)
    with pytest.raises(EngineFolderError, match=r"rank1\.engine: missing; .* asks for 2 ranks"):
        read_engine_folder(folder)
    (folder / "rank1.engine").write_bytes(PLAN[:26] + bytes([2]) + PLAN[27:])
    with pytest.raises(EngineFolderError, match=r"rank 0 of 10\.14\.1\.48, rank 1 of 10\.14\.2\.48"):
        read_engine_folder(folder)


@pytest.mark.parametrize(
    ("weights", "kv_cache", "sm"),
    [
        ("FP8", None, 89),
        ("FP8_BLOCK_SCALES", None, 89),
        ("W4A16_AWQ", "FP8", 89),
        ("W4A8_AWQ", None, 89),
        ("NVFP4", "FP8", 100),
        ("FP8", "NVFP4", 100),
    ],
)
def test_a_format_needs_its_tensor_cores(tmp_path: Path, weights: str | None, kv_cache: str | None, sm: int) -> None:
    quantization = {"quant_algo": weights, "kv_cache_quant_algo": kv_cache}
    folder = write_engine_folder(tmp_path, config_with(pretrained_config__quantization=quantization))
    assert read_engine_folder(folder).quant_algo == weights
    assert read_engine_folder(folder, sm).kv_cache_quant_algo == kv_cache
    with pytest.raises(EngineFolderError, match=f"it needs SM {sm} or above, and the target is SM {sm - 1}"):
        read_engine_folder(folder, sm - 1)


@pytest.mark.parametrize("weights", ["W4A16_AWQ", "W8A8_SQ_PER_CHANNEL", "FP8_PER_CHANNEL_PER_TOKEN"])
def test_data_centre_blackwell_has_no_engines_with_integers(weights: str) -> None:
    assert unsuitable(weights, 90) is None
    assert unsuitable(weights, 100) == "SM 100 to 119 have no engines with it, and the target is SM 100"
    assert unsuitable(weights, 120) is None
    assert unsuitable("W4A16_MXFP4", 100) is None
    assert unsuitable(None, 100) is None
