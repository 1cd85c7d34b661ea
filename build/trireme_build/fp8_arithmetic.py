"""Runs an exported FP8 checkpoint as a GPU does: activations rounded to E4M3 too, by the scales that were exported.

    python -m trireme_build.fp8_arithmetic SOURCE EXPORTED --tasks held_out.jsonl [--device cuda]

Prints how far it is from the source in bfloat16 and, on a GPU, how long a forward pass takes in each. The products are
those of torch._scaled_mm there, which takes SM 89 or above; on the CPU, where that takes seconds, the same in float32.
Needs torch.
"""

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

from .accuracy import compare, torch_log_probs
from .checkpoint import DecoderShape, Tensors, read_config
from .errors import BuildError
from .exported import open_weights
from .judging import Judge, describe
from .quantize import load_bfloat16
from .recipe import Verify

#: Tokens of the forward pass that is timed.
_TIMED_TOKENS = 512


def fp8_model(source: Path, exported: Path, device: str = "cpu") -> Any:
    """The source in bfloat16, its linear layers replaced by the codes and scales of an exported FP8 checkpoint.

    Raises BuildError for a checkpoint that is not in FP8, or has no scales of activations.
    """
    shape, _, stored = open_weights(exported)
    if stored != "fp8":
        raise BuildError(f"{exported}: is stored as {stored}; fp8 is needed")
    tensors = Tensors(exported)
    model = load_bfloat16(source, shape)
    for name in shape.linear_layers:
        if f"{name}.input_scale" not in tensors:
            raise BuildError(f"{exported}: {name}.input_scale is missing; activations cannot be rounded without it")
        parent, _, last = name.rpartition(".")
        linear = getattr(model.get_submodule(parent), last)
        setattr(model.get_submodule(parent), last, _scaled_linear(tensors, name, linear.bias))
    return model.to(device)


def scaled_product(x: Any, codes: Any, x_scale: Any, codes_scale: Any) -> Any:
    """E4M3 [rows, in] times E4M3 [out, in], transposed, each with a scale float32 []: [rows, out].

    bfloat16 on a GPU, float32 on the CPU.
    """
    import torch

    if x.device.type == "cpu":
        return (x.float() @ codes.float().t()) * (x_scale * codes_scale)
    return torch._scaled_mm(x, codes.t(), scale_a=x_scale, scale_b=codes_scale, out_dtype=torch.bfloat16)


def _scaled_linear(tensors: Tensors, name: str, bias: Any) -> Any:
    import numpy as np
    import torch

    class ScaledLinear(torch.nn.Module):  # type: ignore[misc]
        """x [..., in] in bfloat16 to [..., out]: E4M3 times E4M3, each with a scale for the whole tensor."""

        def __init__(self) -> None:
            super().__init__()
            codes = np.asarray(tensors.stored(f"{name}.weight")).view(np.uint8).copy()
            self.register_buffer("codes", torch.from_numpy(codes).view(torch.float8_e4m3fn))
            for scale in ("weight_scale", "input_scale"):
                self.register_buffer(scale, torch.from_numpy(tensors[f"{name}.{scale}"].copy()))
            self.bias = bias

        def forward(self, x: Any) -> Any:
            largest = torch.finfo(torch.float8_e4m3fn).max
            flat = (x.reshape(-1, x.shape[-1]).float() / self.input_scale).clamp(-largest, largest)
            product = scaled_product(flat.to(torch.float8_e4m3fn), self.codes, self.input_scale, self.weight_scale)
            product = (product if self.bias is None else product + self.bias).to(x.dtype)
            return product.reshape(*x.shape[:-1], -1)

    return ScaledLinear()


def forward_ms(model: Any, device: str, vocab_size: int, rounds: int = 5) -> float:
    """The fastest of some forward passes over _TIMED_TOKENS tokens on a GPU, in ms."""
    import torch

    ids = torch.arange(_TIMED_TOKENS, device=device)[None] % vocab_size
    best = float("inf")
    with torch.inference_mode():
        for _ in range(rounds):
            began = time.perf_counter()
            model(ids)
            torch.cuda.synchronize()
            best = min(best, 1000 * (time.perf_counter() - began))
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("exported", type=Path)
    parser.add_argument("--tasks", type=Path, required=True, help="JSON lines with task, prompt and answer")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    arguments = parser.parse_args()
    import torch

    try:
        shape = DecoderShape.from_config(read_config(arguments.source))
        limits = Verify(
            tasks=arguments.tasks, max_kl=1e9, min_top1=0.0, max_perplexity_increase=1e9, min_exact_match=0.0
        )
        judge = Judge(limits, arguments.source, shape.max_positions)
        plain = load_bfloat16(arguments.source, shape).to(arguments.device)
        rounded = fp8_model(arguments.source, arguments.exported, arguments.device)
        accuracy = compare(torch_log_probs(plain), torch_log_probs(rounded), judge.blocks)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    where, times = platform.machine(), {}
    if arguments.device != "cpu":
        where = torch.cuda.get_device_name()
        times = {
            f"{name}_forward_ms": round(forward_ms(model, arguments.device, shape.vocab_size), 3)
            for name, model in (("bf16", plain), ("fp8", rounded))
        }
    print(f"FP8 arithmetic against bfloat16 on {where}, torch {torch.__version__}: {describe(accuracy, {})}")
    print(json.dumps({"device": where, "torch": torch.__version__, **accuracy.figures(), **times}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
