"""Prompts to token ids: batched tokenization and the chat template."""

from typing import Any

import numpy as np

from trireme_runtime import triton
from trireme_runtime.contract import invalid
from trireme_runtime.requests import check_batch_of_one, decode_text
from trireme_runtime.tokenizing import Encoder, load_tokenizer


class TritonPythonModel:
    """In: QUERY or MESSAGES, CHAT_TEMPLATE_KWARGS, STRING [1, 1]. Out: INPUT_ID [1, n], REQUEST_INPUT_LEN [1, 1]."""

    def initialize(self, args: dict[str, str]) -> None:
        self._encoder = Encoder(load_tokenizer(triton.ModelConfig(args).folder("tokenizer_dir")))

    def execute(self, requests: list[Any]) -> list[Any]:
        prompts: list[str | Exception] = []
        for request in requests:
            try:
                prompt = self._prompt(request)
                self._encoder.check_length(prompt)
                prompts.append(prompt)
            except Exception as error:
                prompts.append(error)
        encoded = iter(self._encoder.encode_batch([prompt for prompt in prompts if isinstance(prompt, str)]))
        return [
            triton.error_response(triton.as_refusal(prompt))
            if isinstance(prompt, Exception)
            else self._response(next(encoded))
            for prompt in prompts
        ]

    def _prompt(self, request: Any) -> str:
        triton.refuse_parameters(request)
        tensors = triton.tensors_of(request)
        texts = {}
        for name, client_name in (
            ("QUERY", "text_input"),
            ("MESSAGES", "messages"),
            ("CHAT_TEMPLATE_KWARGS", "chat_template_kwargs"),
        ):
            if name in tensors:
                check_batch_of_one(client_name, tensors[name].shape)
                texts[name] = decode_text(client_name, tensors[name].flat[0])
        if texts.get("MESSAGES"):
            if texts.get("QUERY"):
                raise invalid("text_input and messages are both given; send one of them")
            return self._encoder.render_chat(texts["MESSAGES"], texts.get("CHAT_TEMPLATE_KWARGS"))
        if texts.get("CHAT_TEMPLATE_KWARGS"):
            raise invalid("chat_template_kwargs is given without messages")
        if "QUERY" not in texts:
            raise invalid("text_input: missing; text_input or messages is required")
        if not texts["QUERY"]:
            raise invalid("text_input is empty; at least 1 character is needed")
        return texts["QUERY"]

    @staticmethod
    def _response(ids: Any) -> Any:
        return triton.response(
            triton.output("INPUT_ID", ids[np.newaxis], np.int32),
            triton.output("REQUEST_INPUT_LEN", [[len(ids)]], np.int32),
        )
