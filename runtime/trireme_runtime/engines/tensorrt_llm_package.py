"""The package tensorrt_llm, for the processes in which it computes; nobody else may import it."""

import os
from typing import Any

#: The version whose signatures the adapters are written to.
SERIES = "1.2"


def import_tensorrt_llm() -> Any:
    """The package. Raises RuntimeError where it is not installed, or is of another series than 1.2."""
    # Upstream computes for one GPU in a second process, which MPI starts and which would outlive this one if it is
    # killed; read by enable_worker_single_process_for_tp1 in tensorrt_llm/llmapi/utils.py.
    os.environ["TLLM_WORKER_USE_SINGLE_PROCESS"] = "1"
    # Nothing is fetched, whatever a checkpoint names, and its makers are told nothing.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["DO_NOT_TRACK"] = "1"
    try:
        import tensorrt_llm
    except ModuleNotFoundError as error:
        if error.name != "tensorrt_llm":
            raise
        raise RuntimeError(
            "tensorrt_llm is not installed; this engine runs in NVIDIA's container "
            "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3, or another with TensorRT-LLM 1.2"
        ) from None
    version = str(tensorrt_llm.__version__)
    if not version.startswith(f"{SERIES}."):
        raise RuntimeError(f"tensorrt_llm is {version}; the adapters are written to {SERIES}")
    return tensorrt_llm
