"""Token ids to text: stateless detokenization of one chunk of a stream."""

from typing import Any

from trireme_runtime import triton
from trireme_runtime.cancelling import EngineStopper
from trireme_runtime.contract import invalid
from trireme_runtime.detokenizing import Detokenizer
from trireme_runtime.requests import check_batch_of_one
from trireme_runtime.stopping import cut_at_stop
from trireme_runtime.tokenizing import load_tokenizer


class TritonPythonModel:
    """In: TOKENS_BATCH [1, beams, n], SEQUENCE_LENGTH [1, beams], WINDOW_IDS [1, w]. Out: OUTPUT [1, beams]."""

    def initialize(self, args: dict[str, str]) -> None:
        config = triton.ModelConfig(args)
        self._detokenizer = Detokenizer(load_tokenizer(config.folder("tokenizer_dir")))
        self._stopper = EngineStopper(config.text("engine_model"))

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            tensors = triton.tensors_of(request)
            if request.is_cancelled() and "STREAM_KEY" in tensors:
                self._stopper.stop(int(tensors["STREAM_KEY"].flat[0]))
            return triton.response(triton.output("OUTPUT", [self._texts(tensors)], object))
        except Exception as error:
            return triton.error_response(triton.as_refusal(error))

    def _texts(self, tensors: dict[str, Any]) -> list[str]:
        ids, lengths = tensors["TOKENS_BATCH"], tensors["SEQUENCE_LENGTH"]
        check_batch_of_one("TOKENS_BATCH", ids.shape)
        if ids.size and not 0 <= ids.min() <= ids.max() < self._detokenizer.vocab_size:
            bad = ids.min() if ids.min() < 0 else ids.max()
            raise invalid(f"TOKENS_BATCH: id {bad} is outside the vocabulary, 0 to {self._detokenizer.vocab_size - 1}")
        window = tensors["WINDOW_IDS"][0].tolist() if "WINDOW_IDS" in tensors else []
        # Without a finish reason there is no more to come: a plain client sends whole sequences.
        final = "FINISH_REASON" not in tensors or tensors["FINISH_REASON"].flat[0] != b""
        stop = tensors["STOP_REASON"].flat[0].decode("utf-8") if "STOP_REASON" in tensors else ""
        return [
            cut_at_stop(self._detokenizer.delta(window, row[:length].tolist(), final), stop)
            for row, length in zip(ids[0], lengths[0], strict=True)
        ]
