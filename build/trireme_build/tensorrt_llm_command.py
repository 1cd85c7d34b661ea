"""The command line that makes an engine folder of a quantized TensorRT-LLM checkpoint, on a machine with the GPU.

`trtllm-build` is part of TensorRT-LLM up to 1.2.1. Its flags are those of parse_arguments in upstream's
tensorrt_llm/commands/build.py and of add_plugin_argument in tensorrt_llm/plugin/plugin.py. It is not installed here: it
runs in NVIDIA's container, or where this package itself runs in there, as it is.
"""

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path

from trireme_runtime.engines.tensorrt_llm_folder import EngineFolderError, read_engine_folder, unsuitable

from .errors import BuildError, MissingTool, TargetError

#: How a checkpoint is quantized, a `Quantization`'s value -> upstream's names for weights and KV cache.
QUANTIZATIONS: dict[str, tuple[str | None, str | None]] = {
    "bf16": (None, None),
    "fp8": ("FP8", None),
    "fp8_kv": ("FP8", "FP8"),
    "nvfp4": ("NVFP4", None),
    "int4_awq": ("W4A16_AWQ", None),
    "int8_sq": ("W8A8_SQ_PER_CHANNEL", None),
}

#: Where checkpoint and engine are inside the container.
_CHECKPOINT = Path("/checkpoint")
_ENGINE = Path("/engine")
_SCRATCH = Path("/tmp")

_BUILD = "trtllm-build"


@dataclass(frozen=True)
class TensorRtLlmTarget:
    """What an engine is built for. Raises TargetError for what cannot be.

    image: the container image that holds trtllm-build. sm: the GPU's compute capability, 90 for 9.0. max_input_len and
    max_seq_len: tokens of a prompt, and of a prompt with its answer. max_num_tokens: tokens in one step.
    """

    image: str
    sm: int
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    max_beam_width: int = 1
    tokens_per_block: int = 32
    workers: int = 1

    def __post_init__(self) -> None:
        if not self.image or self.image.startswith("-") or any(map(str.isspace, self.image)):
            raise TargetError(f"target: image is {self.image!r}; the name of a container image is needed")
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "image" and (type(value) is not int or value < 1):
                raise TargetError(f"target: {item.name} is {value!r}; a whole number above 0 is needed")
        if self.max_input_len > self.max_seq_len:
            raise TargetError(
                f"target: max_input_len is {self.max_input_len}; at most max_seq_len, {self.max_seq_len}, is allowed"
            )
        if self.tokens_per_block & (self.tokens_per_block - 1):
            raise TargetError(f"target: tokens_per_block is {self.tokens_per_block}; a power of two is needed")


def check(target: TensorRtLlmTarget, quantization: str) -> None:
    """Raise TargetError for an unknown quantization, or one that the target's GPU cannot compute."""
    if quantization not in QUANTIZATIONS:
        raise TargetError(f"quantization is {quantization!r}; known are {', '.join(QUANTIZATIONS)}")
    for quant_algo in QUANTIZATIONS[quantization]:
        reason = unsuitable(quant_algo, target.sm)
        if reason is not None:
            raise TargetError(f"target: quantization is {quantization}: {reason}")


def build_command(
    checkpoint: Path, out: Path, target: TensorRtLlmTarget, quantization: str, timing_cache: Path | None = None
) -> list[str]:
    """`trtllm-build` on a checkpoint folder in TensorRT-LLM's own format; the engine folder is `out`.

    timing_cache: what it leaves beside its output, `out` with .timing-cache added by default. Raises TargetError.
    """
    check(target, quantization)
    _, kv_cache = QUANTIZATIONS[quantization]
    sizes = ("max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens", "max_beam_width", "tokens_per_block")
    return [
        _BUILD,
        *("--checkpoint_dir", str(checkpoint)),
        *("--output_dir", str(out)),
        *("--output_timing_cache", str(timing_cache or out.with_name(f"{out.name}.timing-cache"))),
        *(word for name in sizes for word in (f"--{name}", str(getattr(target, name)))),
        *("--workers", str(target.workers)),
        # In-flight batching, sharing of blocks and prompts in chunks need these three.
        *("--kv_cache_type", "paged"),
        *("--remove_input_padding", "enable"),
        *("--use_paged_context_fmha", "enable"),
        *("--context_fmha", "enable"),
        # Upstream's `build` (tensorrt_llm/builder.py) joins the two: over paged context, attention in FP8 goes with an
        # FP8 KV cache, and neither without the other.
        *("--use_fp8_context_fmha", "enable" if kv_cache == "FP8" else "disable"),
        *_gemm_plugin(quantization),
        # Kernels for several sizes of step, not for the largest alone.
        *("--multiple_profiles", "enable"),
    ]


