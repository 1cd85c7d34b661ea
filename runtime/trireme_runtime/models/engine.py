"""Token ids to token ids: the engine slot. `execute` only enqueues; answers come from the stream router."""

import contextlib
import random
from typing import Any

import triton_python_backend_utils as pb_utils

from .. import triton
from ..admission import QueueLimits
from ..answers import CancelCause, Chunk
from ..cancelling import StopListener, Stopper
from ..contract import UNARY_ID_PREFIX, Code, Refusal, invalid
from ..detokenizing import Detokenizer
from ..engines import load_engine
from ..engines.base import Engine, EngineSettings
from ..loading import loads
from ..metrics import EngineMetrics
from ..requests import Defaults, check_batch_of_one, check_sampling_defaults, parse_generation
from ..shared_state import ChunkCounter
from ..streams import RouterSettings, StreamRouter
from ..streams import Tap as StreamTap
from ..tap import Tap
from ..tokenizing import load_tokenizer
from ..tracing import EngineSpans


class _ResponseSink:
    """Sends a stream's chunks through Triton's response sender.

    packed: whether they go on to `postprocessing`, and not to a client. always_counts: see `triton.packed_outputs`.
    Triton unloads no model of which there is a response sender, so it is let go of with the last response.
    """

    def __init__(self, sender: Any, packed: bool) -> None:
        self._sender: Any = sender
        self._packed = packed
        self.always_counts = False

    def send(self, chunk: Chunk, final: bool) -> bool:
        outputs = triton.packed_outputs(chunk, self.always_counts) if self._packed else triton.chunk_outputs(chunk)
        if final:
            self._last(triton.response(*outputs))
        else:
            self._sender.send(triton.response(*outputs))
        return self._packed

    def fail(self, refusal: Refusal) -> None:
        self._last(triton.error_response(refusal))

    def end(self) -> None:
        """End without a response."""
        self._last()

    def _last(self, *response: Any) -> None:
        sender, self._sender = self._sender, None
        sender.send(*response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def is_cancelled(self) -> bool:
        # Triton never tells the step of an ensemble that is running, and asking it costs a message.
        return not self._packed and bool(self._sender.is_cancelled())


class TritonPythonModel:
    """Decoupled: one response per chunk while streaming, else one with all ids. `stop` true ends a running request."""

    @loads
    def initialize(self, args: dict[str, str]) -> None:
        config = triton.ModelConfig.of_verified(args)
        tokenizer = load_tokenizer(config.folder("tokenizer_dir"))
        self._defaults = Defaults(
            tokenizer.eos_token_id, config.flag("exclude_input_in_output"), config.sampling_defaults()
        )
        settings = EngineSettings(
            max_num_seqs=config.integer("max_num_sequences"),
            max_num_tokens=config.integer("max_num_tokens"),
            kv_cache_tokens=config.integer("max_tokens_in_paged_kv_cache"),
            reuse_kv_blocks=config.flag("enable_kv_cache_reuse"),
            hang_timeout_s=config.integer("engine_hang_timeout_ms") / 1000,
        )
        queue = QueueLimits(
            max_size=config.integer("max_queue_size"),
            max_tokens=config.integer("max_queue_tokens"),
            max_delay_ms=config.integer("max_queue_delay_ms"),
        )
        router_settings = RouterSettings(
            queue,
            config.number("kv_cache_overcommit"),
            max_chunk_delay_s=config.number("max_chunk_delay_ms") / 1000,
            chunk_delay_per_stream_s=config.number("chunk_delay_per_stream_us") / 1e6,
        )

        def start_engine() -> Engine:
            engine = load_engine(config.text("engine"), config.folder("engine_dir"), settings)
            try:
                check_sampling_defaults(self._defaults.sampling, engine.honours, engine.name)
            except ValueError:
                engine.close()
                raise
            return engine

        self._detokenizer = Detokenizer(tokenizer)
        # What was begun is ended, and leaves nothing in shared memory, where the rest of it fails.
        with contextlib.ExitStack() as begun:
            self._chunks = ChunkCounter()
            begun.callback(self._chunks.close)
            self._metrics = EngineMetrics(args, queue)
            begun.callback(self._metrics.close)
            # No two engine models of a server have a key in common: one may be asked to stop a stream of another.
            first_key = random.SystemRandom().randrange(1, 2**60)
            tap = Tap(args["model_name"])
            begun.callback(tap.close)
            taps: list[StreamTap] = [tap]
            self._traces = triton.traces_of("tensorrt_llm", args)
            if self._traces is not None:
                begun.callback(self._traces.close)
                taps.append(EngineSpans(self._traces, config.text("engine")))
            self._router = StreamRouter(
                start_engine, self._detokenizer, self._metrics, router_settings, self._chunks, first_key, taps
            )
            begun.callback(self._router.close)
            listener = StopListener(args["model_name"], self._stop_here)
            begun.callback(listener.close)
            self._stopper = Stopper(args["model_name"])
            self._metrics.loaded(self._router.engine.limits)
            self._begun = begun.pop_all()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            wanted = request.requested_output_names()
            sink = _ResponseSink(request.get_response_sender(), "chunk" in wanted and "output_ids" not in wanted)
            try:
                self._take(request, sink)
            except Exception as error:
                refusal = triton.as_refusal(error)
                self._metrics.refused(refusal)
                sink.fail(refusal)

    def _take(self, request: Any, sink: _ResponseSink) -> None:
        triton.refuse_parameters(request)
        tensors = triton.tensors_of(request)
        for name, values in tensors.items():
            check_batch_of_one(name, values.shape)
        if "stop" in tensors and tensors["stop"].any():
            self._stop(request.request_id(), tensors, sink)
            return
        engine = self._router.engine
        generation = parse_generation(
            tensors, self._defaults, engine.limits, engine.honours, engine.name, self._detokenizer.decode
        )
        sink.always_counts = any(
            name in tensors and tensors[name].any() for name in ("return_num_input_tokens", "return_num_output_tokens")
        )
        traceparent = triton.traceparent_of(request) if self._traces is not None else ""
        self._router.start(generation, sink, request.request_id(), traceparent)

    def _stop(self, request_id: str, tensors: dict[str, Any], sink: _ResponseSink) -> None:
        """End a generation, wherever in the server it runs, and answer when that is done."""
        stream_key = int(tensors["stream_key"].flat[0]) if "stream_key" in tensors else 0
        if not stream_key and not request_id:
            raise invalid("stop: the request has no id; send that of the request to stop")

        def answer(found: int) -> None:
            try:
                if found == 1 or stream_key:
                    sink.end()
                else:
                    sink.fail(_not_stopped(request_id, found))
            except Exception as error:
                self._metrics.send_failed(error)

        found = self._stop_here(request_id, stream_key)
        if found:
            answer(found)
        else:
            self._stopper.stop(request_id, stream_key, answer)

    def _stop_here(self, request_id: str, stream_key: int) -> int:
        """See `cancelling.Stop`."""
        if stream_key:
            return int(self._router.cancel(stream_key, CancelCause.CLIENT))
        keys = self._router.keys_of(request_id)
        if len(keys) == 1:
            given_up = request_id.startswith(UNARY_ID_PREFIX)
            self._router.cancel(keys[0], CancelCause.CLIENT if given_up else CancelCause.STOP)
        return len(keys)

    def finalize(self) -> None:
        self._begun.close()


def _not_stopped(request_id: str, found: int) -> Refusal:
    if not found:
        return Refusal(Code.NOT_FOUND, f"stop: no request with the id {request_id!r} is running")
    return invalid(f"stop: {found} requests with the id {request_id!r} are running; ids must be unique")
