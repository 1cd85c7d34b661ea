"""The process in which OpenVINO GenAI generates: `step()` holds the interpreter lock, so it gets one of its own.

Started by the adapter with the number of an inherited socket; takes ("submit", EngineRequest) and ("cancel", key) from
it, sends lists of EngineEvent, and ends when the other side closes it, however that happens.
"""

import json
import random
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai

from trireme_runtime.contract import Code, FinishReason, Refusal
from trireme_runtime.engines.base import EngineEvent, EngineLimits, EngineRequest, EngineSettings

#: Tokens in one block of OpenVINO's paged KV cache on the CPU.
BLOCK_TOKENS = 32

#: Greedy output equals float32 arithmetic token for token only with both of these.
EXACT_FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}

_FINISH_REASONS = {
    genai.GenerationFinishReason.STOP: FinishReason.STOP,
    genai.GenerationFinishReason.LENGTH: FinishReason.LENGTH,
}


def read_limits(folder: Path, settings: EngineSettings) -> EngineLimits:
    """The limits of the model in `folder`, from its config.json."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return EngineLimits(
        vocab_size=int(config["vocab_size"]),
        max_context_tokens=int(config["max_position_embeddings"]),
        kv_cache_tokens=settings.kv_cache_tokens // BLOCK_TOKENS * BLOCK_TOKENS,
    )


def generation_config(request: EngineRequest) -> Any:
    """The engine's own configuration of one request."""
    sampling = request.sampling
    config = genai.GenerationConfig()
    config.max_new_tokens = request.max_new_tokens
    config.min_new_tokens = sampling.min_tokens
    # ignore_eos also switches stop_token_ids off, so it stands for "no end id at all" only.
    config.ignore_eos = request.end_id is None
    if request.end_id is not None:
        config.set_eos_token_id(request.end_id)
    config.repetition_penalty = sampling.repetition_penalty
    config.presence_penalty = sampling.presence_penalty
    config.frequency_penalty = sampling.frequency_penalty
    config.do_sample = sampling.temperature > 0
    if config.do_sample:
        config.temperature = sampling.temperature
        config.top_p = sampling.top_p
        if sampling.top_k:
            config.top_k = sampling.top_k
        # The engine's default is 0: the same text every time.
        config.rng_seed = random.getrandbits(63) if sampling.seed is None else sampling.seed
    return config


class Generator:
    """Continuous batching over one pipeline: requests join and leave between steps."""

    def __init__(self, folder: Path, settings: EngineSettings) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.num_kv_blocks = settings.kv_cache_tokens // BLOCK_TOKENS
        scheduler.max_num_batched_tokens = settings.max_num_tokens
        scheduler.max_num_seqs = settings.max_num_seqs
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = settings.reuse_kv_blocks
        self._pipeline = genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", EXACT_FLOAT32)
        self._active: dict[int, tuple[EngineRequest, Any]] = {}

    @property
    def idle(self) -> bool:
        """Whether there is nothing to compute."""
        return not self._active

    def submit(self, request: EngineRequest) -> list[EngineEvent]:
        """Add a request; events only where it is refused."""
        ids = ov.Tensor(np.array([request.input_ids], dtype=np.int64))
        try:
            handle = self._pipeline.add_request(request.key, ids, generation_config(request))
        except RuntimeError as error:
            message = str(error).strip().splitlines()[-1]
            return [EngineEvent(request.key, error=Refusal(Code.INVALID_ARGUMENT, f"the engine refuses: {message}"))]
        self._active[request.key] = (request, handle)
        return []

    def cancel(self, key: int) -> list[EngineEvent]:
        """Drop a request; what it still holds is freed by the next step."""
        if key not in self._active:
            return []
        self._active.pop(key)[1].cancel()
        return [EngineEvent(key, finish_reason=FinishReason.CANCELLED)]

    def step(self) -> list[EngineEvent]:
        """Compute one step of all active requests."""
        self._pipeline.step()
        events = []
        for key, (request, handle) in list(self._active.items()):
            event = self._news(request, handle)
            if event is not None:
                events.append(event)
                if event.is_last:
                    del self._active[key]
        return events

    def finish_cancelled(self) -> None:
        """Step until the pipeline has let go of what was cancelled, when nothing else is active."""
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()

    @staticmethod
    def _news(request: EngineRequest, handle: Any) -> EngineEvent | None:
        ids: list[int] = []
        reason: FinishReason | None = None
        while handle.can_read():
            for output in handle.read().values():
                ids.extend(output.generated_ids)
                reason = _FINISH_REASONS.get(output.finish_reason, reason)
        if reason is None and handle.get_status() == genai.GenerationStatus.IGNORED:
            message = "the engine gave the request up: its KV cache is exhausted"
            return EngineEvent(request.key, tuple(ids), error=Refusal(Code.RESOURCE_EXHAUSTED, message))
        if reason is FinishReason.STOP and ids and ids[-1] == request.end_id:
            ids.pop()
        if not ids and reason is None:
            return None
        return EngineEvent(request.key, tuple(ids), reason)


def serve(connection: Connection, generator: Generator) -> None:
    """Step while there is work and wait while there is none, until the other side closes `connection`."""
    while True:
        events: list[EngineEvent] = []
        while generator.idle or connection.poll():
            if generator.idle:
                generator.finish_cancelled()
            if events:
                connection.send(events)
                events = []
            kind, argument = connection.recv()
            events += generator.submit(argument) if kind == "submit" else generator.cancel(argument)
        events += generator.step()
        if events:
            connection.send(events)


def main() -> None:
    connection = Connection(int(sys.argv[1]))
    try:
        folder, settings = connection.recv()
        try:
            generator = Generator(folder, settings)
        except Exception as error:
            connection.send(error if type(error) in (ValueError, RuntimeError) else RuntimeError(repr(error)))
            return
        connection.send(read_limits(folder, settings))
        serve(connection, generator)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


if __name__ == "__main__":
    main()
