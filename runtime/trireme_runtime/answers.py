"""Answers under way: what came of each of their sequences, and what of it is to be sent next. Knows no threads."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from .contract import FinishReason, Refusal
from .detokenizing import Detokenizer
from .engines.base import CacheUse, EngineEvent, EngineRequest, EngineTimes
from .requests import GenerationRequest
from .stopping import StopMatcher


@dataclass(frozen=True)
class Piece:
    """Ids of one sequence of an answer.

    window_ids: ids sent before, from a character boundary, for stateless detokenization. log_probs and tokens, their
    bytes: of those of output_ids that were generated, where asked for; cum_log_prob: of the whole sequence so far.
    finish_reason is None until the last piece.
    """

    sequence_index: int
    window_ids: list[int]
    output_ids: list[int]
    log_probs: list[float] | None = None
    tokens: list[bytes] | None = None
    cum_log_prob: float = 0.0
    finish_reason: FinishReason | None = None
    stop_reason: str = ""


@dataclass(frozen=True)
class Metrics:
    """What is told at the end of an answer. Times in ns of time.monotonic_ns()."""

    arrival_ns: int
    first_scheduled_ns: int
    first_token_ns: int
    last_token_ns: int
    cache: CacheUse


@dataclass(frozen=True)
class Chunk:
    """What is sent to one client: one piece while streaming, else one of each sequence.

    The counts are those of the whole answer so far, all its num_sequences together. metrics come with the last chunk,
    where asked for.
    """

    stream_key: int
    num_sequences: int
    pieces: list[Piece]
    num_input_tokens: int
    num_output_tokens: int
    metrics: Metrics | None = None


class Queued(Enum):
    """How an answer waits for the sender: not at all, until it is due, or to be sent at once."""

    NOT = 0
    UNTIL_DUE = 1
    AT_ONCE = 2


class CancelCause(str, Enum):
    """Why a generation was cancelled."""

    CLIENT = "client"
    STOP = "stop"
    DEADLINE = "deadline"
    PRIORITY = "priority"
    SEND_FAILED = "send_failed"


class Sink(Protocol):
    """Where a stream's chunks go; called from the sender thread only."""

    def send(self, chunk: Chunk, final: bool) -> bool:
        """Send a chunk; with `final` nothing follows. Whether it goes through the router's pipe."""

    def fail(self, refusal: Refusal) -> None:
        """End with an error."""

    def is_cancelled(self) -> bool:
        """Whether the client has gone away."""


class RunningSequence:
    """One sequence of an answer. Guarded by the router's lock."""

    def __init__(self, index: int, request: GenerationRequest, matcher: StopMatcher | None) -> None:
        self.index = index
        self.matcher = matcher
        self.streaming = request.streaming and request.sampling.beam_width == 1
        self.ids: list[int] = list(request.input_ids) if request.echo else []
        self.echoed = len(self.ids)
        self.log_probs: list[float] | None = [] if request.log_probs else None
        self.sent = 0
        #: How many of the last ids could still become part of a stop string.
        self.held = 0
        self.finish_reason: FinishReason | None = None
        self.stop_reason = ""
        self.last_sent = False
        self.last_token_s = 0.0
        self._cum_log_prob = 0.0

    @property
    def done(self) -> bool:
        return self.finish_reason is not None

    @property
    def generated(self) -> int:
        return len(self.ids) - self.echoed

    @property
    def releasable(self) -> int:
        """How many ids may be sent, those that were included."""
        return len(self.ids) - self.held

    @property
    def wants_sending(self) -> bool:
        return not self.last_sent and (self.done or self.releasable > self.sent)

    def take(self, ids: Sequence[int], log_probs: Sequence[float], finish_reason: FinishReason | None) -> bool:
        """Note further ids; True if a stop string became complete in them."""
        self.finish_reason = finish_reason
        hit = self.matcher.feed(ids) if self.matcher and ids else None
        if hit is not None:
            ids = ids[: hit.ids_used - self.generated]
            self.finish_reason, self.stop_reason = FinishReason.STOP, hit.stop
        self.ids += ids
        if self.log_probs is not None:
            self.log_probs += log_probs[: len(ids)]
        self.held = self.generated - self.matcher.releasable if self.matcher and not self.done else 0
        return hit is not None

    def piece(self, detokenizer: Detokenizer) -> Piece:
        """What is new and may be sent; it counts as sent from now on. The first id of a stream comes alone."""
        start = detokenizer.window_start(self.ids, self.sent)
        end = self.releasable
        if self.sent == 0 and self.streaming:
            end = min(end, self.echoed + 1)
        self.last_sent = self.done and end == self.releasable
        log_probs = tokens = None
        if self.log_probs is not None:
            log_probs = self.log_probs[max(0, self.sent - self.echoed) : max(0, end - self.echoed)]
            tokens = [detokenizer.token(token) for token in self.ids[max(self.sent, self.echoed) : end]]
            self._cum_log_prob += math.fsum(log_probs)
        piece = Piece(
            sequence_index=self.index,
            window_ids=self.ids[start : self.sent],
            output_ids=self.ids[self.sent : end],
            log_probs=log_probs,
            tokens=tokens,
            cum_log_prob=self._cum_log_prob,
            finish_reason=self.finish_reason if self.last_sent else None,
            stop_reason=self.stop_reason if self.last_sent else "",
        )
        self.sent = end
        return piece


