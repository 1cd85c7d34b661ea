"""Reads an exported checkpoint back, and looks at what no comparison of outputs would show."""

from pathlib import Path

import numpy as np

from .checkpoint import Tensors
from .errors import CheckpointError
from .exported import open_weights
from .quantization import Quantization

#: Scales that a quantization must have beside every matrix, and in every layer's attention.
_BESIDE_MATRICES = {
    Quantization.FP8: ("weight_scale", "input_scale"),
    Quantization.FP8_KV: ("weight_scale", "input_scale"),
    Quantization.NVFP4: ("weight_scale", "weight_scale_2", "input_scale"),
    Quantization.INT4_AWQ: ("weight_scale",),
    Quantization.INT8_SQ: ("weight_scale", "input_scale"),
}
_IN_ATTENTION = {Quantization.FP8_KV: ("k_proj.k_scale", "v_proj.v_scale")}


def check_scales(folder: Path, quantization: Quantization) -> None:
    """Check the scales of an exported checkpoint: all there, finite, and above 0; none where there should be none.

    Raises CheckpointError naming the file and the tensor, also for a checkpoint that is quantized with something else
    or whose tensors are not those of its config.json.
    """
    shape, _, stored = open_weights(folder)
    expected = {Quantization.FP8_KV: "fp8", Quantization.BF16: "f32"}.get(quantization, quantization.value)
    if stored != expected:
        raise CheckpointError(f"{folder}: is stored as {stored}, and was to be {quantization.value}")
    tensors = Tensors(folder)
    wanted = [f"{layer}.{scale}" for layer in shape.linear_layers for scale in _BESIDE_MATRICES.get(quantization, ())]
    for layer in range(shape.num_layers):
        wanted += [f"model.layers.{layer}.self_attn.{scale}" for scale in _IN_ATTENTION.get(quantization, ())]
    for name in wanted:
        if name not in tensors:
            raise CheckpointError(f"{folder}: {name} is missing; {quantization.value} has it")
    for name in sorted(tensors):
        if not name.endswith(("_scale", "_scale_2")):
            continue
        if quantization is Quantization.BF16 or (name.endswith((".k_scale", ".v_scale")) and name not in wanted):
            raise CheckpointError(f"{tensors.file(name)}: {name} is there, and {quantization.value} has none")
        values = np.asarray(tensors.stored(name)).astype(np.float32)
        # A block of zeros has the scale 0 in NVFP4.
        lowest_allowed = values.min(initial=np.inf) >= 0 if tensors.dtype(name) == "F8_E4M3" else values.min() > 0
        if not np.isfinite(values).all() or not lowest_allowed:
            raise CheckpointError(f"{tensors.file(name)}: {name} has values that no scale has, from {values.min():g}")
