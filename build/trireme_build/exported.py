"""Quantized checkpoints as nvidia-modelopt exports them for the LLM API: a Hugging Face folder with codes and scales.

Beside each quantized `NAME.weight` stand its scales. Their layout per algorithm, as its exporter 0.47.0 writes it:

- FP8: weight F8_E4M3 [out, in], weight_scale F32 []
- NVFP4: weight U8 [out, in / 2], two f4e2m1 a byte, the first in the low half; weight_scale F8_E4M3 [out, in / 16],
  weight_scale_2 F32 [], the scale being their product
- W4A16_AWQ: weight U8 [out / 2, in], two rows a byte, the first in the low half; weight_scale F32 [out, in / group];
  pre_quant_scale [in] where it was not folded into the norm before
- W8A8_SQ_PER_CHANNEL: weight I8 [out, in], weight_scale F32 [out], pre_quant_scale [in]

Scales of activations and of the key-value cache (input_scale, k_scale, v_scale) belong to engines that quantize those.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .checkpoint import DecoderShape, Tensors, check_names, check_weights, read_config
from .errors import CheckpointError
from .matrices import Codes, Matrix, WeightFormat, rounded, two_rows_of_a_byte, unpacked

_SCALES = ("weight_scale", "weight_scale_2", "pre_quant_scale", "input_scale")
_CACHE_SCALES = ("k_proj.k_scale", "v_proj.v_scale")


class Weights(Protocol):
    """The weights of a checkpoint, however they are stored."""

    def matrix(self, name: str, weight_format: WeightFormat) -> Matrix:
        """The matrix `name`, without ".weight"; what is not quantized already is rounded to `weight_format`."""

    def vector(self, name: str) -> NDArray[np.float32]:
        """The tensor of this full name: a norm's weights, or a bias."""