class RunningAnswer:
    """What is known of one generation, from its arrival to its last chunk. Guarded by the router's lock.

    sequences: by the engine's key of each; those of a beam search are under one key.
    """

    def __init__(
        self,
        request_id: str,
        request: GenerationRequest,
        sink: Sink,
        engine_requests: list[EngineRequest],
        sequences: list[RunningSequence],
        traceparent: str = "",
    ) -> None:
        self.key = engine_requests[0].key
        self.request_id = request_id
        self.request = request
        self.sink = sink
        self.engine_requests = engine_requests
        self.sequences = sequences
        #: Of the span that it is traced below; "" if it is not.
        self.traceparent = traceparent
        #: When it arrived, and when it was given to the engine, 0 as long as it was not; of time.monotonic_ns().
        self.arrival_ns = time.monotonic_ns()
        self.submitted_ns = 0
        self.error: Refusal | None = None
        #: How it waits for the sender, which sends no further chunk before `due_s` (time.monotonic()), except the last.
        self.queued = Queued.NOT
        self.due_s = 0.0
        #: Whether it waits for room in the engine; whether anything was sent.
        self.waiting = False
        self.sent_any = False
        self.cancelled_by: CancelCause | None = None
        #: By the engine's key: the latest report of each request.
        self.times: dict[int, EngineTimes] = {}
        self.caches: dict[int, CacheUse] = {}

    @property
    def done(self) -> bool:
        return self.error is not None or all(sequence.done for sequence in self.sequences)

    @property
    def wants_sending(self) -> bool:
        return self.done or (self.request.streaming and any(sequence.wants_sending for sequence in self.sequences))

    @property
    def generated(self) -> int:
        return sum(sequence.generated for sequence in self.sequences)

    def take(self, sequence: RunningSequence, event: EngineEvent) -> bool:
        """Note the news of a sequence; True if the engine should stop because a stop string is complete."""
        if event.error is not None:
            self.error = event.error
            return False
        if event.times is not None and event.cache is not None:
            self.times[event.key] = event.times
            self.caches[event.key] = event.cache
        if event.beams:
            for beam_sequence, beam in zip(self.sequences, event.beams, strict=True):
                beam_sequence.take(beam.ids, beam.log_probs, beam.finish_reason)
            return False
        if event.is_last and self.request.sampling.beam_width > 1:
            # A beam search that was cancelled has no beams.
            for beam_sequence in self.sequences:
                beam_sequence.take((), (), event.finish_reason)
            return False
        return sequence.take(event.ids, event.log_probs, event.finish_reason) and not event.is_last

    def cancel_unstarted(self) -> None:
        """End it where the engine does not know of it."""
        for sequence in self.sequences:
            sequence.take((), (), FinishReason.CANCELLED)

    def chunk(self, detokenizer: Detokenizer) -> tuple[Chunk, bool]:
        """What to send now, and whether nothing follows."""
        if self.request.streaming and len(self.sequences) == 1:
            pieces = [self.sequences[0].piece(detokenizer)]
        elif self.request.streaming:
            # The one that was sent the least first, so that all come on.
            waiting = [sequence for sequence in self.sequences if sequence.wants_sending]
            pieces = [min(waiting, key=lambda sequence: sequence.sent).piece(detokenizer)]
        else:
            pieces = [sequence.piece(detokenizer) for sequence in self.sequences]
        final = self.done and not any(sequence.wants_sending for sequence in self.sequences)
        chunk = Chunk(
            stream_key=self.key,
            num_sequences=len(self.sequences),
            pieces=pieces,
            num_input_tokens=len(self.request.input_ids),
            num_output_tokens=sum(max(0, sequence.sent - sequence.echoed) for sequence in self.sequences),
            metrics=self._metrics() if final and self.request.perf_metrics else None,
        )
        return chunk, final

    @property
    def first_scheduled_ns(self) -> int:
        """When the engine first worked on it, of time.monotonic_ns(); 0 if it did not, or has not told yet."""
        return min(filter(None, (times.first_scheduled_ns for times in self.times.values())), default=0)

    @property
    def latencies(self) -> dict[str, float | None]:
        """ttft_s and total_s: from the arrival until the engine had the first and the last token; None if unknown."""
        metrics = self._metrics()
        times = {"ttft_s": metrics.first_token_ns, "total_s": metrics.last_token_ns}
        return {name: (time_ns - self.arrival_ns) / 1e9 if time_ns else None for name, time_ns in times.items()}

    @property
    def token_times_ns(self) -> tuple[int, int]:
        """When the engine had the first and the last token, of time.monotonic_ns(); 0 where it has not told."""
        metrics = self._metrics()
        return metrics.first_token_ns, metrics.last_token_ns

    @property
    def time_per_output_token_s(self) -> float | None:
        """From the first token to the last, for each further token of a sequence; None where there is none, or where
        the engine has not told."""
        first_ns, last_ns = self.token_times_ns
        further = self.generated / len(self.sequences) - 1
        return (last_ns - first_ns) / 1e9 / further if further > 0 and 0 < first_ns <= last_ns else None

    @property
    def reused_tokens(self) -> int:
        """How many tokens of the prompt were in the cache."""
        return self._metrics().cache.reused_tokens

    def _metrics(self) -> Metrics:
        def earliest(times: list[int]) -> int:
            return min(filter(None, times), default=0)

        return Metrics(
            arrival_ns=self.arrival_ns,
            first_scheduled_ns=self.first_scheduled_ns,
            first_token_ns=earliest([times.first_token_ns for times in self.times.values()]),
            last_token_ns=max((times.last_token_ns for times in self.times.values()), default=0),
            # Of the first sequence: it is the one that shows what was there before this request.
            cache=self.caches[min(self.caches)] if self.caches else CacheUse(),
        )
