"""Token ids to text: stateless detokenization of one chunk of a stream."""

import functools
import time
from typing import Any

from .. import triton
from ..cancelling import EngineStopper
from ..contract import invalid
from ..detokenizing import Detokenizer
from ..loading import loads
from ..packing import unpack
from ..requests import check_batch_of_one
from ..shared_state import ChunkAcknowledger, StatusFile
from ..stopping import cut_at_stop
from ..tokenizing import load_tokenizer
from ..tracing import StreamSpans

#: How often to look whether the client of a stream is still there, and of how many streams that is remembered.
_LOOK_EVERY_S = 0.02
_REMEMBERED = 4096


class TritonPythonModel:
    """In: CHUNK [1, n], or TOKENS_BATCH [1, beams, n], SEQUENCE_LENGTH [1, beams], WINDOW_IDS [1, w].

    Out: OUTPUT [1, beams]. Of a CHUNK, also what is in it, where that is asked for.
    """

    @loads
    def initialize(self, args: dict[str, str]) -> None:
        config = triton.ModelConfig.of_verified(args)
        self._detokenizer = Detokenizer(load_tokenizer(config.folder("tokenizer_dir")))
        self._stopper = EngineStopper(config.text("engine_model"))
        self._acknowledger = ChunkAcknowledger()
        #: When it was last asked whether the client of a stream is still there.
        self._looked: dict[int, float] = {}
        traces = triton.traces_of("postprocessing", args)
        self._spans = StreamSpans(traces) if traces is not None else None
        self._status = StatusFile(args["model_name"], args["model_version"])

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            tensors = triton.tensors_of(request)
            if "CHUNK" in tensors:
                return triton.response(*self._chunk_outputs(request, tensors))
            return triton.response(triton.output("OUTPUT", [self._texts(request, tensors)], object))
        except Exception as error:
            return triton.error_response(triton.as_refusal(error))

    def _chunk_outputs(self, request: Any, tensors: dict[str, Any]) -> list[Any]:
        """Of what comes from `tensorrt_llm`."""
        began_ns = time.time_ns() if self._spans is not None else 0
        check_batch_of_one("CHUNK", tensors["CHUNK"].shape)
        chunk = unpack(tensors["CHUNK"][0].tolist())
        self._acknowledger.done(chunk.source)
        # Asking costs a message to the server.
        if self._due(chunk.stream_key) and request.is_cancelled():
            self._stopper.stop(chunk.stream_key)
        stops = _texts_of(tensors, "STOP_REASON", len(chunk.rows), default="")
        wanted = request.requested_output_names()
        outputs = []
        if "OUTPUT" in wanted:
            texts = [
                cut_at_stop(self._detokenizer.delta(chunk.window_ids, ids, final=reason is not None), stop)
                for (ids, reason), stop in zip(chunk.rows, stops, strict=True)
            ]
            outputs.append(triton.output("OUTPUT", [texts], object))
        # The ensembles of texts want that alone.
        if any(name != "OUTPUT" for name in wanted):
            outputs += triton.unpacked_outputs(chunk, stops)
        if self._spans is not None:
            is_end = any(reason is not None for _, reason in chunk.rows)
            traceparent = functools.partial(triton.traceparent_of, request)
            self._spans.piece(chunk.stream_key, traceparent, began_ns, chunk.num_output_tokens, is_end)
        return outputs

    def _due(self, stream_key: int) -> bool:
        """Whether it is time again to look if a stream's client is still there."""
        now = time.monotonic()
        if now - self._looked.get(stream_key, 0.0) < _LOOK_EVERY_S:
            return False
        self._looked.pop(stream_key, None)
        self._looked[stream_key] = now
        if len(self._looked) > _REMEMBERED:
            del self._looked[next(iter(self._looked))]
        return True

    def _texts(self, request: Any, tensors: dict[str, Any]) -> list[str]:
        """Of what a client sends."""
        for name in ("TOKENS_BATCH", "SEQUENCE_LENGTH"):
            if name not in tensors:
                raise invalid(f"{name}: missing; it is required")
        ids, lengths = tensors["TOKENS_BATCH"], tensors["SEQUENCE_LENGTH"]
        check_batch_of_one("TOKENS_BATCH", ids.shape)
        if ids.size and not 0 <= ids.min() <= ids.max() < self._detokenizer.vocab_size:
            bad = ids.min() if ids.min() < 0 else ids.max()
            raise invalid(f"TOKENS_BATCH: id {bad} is outside the vocabulary, 0 to {self._detokenizer.vocab_size - 1}")
        if "STREAM_KEY" in tensors and request.is_cancelled():
            self._stopper.stop(int(tensors["STREAM_KEY"].flat[0]))
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
        if self._spans is not None:
            self._spans.close()


def _texts_of(tensors: dict[str, Any], name: str, count: int, default: str) -> list[str]:
    if name not in tensors:
        return [default] * count
    return [text.decode("utf-8") for text in tensors[name][0]]
