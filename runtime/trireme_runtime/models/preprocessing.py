"""Prompts to token ids: batched tokenization and the chat template."""

import time
from typing import Any

import numpy as np

from .. import triton
from ..admission import HIGHEST_PRIORITY, LOWEST_PRIORITY, refusal_of
from ..contract import Refusal, invalid
from ..loading import loads
from ..metrics import RefusalCounter
from ..requests import check_batch_of_one, decode_text
from ..shared_state import QueueReader, StatusFile
from ..tokenizing import Encoder, load_tokenizer
from ..tracing import ModelTraces


class TritonPythonModel:
    """In: QUERY or MESSAGES, STRING [1, 1]. Out: INPUT_ID [1, n], and what else a client of `tensorrt_llm` sends on."""

    @loads
    def initialize(self, args: dict[str, str]) -> None:
        config = triton.ModelConfig.of_verified(args)
        self._encoder = Encoder(load_tokenizer(config.folder("tokenizer_dir")))
        self._queue = QueueReader(config.text("engine_model"))
        self._refusals = RefusalCounter(args)
        self._traces = triton.traces_of("preprocessing", args)
        self._status = StatusFile(args["model_name"], args["model_version"])

    def execute(self, requests: list[Any]) -> list[Any]:
        began_ns = time.time_ns() if self._traces is not None else 0
        prompts: list[str | Refusal] = []
        for request in requests:
            try:
                self._refuse_overload(request)
                prompt = self._prompt(request)
                self._encoder.check_length(prompt)
                prompts.append(prompt)
            except Exception as error:
                prompts.append(triton.as_refusal(error))
        encoded = self._encoder.encode_batch([prompt for prompt in prompts if isinstance(prompt, str)])
        ids = iter(encoded)
        results = [prompt if isinstance(prompt, Refusal) else next(ids) for prompt in prompts]
        responses = [
            triton.error_response(result) if isinstance(result, Refusal) else self._response(request, result)
            for request, result in zip(requests, results, strict=True)
        ]
        if self._traces is not None:
            self._trace(self._traces, requests, results, began_ns)
        return responses

    @staticmethod
    def _trace(traces: ModelTraces, requests: list[Any], results: list[Any], began_ns: int) -> None:
        """A span for each request that is traced, from `began_ns` until now. results: its ids, or its refusal."""
        ended_ns = time.time_ns()
        for request, result in zip(requests, results, strict=True):
            traceparent = triton.traceparent_of(request)
            if traceparent:
                error = result.code.value if isinstance(result, Refusal) else None
                attributes = {"trireme.batch_size": len(requests)}
                if error is None:
                    attributes["gen_ai.usage.input_tokens"] = len(result)
                traces.span(traceparent, "preprocessing", began_ns, ended_ns, attributes, error=error)

    def _refuse_overload(self, request: Any) -> None:
        """Raise Refusal for what the engine would not let in however short its prompt is, before anything is done."""
        found = self._queue.read()
        if found is None or not any(found[1].queued):
            return
        tensors = triton.tensors_of(request)

        def number(name: str) -> int:
            return int(tensors[name].flat[0]) if name in tensors and tensors[name].size else 0

        priority = min(HIGHEST_PRIORITY, max(LOWEST_PRIORITY, number("PRIORITY")))
        # Cut to what the context leaves, as the engine model does.
        output_tokens = min(max(1, number("REQUEST_OUTPUT_LEN")), self._encoder.room_after(1))
        refusal = refusal_of(*found, priority, 1 + output_tokens)
        if refusal is not None:
            self._refusals.count(refusal)
            raise refusal

    def _prompt(self, request: Any) -> str:
        triton.refuse_parameters(request)
        tensors = triton.tensors_of(request)
        texts = {}
        for name, client_name in (
            ("QUERY", "text_input"),
            ("MESSAGES", "messages"),
            ("CHAT_TEMPLATE_KWARGS", "chat_template_kwargs"),
            ("DECODER_QUERY", "decoder_text_input"),
        ):
            if name in tensors:
                check_batch_of_one(client_name, tensors[name].shape)
                texts[name] = decode_text(client_name, tensors[name].flat[0])
        if texts.get("DECODER_QUERY"):
            raise invalid("decoder_text_input: this model has no decoder prompt; send text_input alone")
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

    def _response(self, request: Any, ids: Any) -> Any:
        """What was asked for; the ensembles ask for ids and lengths only."""
        asked = set(request.requested_output_names())
        outputs = [
            triton.output("INPUT_ID", ids[np.newaxis], np.int32),
            triton.output("REQUEST_INPUT_LEN", [[len(ids)]], np.int32),
        ]
        if asked - {"INPUT_ID", "REQUEST_INPUT_LEN"}:
            try:
                outputs += self._further_outputs(triton.tensors_of(request), len(ids))
            except Exception as error:
                return triton.error_response(triton.as_refusal(error))
        return triton.response(*(tensor for tensor in outputs if tensor.name() in asked))

    def _further_outputs(self, tensors: dict[str, Any], length: int) -> list[Any]:
        def number(name: str, default: int) -> int:
            return int(tensors[name].flat[0]) if name in tensors else default

        def texts(name: str, client_name: str) -> list[str]:
            return [decode_text(client_name, text) for text in tensors[name].flat] if name in tensors else []

        weights = tensors.get("EMBEDDING_BIAS_WEIGHTS", np.zeros(0, np.float32)).reshape(-1)
        bias = self._encoder.embedding_bias(texts("EMBEDDING_BIAS_WORDS", "embedding_bias_words"), weights.tolist())
        numbers = {
            "REQUEST_OUTPUT_LEN": number("REQUEST_OUTPUT_LEN", self._encoder.room_after(length)),
            "OUT_END_ID": number("END_ID", self._encoder.end_id),
            "OUT_PAD_ID": number("PAD_ID", self._encoder.pad_id),
        }
        words = {"BAD_WORDS_IDS": ("BAD_WORDS_DICT", "bad_words"), "STOP_WORDS_IDS": ("STOP_WORDS_DICT", "stop_words")}
        return [
            *(triton.output(name, [[value]], np.int32) for name, value in numbers.items()),
            *(
                triton.output(name, [self._encoder.word_list(texts(*source))], np.int32)
                for name, source in words.items()
            ),
            triton.output("EMBEDDING_BIAS", [bias], np.float32),
        ]

    def finalize(self) -> None:
        self._status.close()
        if self._traces is not None:
            self._traces.close()
