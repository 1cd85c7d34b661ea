"""A strict stand-in for the few classes of TensorRT-LLM 1.2.1 that the adapters call.

Signatures, argument names and refusals are those of upstream's source, which each docstring names; what upstream would
take silently and not honour is refused too. It computes nothing: the ids of an answer follow from the request, see
`_model`. Whatever an adapter calls that is not here fails.

Read in the repository NVIDIA/TensorRT-LLM: sampling_params.py at a98a9061d72f, llmapi/__init__.py at 5ca85aff65b2,
and in cpp/tensorrt_llm/nanobind/executor request.cpp at ac456dcad7e6, executorConfig.cpp at 008b2b8d23af and
executor.cpp at 1dd50d0741fa; in its fork anish-shanbhag/TensorRT-LLM: llmapi/llm.py at 57c4f09a6909, and
executor/result.py and executor/base_worker.py at 277cbbee4dc1.
"""

import os

from . import bindings, llmapi
from .llmapi import LLM, SamplingParams

__version__ = os.environ.get("FAKE_TENSORRT_LLM_VERSION", "1.2.1")

__all__ = ["LLM", "SamplingParams", "bindings", "llmapi"]
