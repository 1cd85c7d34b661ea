"""Quantized checkpoints, written here code by code, against the same weights in float32."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from tokenizers_built import metaspace_bpe
from trireme_build.checkpoint import DecoderShape, Tensors, read_config
from trireme_build.errors import CheckpointError
from trireme_build.exact_match import engine_answers
from trireme_build.exported import open_weights
from trireme_build.matrices import WeightFormat, rounded
from trireme_build.openvino_decoder import convert_checkpoint
from trireme_build.random_checkpoint import write_checkpoint

PROMPTS = [[7, 8, 9], list(range(10, 40)), [20] * 5]


def save(tensors: Mapping[str, tuple[str, Any]], path: Path) -> None:
    """A safetensors file; numpy has no names for all of its types, so that each tensor comes with one."""
    header, data = {}, b""
    for name, (dtype, values) in tensors.items():
        raw = np.ascontiguousarray(values).tobytes()
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def coded(algorithm: str, name: str, shape: list[int], rng: np.random.Generator) -> tuple[dict[str, Any], Any]:
    """The tensors of a matrix in the layout of an algorithm, and its values float32 [out, in]."""
    rows, columns = shape
    if algorithm == "FP8":
        codes = (rng.standard_normal(shape) * 60).astype(ml_dtypes.float8_e4m3fn)
        scale = np.float32(0.004)
        tensors = {"weight": ("F8_E4M3", codes), "weight_scale": ("F32", np.array(scale))}
        return {f"{name}.{key}": value for key, value in tensors.items()}, codes.astype(np.float32) * scale
    if algorithm == "NVFP4":
        codes = rng.integers(0, 16, shape).astype(np.uint8)
        blocks = (1 + rng.random((rows, columns // 16)) * 9).astype(ml_dtypes.float8_e4m3fn)
        scale = np.float32(0.02)
        tensors = {
            "weight": ("U8", codes[:, ::2] | codes[:, 1::2] << 4),
            "weight_scale": ("F8_E4M3", blocks),
            "weight_scale_2": ("F32", np.array(scale)),
        }
        # E2M1: a sign, and 0, 0.5, 1, 1.5, 2, 3, 4, 6.
        magnitudes = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
        signed = np.where(codes > 7, -1, 1) * magnitudes[codes & 7]
        values = signed * (blocks.astype(np.float32) * scale).repeat(16, axis=1)
        return {f"{name}.{key}": value for key, value in tensors.items()}, values.astype(np.float32)
    factors = (0.5 + rng.random(columns)).astype(np.float32)
    if algorithm == "W4A16_AWQ":
        codes = rng.integers(-8, 8, shape).astype(np.int8)
        scales = (0.01 + rng.random((rows, columns // 32)) * 0.1).astype(np.float32)
        nibbles = codes.view(np.uint8) & 0x0F
        tensors = {
            "weight": ("U8", nibbles[::2] | nibbles[1::2] << 4),
            "weight_scale": ("F32", scales),
            "pre_quant_scale": ("F32", factors),
        }
        values = codes * scales.repeat(32, axis=1) * factors
    else:
        codes = rng.integers(-127, 128, shape).astype(np.int8)
        scales = (0.001 + rng.random(rows) * 0.004).astype(np.float32)
        tensors = {"weight": ("I8", codes), "weight_scale": ("F32", scales), "pre_quant_scale": ("F32", factors)}
        values = codes * scales[:, np.newaxis] * factors
    return {f"{name}.{key}": value for key, value in tensors.items()}, values.astype(np.float32)


def write_both(folder: Path, algorithm: str) -> tuple[Path, Path]:
    """A quantized checkpoint, and one in float32 with the same weights."""
    full, quantized = folder / "full", folder / "quantized"
    write_checkpoint(full, metaspace_bpe())
    shutil.copytree(full, quantized)
    config = read_config(full)
    shape = DecoderShape.from_config(config)
    weights = {name: values for name, values in Tensors(full).items()}  # noqa: C416
    stored: dict[str, Any] = {name: ("F32", values) for name, values in weights.items()}
    rng = np.random.default_rng(3)
    for name in shape.linear_layers:
        tensors, values = coded(algorithm, name, shape.weight_shapes[f"{name}.weight"], rng)
        stored |= tensors
        stored[f"{name}.input_scale"] = ("F32", np.array(np.float32(1)))
        weights[f"{name}.weight"] = values
    save(stored, quantized / "model.safetensors")
    save_file(weights, full / "model.safetensors")
    config["quantization_config"] = {"quant_method": "modelopt", "quant_algo": algorithm}
    (quantized / "config.json").write_text(json.dumps(config))
    return full, quantized


def answers(checkpoint: Path, engine: Path) -> list[list[int]]:
    engine.mkdir()
    convert_checkpoint(checkpoint, engine)
    shutil.copyfile(checkpoint / "config.json", engine / "config.json")
    return engine_answers(engine, PROMPTS, [24] * len(PROMPTS), None)


@pytest.mark.parametrize("algorithm", ["FP8", "NVFP4", "W4A16_AWQ", "W8A8_SQ_PER_CHANNEL"])
def test_codes_and_scales_are_the_weights_that_they_stand_for(tmp_path: Path, algorithm: str) -> None:
    full, quantized = write_both(tmp_path, algorithm)
    _, weights, _ = open_weights(quantized)
    for name in DecoderShape.from_config(read_config(full)).linear_layers:
        np.testing.assert_allclose(
            weights.matrix(name, WeightFormat.F32).values(), Tensors(full)[f"{name}.weight"], rtol=1e-6
        )
    assert answers(quantized, tmp_path / "a") == answers(full, tmp_path / "b")


@pytest.mark.parametrize(
    ("remove", "add", "words"),
    [
        ("model.layers.0.mlp.up_proj.weight_scale_2", None, "up_proj.weight_scale_2 is missing; NVFP4 has it"),
        ("model.layers.1.self_attn.q_proj.weight", None, "q_proj.weight is missing"),
        ("model.layers.0.mlp.up_proj.weight_scale", None, "up_proj.weight is U8 .* NVFP4 has F64 or F32"),
        (None, "model.layers.0.mlp.up_proj.zeros", "up_proj.zeros is not part of a NVFP4 checkpoint"),
    ],
)
def test_what_does_not_belong_together_is_named(
    tmp_path: Path, remove: str | None, add: str | None, words: str
) -> None:
    _, quantized = write_both(tmp_path, "NVFP4")
    tensors = Tensors(quantized)
    stored: dict[str, Any] = {name: (tensors.dtype(name), tensors.stored(name)) for name in tensors}
    stored.pop(remove, None)
    if add:
        stored[add] = ("F32", np.zeros(3, np.float32))
    save(stored, tmp_path / "changed.safetensors")
    shutil.move(tmp_path / "changed.safetensors", quantized / "model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        open_weights(quantized)


@pytest.mark.parametrize(("weight_format", "far"), [(WeightFormat.INT8, 0.01), (WeightFormat.INT4, 0.12)])
def test_rounding_stays_near_and_keeps_zeros(weight_format: WeightFormat, far: float) -> None:
    values = np.random.default_rng(0).standard_normal((8, 128), np.float32)
    values[3] = 0
    matrix = rounded(values, weight_format)
    error = np.linalg.norm(matrix.values() - values) / np.linalg.norm(values)
    assert 0 < error < far
    assert (matrix.values()[3] == 0).all()
    assert matrix.shape == (8, 128)
