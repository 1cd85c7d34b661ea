"""The process in which OpenVINO GenAI generates: `step()` holds the interpreter lock, so it gets one of its own.

Its loop is `engine_child`'s; a request may come with the Constraint that its answer must match.
"""

import json
import random
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai

from trireme_runtime.contract import Code, FinishReason, Refusal
from trireme_runtime.engines.base import (
    Beam,
    CacheUse,
    EngineEvent,
    EngineLimits,
    EngineRequest,
    EngineSettings,
    EngineStep,
    EngineTimes,
)
from trireme_runtime.engines.engine_child import run
from trireme_runtime.engines.openvino_cache import PrefixCache
from trireme_runtime.engines.openvino_guides import Constraint

#: Tokens in one block of OpenVINO's paged KV cache on the CPU.
BLOCK_TOKENS = 32

#: Greedy output equals float32 arithmetic token for token only with all of these; the last one keeps activations from
#: being rounded where weights are INT8 or INT4.
EXACT_FLOAT32 = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}

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
        max_num_seqs=settings.max_num_seqs,
        kv_block_tokens=BLOCK_TOKENS,
    )


def generation_config(request: EngineRequest, constraint: Constraint | None = None) -> Any:
    """The engine's own configuration of one request."""
    sampling = request.sampling
    config = genai.GenerationConfig()
    config.max_new_tokens = request.max_new_tokens
    # ignore_eos also switches stop_token_ids off, so it stands for "no end id at all" only. There must be an id even
    # so: without one the engine takes the model's, refuses a model that has none, and leaves constraints out.
    config.ignore_eos = request.end_id is None
    config.set_eos_token_id(0 if request.end_id is None else request.end_id)
    config.min_new_tokens = 0 if request.end_id is None else sampling.min_tokens
    config.repetition_penalty = sampling.repetition_penalty
    config.presence_penalty = sampling.presence_penalty
    config.frequency_penalty = sampling.frequency_penalty
    config.logprobs = int(request.log_probs)
    if constraint is not None:
        config.structured_output_config = genai.StructuredOutputConfig(**{constraint.form: constraint.text})
    if sampling.beam_width > 1:
        config.num_beams = sampling.beam_width
        config.num_return_sequences = request.num_beams_returned
        config.length_penalty = sampling.length_penalty
    config.do_sample = sampling.temperature > 0
    if config.do_sample:
        config.temperature = sampling.temperature
        config.top_p = sampling.top_p
        if sampling.top_k:
            config.top_k = sampling.top_k
        # The engine's default is 0: the same text every time.
        config.rng_seed = random.getrandbits(63) if sampling.seed is None else sampling.seed
    return config


