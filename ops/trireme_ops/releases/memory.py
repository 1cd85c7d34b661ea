"""How much memory a release needs besides what runs, and how much there is.

The constants were measured on a machine of two cores (2026-11-22, Python 3.11, OpenVINO GenAI 2026.4): a server was
started, and asked one and then sixteen prompts of about 1500 tokens with 500 more; of each of its processes the line
"Anonymous" of /proc/PID/smaps_rollup was taken, since pages of files are given back when memory is short:

    preprocessing, tensorrt_llm, postprocessing (each, a tokenizer of 512 ids)    45 to 46 MiB
    the same libraries with a tokenizer of 128,000 ids, tokenizer.json 8.4 MiB   108 MiB more: 13 times the file
    ensemble_unary                                                               28 MiB
    tritonserver, from when it is ready until sixteen streams ran                27 MiB more
    the null engine's process                                                    10 MiB
    OpenVINO's process, without KV cache and weights                             48 MiB, 68 MiB after sixteen streams

OpenVINO holds float32 copies of weights that are float32 in the file, and int8 or int4 codes as they are: 1.0 times the
file (models of 5 and of 125 million parameters). It takes the KV cache as it fills, up to the whole. What one step of
512 tokens needs beyond that was at most 26 numbers of float32 for each of the widest layer (155 MiB where that is 3072
wide). Nothing was measured on a GPU: there the files of the weights and the KV cache are counted, and no more.
"""

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .engine_facts import EngineFacts

MEBIBYTE = 1 << 20

PYTHON_MODEL_BYTES = 46 * MEBIBYTE
TOKENIZER_FACTOR = 13
UNARY_BYTES = 28 * MEBIBYTE
SERVER_BYTES = 27 * MEBIBYTE

#: Of the engine's own process, weights and KV cache aside, by engine.
ENGINE_BYTES = {"openvino": 68 * MEBIBYTE, "null": 10 * MEBIBYTE}

#: Numbers of float32 that a step of OpenVINO takes, a token and a number of the widest layer.
STEP_NUMBERS = 26


@dataclass(frozen=True)
class Need:
    """What a release takes at most, in bytes. With a GPU weights and kv_cache are in its memory."""

    processes: int
    weights: int
    kv_cache: int
    step: int
    is_on_gpu: bool

    @property
    def host(self) -> int:
        """Of the machine's memory."""
        return self.processes + (0 if self.is_on_gpu else self.weights + self.kv_cache + self.step)

    @property
    def gpu(self) -> int:
        """Of the GPU's memory."""
        return self.weights + self.kv_cache if self.is_on_gpu else 0


def need(facts: EngineFacts, tokenizers: Iterable[Path], instances: int, kv_tokens: int, step_tokens: int) -> Need:
    """What a release takes. tokenizers: tokenizer.json of the three models. instances: of its preprocessing.

    kv_tokens: capacity of the KV cache. step_tokens: computed in one step.
    """
    sizes = [TOKENIZER_FACTOR * path.stat().st_size for path in tokenizers]
    models = [PYTHON_MODEL_BYTES + size for size in sizes]
    further = (instances - 1) * models[0]
    return Need(
        processes=sum(models) + further + UNARY_BYTES + SERVER_BYTES + ENGINE_BYTES.get(facts.engine, 0),
        weights=facts.weight_bytes,
        kv_cache=round(facts.kv_bytes_per_token * kv_tokens),
        step=0 if facts.is_on_gpu else 4 * STEP_NUMBERS * facts.widest * step_tokens,
        is_on_gpu=facts.is_on_gpu,
    )


@dataclass(frozen=True)
class Gpu:
    """free: bytes. sm: compute capability, 90 for 9.0."""

    name: str
    free: int
    sm: int


@dataclass(frozen=True)
class Machine:
    """The memory that is free on this machine, in bytes, and what limits it."""

    free: int
    limited_by: str
    gpus: tuple[Gpu, ...] = ()

    @classmethod
    def here(cls) -> "Machine":
        """This one, as it is now: what is available, or what the control groups of this process leave if it is less."""
        free, limited_by = min([(_available(), "MemAvailable"), *_group_limits()])
        return cls(free, limited_by, _gpus())


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _group_limits(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[tuple[int, str]]:
    """What each control group (version 2) above this process leaves: its limit without what it holds, caches aside."""
    try:
        line = next(line for line in own.read_text(encoding="utf-8").splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    inside = Path(line.removeprefix("0::").lstrip("/"))
    limits = []
    for group in [root / inside, *(root / parent for parent in inside.parents)]:
        try:
            highest = (group / "memory.max").read_text(encoding="ascii").strip()
            if highest == "max":
                continue
            held = int((group / "memory.current").read_text(encoding="ascii"))
            stat = (group / "memory.stat").read_text(encoding="ascii").splitlines()
            caches = sum(int(line.split()[1]) for line in stat if line.split()[0] in ("inactive_file", "active_file"))
            limits.append((max(0, int(highest) - held + caches), f"{group / 'memory.max'} of {highest} bytes"))
        except (OSError, ValueError, IndexError):
            continue
    return limits


def _gpus() -> tuple[Gpu, ...]:
    """As nvidia-smi tells, if it is there."""
    query = ["nvidia-smi", "--query-gpu=name,memory.free,compute_cap", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
        return tuple(Gpu(name, int(free) * MEBIBYTE, int(sm.replace(".", ""))) for name, free, sm in rows)
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()