class FullWeights:
    """The weights of a checkpoint that is not quantized. `tensors`: float32 by name."""

    def __init__(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        self._tensors = tensors

    def matrix(self, name: str, weight_format: WeightFormat) -> Matrix:
        """See Weights."""
        return rounded(self._tensors[f"{name}.weight"], weight_format)

    def vector(self, name: str) -> NDArray[np.float32]:
        """See Weights."""
        return self._tensors[name]


class ExportedWeights:
    """The weights of a quantized checkpoint. Raises CheckpointError for one that is not what its algorithm says."""

    def __init__(self, tensors: Tensors, shape: DecoderShape, algorithm: str) -> None:
        self.algorithm = algorithm
        self._tensors = tensors
        self._shapes = shape.weight_shapes
        self._check(shape)

    def _check(self, shape: DecoderShape) -> None:
        scales = {f"{layer}.{scale}" for layer in shape.linear_layers for scale in _SCALES}
        scales |= {f"model.layers.{i}.self_attn.{scale}" for i in range(shape.num_layers) for scale in _CACHE_SCALES}
        check_names(self._tensors, shape, scales, f"a {self.algorithm} checkpoint")
        for name in self._shapes:
            # Nothing is read: this looks at types and shapes only.
            if not name.endswith(".weight") or len(self._shapes[name]) == 1 or not self._is_quantized(name):
                self._expect(name, self._shapes[name], ("F64", "F32", "F16", "BF16"))
            else:
                self._check_matrix(name.removesuffix(".weight"))

    def _is_quantized(self, name: str) -> bool:
        return name.replace(".weight", ".weight_scale") in self._tensors

    def _expect(self, name: str, dims: list[int], dtypes: tuple[str, ...]) -> None:
        if name not in self._tensors:
            raise CheckpointError(f"{name} is missing; {self.algorithm} has it")
        if self._tensors.dtype(name) not in dtypes or self._tensors.shape(name) != dims:
            raise CheckpointError(
                f"{self._tensors.file(name)}: {name} is {self._tensors.dtype(name)} {self._tensors.shape(name)}; "
                f"{self.algorithm} has {' or '.join(dtypes)} {dims}"
            )

    def _check_matrix(self, name: str) -> None:
        rows, columns = self._shapes[f"{name}.weight"]
        weight, scale = f"{name}.weight", f"{name}.weight_scale"
        if self.algorithm == "FP8":
            self._expect(weight, [rows, columns], ("F8_E4M3",))
            self._expect(scale, [], ("F32",))
        elif self.algorithm == "NVFP4":
            self._expect(weight, [rows, columns // 2], ("U8",))
            self._expect(scale, [rows, columns // 16], ("F8_E4M3",))
            self._expect(f"{name}.weight_scale_2", [], ("F32",))
        elif self.algorithm == "W4A16_AWQ":
            groups = self._tensors.shape(scale)[-1:] or [1]
            self._expect(weight, [rows // 2, columns], ("U8",))
            self._expect(scale, [rows, groups[0]], ("F32", "BF16", "F16"))
            if not groups[0] or columns % groups[0]:
                raise CheckpointError(
                    f"{self._tensors.file(scale)}: {scale} has {groups[0]} groups of {columns} columns"
                )
        else:
            self._expect(weight, [rows, columns], ("I8",))
            self._expect(scale, [rows], ("F32",))
        if f"{name}.pre_quant_scale" in self._tensors:
            self._expect(f"{name}.pre_quant_scale", [columns], ("F32", "BF16", "F16"))

    def vector(self, name: str) -> NDArray[np.float32]:
        """See Weights."""
        return self._tensors[name]

    def matrix(self, name: str, weight_format: WeightFormat) -> Matrix:
        """See Weights."""
        if not self._is_quantized(f"{name}.weight"):
            return rounded(self._tensors[f"{name}.weight"], weight_format)
        codes = np.asarray(self._tensors.stored(f"{name}.weight"))
        input_factors = self._tensors.get(f"{name}.pre_quant_scale")
        if self.algorithm == "NVFP4":
            blocks = np.asarray(self._tensors.stored(f"{name}.weight_scale")).astype(np.float32)
            scales = blocks * self._tensors[f"{name}.weight_scale_2"]
            return Matrix(
                Codes.F4E2M1,
                unpacked(codes).reshape(codes.shape[0], blocks.shape[1], -1),
                scales[..., np.newaxis],
                input_factors,
            )
        scales = self._tensors[f"{name}.weight_scale"]
        if self.algorithm == "FP8":
            return Matrix(Codes.F8E4M3, codes[:, np.newaxis], scales.reshape(1, 1, 1), input_factors)
        if self.algorithm == "W4A16_AWQ":
            signed = two_rows_of_a_byte(codes)
            grouped = signed.reshape(signed.shape[0], scales.shape[1], -1)
            return Matrix(Codes.INT4, grouped, scales[..., np.newaxis], input_factors)
        return Matrix(Codes.INT8, codes[:, np.newaxis], scales.reshape(-1, 1, 1), input_factors)


#: The algorithms that can be read, and how a version calls them.
ALGORITHMS = {"FP8": "fp8", "NVFP4": "nvfp4", "W4A16_AWQ": "int4_awq", "W8A8_SQ_PER_CHANNEL": "int8_sq"}


def algorithm_of(folder: Path, config: dict[str, Any]) -> str | None:
    """What a checkpoint is quantized with, of ALGORITHMS; None for one that is not quantized.

    Raises CheckpointError for what cannot be read.
    """
    stated = config.get("quantization_config")
    path = folder / "hf_quant_config.json"
    if stated is None and path.is_file():
        try:
            stated = {**json.loads(path.read_text(encoding="utf-8"))["quantization"], "quant_method": "modelopt"}
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error!r}") from None
    if not stated:
        return None
    if not isinstance(stated, dict) or stated.get("quant_method") != "modelopt":
        method = stated.get("quant_method") if isinstance(stated, dict) else stated
        raise CheckpointError(f"config.json: quant_method is {method!r}; supported is 'modelopt'")
    algorithm = stated.get("quant_algo")
    if algorithm not in ALGORITHMS:
        raise CheckpointError(f"config.json: quant_algo is {algorithm!r}; supported are {', '.join(ALGORITHMS)}")
    return str(algorithm)


def open_weights(folder: Path) -> tuple[DecoderShape, Weights, str]:
    """The shape of a checkpoint, its weights, and what it is quantized with: of ALGORITHMS' values, or "f32".

    Raises CheckpointError for a checkpoint that is not what its config.json says; no weight is loaded.
    """
    config = read_config(folder)
    shape = DecoderShape.from_config(config)
    algorithm = algorithm_of(folder, config)
    tensors = Tensors(folder)
    if algorithm is None:
        check_weights(tensors, shape)
        return shape, FullWeights(tensors), WeightFormat.F32.value
    return shape, ExportedWeights(tensors, shape, algorithm), ALGORITHMS[algorithm]
