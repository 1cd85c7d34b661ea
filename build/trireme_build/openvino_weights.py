"""Weight matrices as OpenVINO constants, in full or compressed; the CPU plugin multiplies with what it unpacks."""

from enum import Enum

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

#: How many weights of a row share a scale in INT4.
GROUP_SIZE = 64


class WeightFormat(str, Enum):
    """How matrices are stored. int8: symmetric, a scale for each row. int4: symmetric, a scale for each group of a row.

    Rounded to the nearest, without calibration.
    """

    F32 = "f32"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def of_embeddings(self) -> "WeightFormat":
        """That of embeddings and head, which take 4 bits badly."""
        return WeightFormat.INT8 if self is WeightFormat.INT4 else self


def matrix(name: str, values: NDArray[np.float32], weight_format: WeightFormat) -> ov.Node:
    """A float32 [out, in] node with `values`, or what is left of them; a row that no group divides is left in INT8."""
    if weight_format is WeightFormat.F32:
        return ops.constant(values, name=name)
    if weight_format is WeightFormat.INT8 or values.shape[1] % GROUP_SIZE:
        codes, scales = quantize_int8(values)
        return _scaled(ops.constant(codes, name=name), scales, name)
    nibbles, scales = quantize_int4(values)
    rows, groups = scales.shape[:2]
    tensor = ov.Tensor(pack_int4(nibbles), ov.Shape([rows, groups, GROUP_SIZE]), ov.Type.i4)
    codes = ov.op.Constant(tensor, shared_memory=False)
    codes.set_friendly_name(name)
    return ops.reshape(_scaled(codes, scales, name), np.array(values.shape), special_zero=False)


def _scaled(codes: ov.Node, scales: NDArray[np.float32], name: str) -> ov.Node:
    return ops.multiply(ops.convert(codes, "f32"), ops.constant(scales, name=f"{name}_scale"))


def quantize_int8(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes int8 [out, in] in -127 to 127 and scales float32 [out, 1]: values are codes * scales, rounded."""
    scales = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
    codes = np.rint(np.divide(values, scales, out=np.zeros_like(values), where=scales > 0))
    return codes.astype(np.int8), scales.astype(np.float32)


def quantize_int4(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes int8 [out, groups, GROUP_SIZE] in -8 to 7 and scales float32 [out, groups, 1]; `in` must be groups of that.

    The scale is such that the value farthest from 0 gets the code -8, the end of the range that reaches farther.
    """
    groups = values.reshape(values.shape[0], -1, GROUP_SIZE)
    farthest = np.take_along_axis(groups, np.abs(groups).argmax(axis=2, keepdims=True), axis=2)
    scales = (farthest / np.float32(-8)).astype(np.float32)
    codes = np.rint(np.divide(groups, scales, out=np.zeros_like(groups), where=scales != 0))
    return np.clip(codes, -8, 7).astype(np.int8), scales


def pack_int4(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Two codes a byte, the first one in the low half, as OpenVINO lays them out."""
    flat = codes.reshape(-1).view(np.uint8) & np.uint8(0x0F)
    packed: NDArray[np.uint8] = flat[0::2] | flat[1::2] << np.uint8(4)
    return packed