def _gemm_plugin(quantization: str) -> tuple[str, ...]:
    """cuBLASLt for products in 16 bits, TensorRT's own kernels for FP8. NVFP4 takes its own plugin if none is named."""
    if quantization == "nvfp4":
        return ()
    return ("--gemm_plugin", "disable" if quantization.startswith("fp8") else "auto")


def container_command(
    checkpoint: Path, out: Path, target: TensorRtLlmTarget, quantization: str, runtime: str = "docker"
) -> list[str]:
    """`build_command` inside the target's image: no network, the checkpoint read-only, files owned by who calls it.

    `out` must exist: a runtime makes missing folders as root. Raises TargetError.
    """
    gpus = ("--gpus", "all") if runtime == "docker" else ("--device", "nvidia.com/gpu=all", "--userns", "keep-id")
    inner = build_command(_CHECKPOINT, _ENGINE, target, quantization, _SCRATCH / "timing-cache")
    environment = {"HOME": str(_SCRATCH), "USER": "trireme", "HF_HUB_OFFLINE": "1"}
    return [
        *(runtime, "run", "--rm", *gpus, "--network", "none", "--shm-size", "2g"),
        *("--user", f"{os.getuid()}:{os.getgid()}"),
        *("--workdir", str(_SCRATCH)),
        *("--volume", f"{checkpoint.resolve()}:{_CHECKPOINT}:ro"),
        *("--volume", f"{out.resolve()}:{_ENGINE}"),
        *(word for name, value in environment.items() for word in ("--env", f"{name}={value}")),
        target.image,
        *inner,
    ]


def container_runtime() -> str | None:
    """docker or podman, whichever is on the PATH."""
    return next((name for name in ("docker", "podman") if shutil.which(name)), None)


def command_here(checkpoint: Path, out: Path, target: TensorRtLlmTarget, quantization: str) -> list[str]:
    """The command for this machine: trtllm-build itself inside NVIDIA's container, else the container. TargetError."""
    if shutil.which(_BUILD):
        return build_command(checkpoint, out, target, quantization)
    return container_command(checkpoint, out, target, quantization, container_runtime() or "docker")


def missing_for_gpu(dev: Path = Path("/dev")) -> list[str]:
    """What this machine lacks to run `command_here`, a sentence each; empty where it can be tried."""
    missing = []
    if not shutil.which(_BUILD) and container_runtime() is None:
        missing.append(f"neither {_BUILD} nor a container runtime (docker, podman) is on the PATH")
    if not (dev / "nvidia0").exists() and not shutil.which("nvidia-smi"):
        missing.append(f"there is no NVIDIA GPU: neither {dev / 'nvidia0'} nor nvidia-smi")
    return missing


def compile_engine(checkpoint: Path, out: Path, target: TensorRtLlmTarget, quantization: str, log: Path) -> None:
    """Run `command_here`, its output into the file `log`, and look at what it wrote into the new folder `out`.

    Raises MissingTool, naming what is ready and what to type elsewhere, on a machine that cannot run it; BuildError
    with the end of the log if it fails, or if what it wrote is no engine for the target.
    """
    command = command_here(checkpoint, out, target, quantization)
    missing = missing_for_gpu()
    if missing:
        raise MissingTool(
            f"no engine can be compiled here: {'; '.join(missing)}. The TensorRT-LLM checkpoint is ready at "
            f"{checkpoint}. Build the same recipe on a machine with the GPU, over the same folder: what is done is not "
            f"done again. It will run:\n  {shlex.join(command)}"
        )
    out.mkdir()
    with log.open("wb") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    if done.returncode:
        end = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
        raise BuildError(
            f"{shlex.join(command)}\nended with status {done.returncode} (all of it in {log}):\n" + "\n".join(end)
        )
    try:
        read_engine_folder(out, target.sm)
    except EngineFolderError as error:
        raise BuildError(f"trtllm-build wrote what is no engine for SM {target.sm}: {error}") from error
