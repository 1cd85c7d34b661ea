"""Token ids to text: stateless detokenization of one chunk of a stream."""

from typing import Any

from .. import triton
from ..cancelling import EngineStopper
from ..contract import invalid
from ..detokenizing import Detokenizer
from ..requests import check_batch_of_one
from ..shared_state import StatusFile
from ..stopping import cut_at_stop
from ..tokenizing import load_tokenizer


class TritonPythonModel:
    """In: TOKENS_BATCH [1, beams, n], SEQUENCE_LENGTH [1, beams], WINDOW_IDS [1, w]. Out: OUTPUT [1, beams]."""

    def initialize(self, args: dict[str, str]) -> None:
        config = triton.ModelConfig(args)
        self._detokenizer = Detokenizer(load_tokenizer(config.folder("tokenizer_dir")))
        self._stopper = EngineStopper(config.text("engine_model"))
        self._status = StatusFile(args["model_name"], args["model_version"])

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
        reasons = _texts_of(tensors, "FINISH_REASON", len(lengths[0]), default="stop")
        stops = _texts_of(tensors, "STOP_REASON", len(lengths[0]), default="")
        return [
            cut_at_stop(self._detokenizer.delta(window, row[:length].tolist(), final=bool(reason)), stop)
            for row, length, reason, stop in zip(ids[0], lengths[0], reasons, stops, strict=True)
        ]

    def finalize(self) -> None:
        self._status.close()


def _texts_of(tensors: dict[str, Any], name: str, count: int, default: str) -> list[str]:
    if name not in tensors:
        return [default] * count
    return [text.decode("utf-8") for text in tensors[name][0]]
