"""Decodes each response's ids by themselves."""

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from trireme_runtime.tokenizing import load_tokenizer
from trireme_runtime.triton import ModelConfig, response


class TritonPythonModel:
    """In: ids. Out: their text."""

    def initialize(self, args: dict[str, str]) -> None:
        self._tokenizer = load_tokenizer(ModelConfig(args).folder("tokenizer_dir"))

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        ids = pb_utils.get_input_tensor_by_name(request, "TOKENS_BATCH").as_numpy()
        lengths = pb_utils.get_input_tensor_by_name(request, "SEQUENCE_LENGTH").as_numpy()
        texts = [
            self._tokenizer.decode(row[:length], skip_special_tokens=True).encode()
            for row, length in zip(ids[0], lengths[0], strict=True)
        ]
        return response(pb_utils.Tensor("OUTPUT", np.array([texts], dtype=object)))
