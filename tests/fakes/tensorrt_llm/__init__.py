"""A strict stand-in for the few classes of TensorRT-LLM 1.2.1 that the adapters call.

Signatures, argument names and refusals are those of upstream's source, which each docstring names; what upstream would
take silently and not honour is refused too. It computes nothing: the ids of an answer follow from the request, see
`_model`. Whatever an adapter calls that is not here fails.
"""

import os

from . import bindings, llmapi
from .llmapi import LLM, SamplingParams

__version__ = os.environ.get("FAKE_TENSORRT_LLM_VERSION", "1.2.1")

__all__ = ["LLM", "SamplingParams", "bindings", "llmapi"]