@dataclass
class _Running:
    """A request that the pipeline has, and what is known of it."""

    request: EngineRequest
    handle: Any
    cache: CacheUse
    prompt_left: int
    ids: list[int] = field(default_factory=list)
    first_scheduled_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0

    @property
    def times(self) -> EngineTimes:
        return EngineTimes(self.first_scheduled_ns, self.first_token_ns, self.last_token_ns)


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
        self._settings = settings
        self.limits = read_limits(folder, settings)
        self._cache = PrefixCache(scheduler.num_kv_blocks, BLOCK_TOKENS) if settings.reuse_kv_blocks else None
        self._active: dict[int, _Running] = {}

    @property
    def idle(self) -> bool:
        """Whether there is nothing to compute."""
        return not self._active

    def submit(self, request: EngineRequest, constraint: Constraint | None = None) -> list[EngineEvent]:
        """Add a request; events only where it is refused."""
        ids = ov.Tensor(np.array([request.input_ids], dtype=np.int64))
        try:
            handle = self._pipeline.add_request(request.key, ids, generation_config(request, constraint))
        except RuntimeError as error:
            message = str(error).strip().splitlines()[-1]
            return [EngineEvent(request.key, error=Refusal(Code.INVALID_ARGUMENT, f"the engine refuses: {message}"))]
        reused = self._cache.take(request.key, request.input_ids) if self._cache else 0
        self._active[request.key] = _Running(
            request, handle, CacheUse(reused, -(-reused // BLOCK_TOKENS)), len(request.input_ids) - reused
        )
        return []

    def cancel(self, key: int) -> list[EngineEvent]:
        """Drop a request; what it still holds is freed by the next step."""
        if key not in self._active:
            return []
        running = self._active.pop(key)
        running.handle.cancel()
        return [self._last_event(running, EngineEvent(key, finish_reason=FinishReason.CANCELLED))]

    def step(self) -> EngineStep:
        """Compute one step of all active requests."""
        self._note_scheduled()
        self._pipeline.step()
        now_ns = time.monotonic_ns()
        keys: list[int] = []
        ids: list[int] = []
        events: list[EngineEvent] = []
        for key, running in list(self._active.items()):
            event = self._news(running, now_ns)
            if event is None:
                continue
            if running.request.reports:
                event = self._with_report(running, event)
            if event.is_last:
                del self._active[key]
                event = self._last_event(running, event)
            if len(event.ids) == 1 and event.is_plain:
                keys.append(key)
                ids.append(event.ids[0])
            else:
                events.append(event)
        return EngineStep(keys, ids, events, self._kv_blocks_used())

    def _kv_blocks_used(self) -> int:
        """Blocks that were held when the step was scheduled; none where nothing is left."""
        if not self._active:
            return 0
        return int(self._pipeline.get_metrics().cache_usage * self.limits.kv_blocks / 100 + 0.5)

    def settle(self) -> None:
        """Step until the pipeline has let go of what was cancelled, when nothing else is active."""
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()

    def _note_scheduled(self) -> None:
        """Note which requests the coming step begins with.

        As the pipeline schedules: one token for each sequence that generates, then prompts in their order, as far as
        max_num_tokens goes, for the oldest max_num_seqs requests.
        """
        waiting = [running for running in self._active.values() if running.prompt_left]
        if not waiting:
            return
        tokens = self._settings.max_num_tokens - (len(self._active) - len(waiting))
        now_ns = time.monotonic_ns()
        for running in list(self._active.values())[: self._settings.max_num_seqs]:
            if tokens <= 0:
                return
            taken = min(tokens, running.prompt_left)
            if taken:
                running.first_scheduled_ns = running.first_scheduled_ns or now_ns
                running.prompt_left -= taken
                tokens -= taken
                if self._cache and not running.prompt_left:
                    self._cache.compute(running.request.key)

    def _last_event(self, running: _Running, event: EngineEvent) -> EngineEvent:
        """`event` with what is told at the end of a request."""
        if self._cache:
            self._cache.release(running.request.key, running.ids)
        return self._with_report(running, event)

    @staticmethod
    def _with_report(running: _Running, event: EngineEvent) -> EngineEvent:
        tokens = len(running.request.input_ids) + max([len(running.ids), *(len(beam.ids) for beam in event.beams)])
        new_blocks = max(0, -(-tokens // BLOCK_TOKENS) - running.cache.reused_blocks)
        return replace(event, times=running.times, cache=replace(running.cache, new_blocks=new_blocks))

    @staticmethod
    def _news(running: _Running, now_ns: int) -> EngineEvent | None:
        request, handle = running.request, running.handle
        outputs = []
        while handle.can_read():
            outputs.append(handle.read())
        if not outputs:
            if handle.get_status() == genai.GenerationStatus.IGNORED:
                message = "the engine gave the request up: its KV cache is exhausted"
                return EngineEvent(request.key, error=Refusal(Code.RESOURCE_EXHAUSTED, message))
            return None
        running.first_token_ns = running.first_token_ns or now_ns
        running.last_token_ns = now_ns
        running.prompt_left = 0
        if request.sampling.beam_width > 1:
            ranked = sorted(outputs[-1].values(), key=lambda output: output.score, reverse=True)
            beams = tuple(_beam(output, request.end_id) for output in ranked[: request.num_beams_returned])
            return EngineEvent(request.key, finish_reason=beams[0].finish_reason, beams=beams)
        ids: list[int] = []
        log_probs: list[float] = []
        reason: FinishReason | None = None
        for output in (output for read in outputs for output in read.values()):
            ids.extend(output.generated_ids)
            log_probs.extend(output.generated_log_probs)
            reason = _FINISH_REASONS.get(output.finish_reason, reason)
        running.ids += ids
        if reason is FinishReason.STOP and ids and ids[-1] == request.end_id:
            ids.pop()
            log_probs = log_probs[: len(ids)]
        if not ids and reason is None:
            return None
        return EngineEvent(request.key, tuple(ids), reason, log_probs=tuple(log_probs) if request.log_probs else ())


def _beam(output: Any, end_id: int | None) -> Beam:
    reason = _FINISH_REASONS.get(output.finish_reason, FinishReason.LENGTH)
    ids = list(output.generated_ids)
    if reason is FinishReason.STOP and ids and ids[-1] == end_id:
        ids.pop()
    return Beam(tuple(ids), tuple(output.generated_log_probs[: len(ids)]), reason)


if __name__ == "__main__":
    run(Generator)
