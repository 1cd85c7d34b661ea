"""Weight matrices as they are stored: in full, or as codes of few bits and scales. Knows no engine and no torch."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

#: How many weights of a row share a scale where a matrix is rounded to INT4 here.
GROUP_SIZE = 64


class WeightFormat(str, Enum):
    """What a matrix is rounded to, to the nearest, without calibration.

    int8: symmetric, a scale for each row. int4: symmetric, a scale for each group of GROUP_SIZE in a row.
    """

    F32 = "f32"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def of_embeddings(self) -> "WeightFormat":
        """That of embeddings and head, which take 4 bits badly."""
        return WeightFormat.INT8 if self is WeightFormat.INT4 else self


class Codes(str, Enum):
    """The type of a matrix's codes: float32 itself, or one whose values are multiplied with scales.

    f8e4m3 and f4e2m1: the floats of OCP's 8-bit specification and of its MX formats, one code a byte here.
    """

    F32 = "f32"
    INT8 = "int8"
    INT4 = "int4"
    F8E4M3 = "f8e4m3"
    F4E2M1 = "f4e2m1"


@dataclass(frozen=True)
class Matrix:
    """A matrix [out, in]: codes [out, groups, in / groups] times scales float32 [out or 1, groups or 1, 1].

    codes are float32, int8 (INT8, and INT4 in -8 to 7), float8_e4m3fn, or uint8 with a f4e2m1 in the low four bits.
    input_factors, float32 [in], are what the vector that is multiplied with it has to be multiplied with before.
    """

    kind: Codes
    codes: NDArray[Any]
    scales: NDArray[np.float32] | None = None
    input_factors: NDArray[np.float32] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in]."""
        return self.codes.shape[0], self.codes.shape[1] * self.codes.shape[2]

    def values(self) -> NDArray[np.float32]:
        """float32 [out, in]: what it multiplies with, input_factors included."""
        codes = self.codes.view(ml_dtypes.float4_e2m1fn) if self.kind is Codes.F4E2M1 else self.codes
        values: NDArray[np.float32] = codes.astype(np.float32)
        if self.scales is not None:
            values = values * self.scales
        values = values.reshape(self.shape)
        return values if self.input_factors is None else values * self.input_factors


def unpacked(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[out, in] codes of four bits from [out, in / 2]: two of a row in a byte, the first one in the low half."""
    halves: NDArray[np.uint8] = np.stack((codes & 0x0F, codes >> 4), axis=-1)
    return halves.reshape(codes.shape[0], -1)


def two_rows_of_a_byte(codes: NDArray[Any]) -> NDArray[np.int8]:
    """[out, in] signed codes of four bits from [out / 2, in]: two rows in a byte, the first one in the low half."""
    bits = codes.view(np.uint8)
    rows = np.stack((bits & 0x0F, bits >> 4), axis=1).reshape(-1, codes.shape[1]).astype(np.int8)
    return np.where(rows > 7, rows - 16, rows).astype(np.int8)


def rounded(values: NDArray[np.float32], weight_format: WeightFormat) -> Matrix:
    """`values`, float32 [out, in], in another format; a row that no group divides is left in INT8."""
    if weight_format is WeightFormat.F32:
        return Matrix(Codes.F32, values[:, np.newaxis])
    if weight_format is WeightFormat.INT8 or values.shape[1] % GROUP_SIZE:
        return _rounded_to_int8(values)
    return _rounded_to_int4(values)


def _rounded_to_int8(values: NDArray[np.float32]) -> Matrix:
    scales = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
    codes = np.rint(np.divide(values, scales, out=np.zeros_like(values), where=scales > 0))
    return Matrix(Codes.INT8, codes.astype(np.int8)[:, np.newaxis], scales.astype(np.float32)[..., np.newaxis])


def _rounded_to_int4(values: NDArray[np.float32]) -> Matrix:
    """The value of a group that is farthest from 0 gets the code -8, the end of the range that reaches farther."""
    groups = values.reshape(values.shape[0], -1, GROUP_SIZE)
    farthest = np.take_along_axis(groups, np.abs(groups).argmax(axis=2, keepdims=True), axis=2)
    scales = (farthest / np.float32(-8)).astype(np.float32)
    codes = np.rint(np.divide(groups, scales, out=np.zeros_like(groups), where=scales != 0))
    return Matrix(Codes.INT4, np.clip(codes, -8, 7).astype(np.int8), scales)
