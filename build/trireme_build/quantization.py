"""What a checkpoint can be quantized to."""

from enum import Enum

from trireme_runtime.engines.tensorrt_llm_folder import FP8_SM, NVFP4_SM


class Quantization(str, Enum):
    """What weights, activations and the key-value cache become.

    bf16: nothing is quantized. fp8: weights and activations in E4M3, a scale for each tensor. fp8_kv: the key-value
    cache too. nvfp4: weights and activations in E2M1, a scale in E4M3 for each 16, and one for all. int4_awq: weights
    in groups of 128, scaled by what the activations show (Lin et al. 2023). int8_sq: weights and activations, smoothed
    (Xiao et al. 2022).
    """

    BF16 = "bf16"
    FP8 = "fp8"
    FP8_KV = "fp8_kv"
    NVFP4 = "nvfp4"
    INT4_AWQ = "int4_awq"
    INT8_SQ = "int8_sq"

    @property
    def lowest_sm(self) -> int:
        """The compute capability, times ten, of the oldest NVIDIA GPUs that it runs on with TensorRT-LLM."""
        return {Quantization.FP8: FP8_SM, Quantization.FP8_KV: FP8_SM, Quantization.NVFP4: NVFP4_SM}.get(self, 80)

    @property
    def cpu_arithmetic(self) -> str:
        """How the CPU engine computes with it, in words."""
        codes = {
            Quantization.FP8: "f8e4m3 codes",
            Quantization.FP8_KV: "f8e4m3 codes",
            Quantization.NVFP4: "f4e2m1 codes",
            Quantization.INT4_AWQ: "i4 codes",
            Quantization.INT8_SQ: "i8 codes",
        }.get(self)
        if codes is None:
            return "weights stored and multiplied in float32"
        cache = "; the key-value cache is float32" if self is Quantization.FP8_KV else ""
        return (
            f"weights stored as {codes} with the exported scales, multiplied out to float32; activations float32{cache}"
        )
