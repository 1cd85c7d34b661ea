"""Weight matrices as OpenVINO constants; the CPU plugin multiplies with what it unpacks."""

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from .matrices import Codes, Matrix

#: Those whose codes are put two in a byte.
_FOUR_BITS = {Codes.INT4: ov.Type.i4, Codes.F4E2M1: ov.Type.f4e2m1}


def matrix_node(matrix: Matrix, name: str) -> ov.Node:
    """A float32 [out, in] node: the codes as they are stored, converted and scaled, without the input_factors."""
    if matrix.scales is None:
        return ops.constant(matrix.codes.reshape(matrix.shape), name=name)
    codes = _codes(matrix)
    codes.set_friendly_name(name)
    scaled = ops.multiply(ops.convert(codes, "f32"), ops.constant(matrix.scales, name=f"{name}_scale"))
    return ops.reshape(scaled, np.array(matrix.shape), special_zero=False)


def _codes(matrix: Matrix) -> ov.Node:
    dims = ov.Shape(list(matrix.codes.shape))
    if matrix.kind in _FOUR_BITS:
        tensor = ov.Tensor(packed(matrix.codes), dims, _FOUR_BITS[matrix.kind])
    elif matrix.kind is Codes.F8E4M3:
        tensor = ov.Tensor(np.ascontiguousarray(matrix.codes).view(np.uint8).reshape(-1), dims, ov.Type.f8e4m3)
    else:
        return ops.constant(matrix.codes)
    # A copy: otherwise the node would go on using memory that is not its own.
    return ov.op.Constant(tensor, shared_memory=False)


def packed(codes: NDArray[np.int8] | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two codes a byte, the first one in the low half, as OpenVINO lays them out."""
    flat = np.ascontiguousarray(codes).reshape(-1).view(np.uint8) & np.uint8(0x0F)
    both: NDArray[np.uint8] = flat[0::2] | flat[1::2] << np.uint8(4)
    return both
