"""Between the engine and the clients: lets requests in, collects ids per stream, and sends them when the pipe is free.

Requests that the engine has no room for wait here, in the order of their priority. The first ids of a stream are sent
at once; further ones go together when the sender comes round to it, so that under load a message holds several tokens
and the number of messages stays what the server can carry.
"""

import contextlib
import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from .admission import LOWEST_PRIORITY, NUM_PRIORITIES, QueueLimits, QueueState, StartRate, refusal_of
from .answers import CancelCause, Chunk, Queued, RunningAnswer, RunningSequence, Sink
from .automaton import WordAutomaton
from .contract import Code, Refusal
from .detokenizing import Detokenizer
from .engines.base import Engine, EngineDied, EngineEvent, EngineRequest, EngineStep, check_request
from .requests import GenerationRequest
from .stopping import StopMatcher

#: How long to wait, at most, before a dead engine is started once more.
MAX_RESTART_DELAY_S = 30.0

#: How many requests start in a second for each place in the engine, as long as nothing is known.
GUESSED_STARTS_PER_PLACE = 4

#: Of how many places in the engine one more sequence is given to it, so that few of them are empty for a step.
PLACES_PER_LOOKAHEAD = 32

#: How many chunks may be on their way before further ones, but for first and last ones, have to wait, and how often to
#: look then. Triton would take any number, and first tokens would come behind all of them.
MAX_CHUNKS_UNDER_WAY = 8
PIPE_POLL_S = 0.002


@dataclass(frozen=True)
class RouterSettings:
    """queue: what may wait. kv_cache_overcommit: by how much the tokens that requests in the engine may come to can
    exceed its KV cache; with 1 it never has to preempt one.

    chunk_delay_per_stream_s: how much longer, for each stream beside it, the ids of a stream collect before they are
    sent; max_chunk_delay_s: at most so long. The first and the last ones are sent at once.
    """

    queue: QueueLimits = field(default_factory=QueueLimits)
    kv_cache_overcommit: float = 4.0
    max_chunk_delay_s: float = 0.04
    chunk_delay_per_stream_s: float = 0.002


class Observer(Protocol):
    """Who is told what happens; called from the router's threads, and must return at once."""

    def load(self, running: int, waiting: int) -> None:
        """So many generations are with the engine or being sent, and so many wait for room in it."""

    def queue(self, state: QueueState) -> None:
        """What waits has changed."""

    def refused(self, refusal: Refusal) -> None:
        """A request was not let in."""

    def step(self, step: EngineStep) -> None:
        """The engine came on."""

    def inter_token(self, gap_s: float) -> None:
        """Between two ids of a stream; of one stream each step."""

    def first_token(self, delay_s: float) -> None:
        """From the arrival of a streamed generation until its first ids are sent."""

    def cancelled(self, cause: CancelCause) -> None:
        """A generation was cancelled."""

    def ended(self, answer: RunningAnswer) -> None:
        """Nothing follows for this generation."""

    def engine_lost(self, error: EngineDied) -> None:
        """The engine died, or could not be started again; its streams were ended with an error."""

    def engine_started(self) -> None:
        """The engine takes requests again."""

    def send_failed(self, error: Exception) -> None:
        """A chunk could not be sent; its stream is cancelled."""


class Tap(Protocol):
    """Who gets copies of some of what runs; called from the router's threads, and must return at once."""

    def arrived(self, answer: RunningAnswer) -> None:
        """A generation was let in."""

    def ended(self, answer: RunningAnswer) -> None:
        """Nothing follows for it."""


class Pipe(Protocol):
    """What chunks go through after they are sent, as far as it can be seen from here."""

    def sent(self) -> None:
        """A chunk was sent."""

    def under_way(self, now: float) -> int:
        """How many have not come through yet; now: time.monotonic()."""


class StreamRouter:
    """Runs generations on an engine and hands their ids to sinks.

    If the engine dies, its streams end with an error, and it is started again with `start_engine`; meanwhile requests
    are refused as unavailable. `detokenizer` is asked for window boundaries and stop strings only; texts are made
    elsewhere. first_key: generations are known by keys that count from it, below 2**62.
    """

    def __init__(
        self,
        start_engine: Callable[[], Engine],
        detokenizer: Detokenizer,
        observer: Observer,
        settings: RouterSettings = RouterSettings(),
        pipe: Pipe | None = None,
        first_key: int = 1,
        taps: Sequence[Tap] = (),
    ) -> None:
        self._start_engine = start_engine
        self._engine = start_engine()
        self._detokenizer = detokenizer
        self._observer = observer
        self._settings = settings
        self._pipe = pipe
        self._taps = taps
        self._keys = itertools.count(first_key)
        self._streams: dict[int, RunningAnswer] = {}
        #: By the engine's key: what a generation has there.
        self._sequences: dict[int, tuple[RunningAnswer, RunningSequence]] = {}
        #: By the engine's key: the sequences and KV blocks that are set aside for a request in the engine.
        self._held: dict[int, tuple[int, int]] = {}
        self._held_sequences = 0
        self._held_blocks = 0
        #: What waits for room in the engine: (-priority, key, generation); ended ones are passed over.
        self._line: list[tuple[int, int, RunningAnswer]] = []
        self._line_counts = [0] * NUM_PRIORITIES
        self._line_tokens = 0
        self._rate = StartRate(GUESSED_STARTS_PER_PLACE * self._engine.limits.max_num_seqs)
        #: (when, key) of what must have ended by then.
        self._deadlines: list[tuple[int, int]] = []
        #: What is to be sent at once, and (when, tie-breaker, answer) of what is sent when it is due; entries of
        #: answers that were sent meanwhile are passed over.
        self._ready: deque[RunningAnswer] = deque()
        self._paced: list[tuple[float, int, RunningAnswer]] = []
        self._wakes_at = 0.0
        self._streaming = 0
        self._lock = threading.Lock()
        self._sendable = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._closing = False
        self._lost: EngineDied | None = None
        self._threads = [
            threading.Thread(target=self._receive, name="engine-steps", daemon=True),
            threading.Thread(target=self._send, name="stream-sender", daemon=True),
            threading.Thread(target=self._feed, name="engine-feeder", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def engine(self) -> Engine:
        """The engine that takes requests now."""
        return self._engine

    @property
    def active(self) -> int:
        """How many generations wait, are running, or being sent."""
        return len(self._streams)

    def peek(self, key: int) -> tuple[int, bool] | None:
        """How many ids of a generation have come, and whether it has ended; None if it is not running."""
        with self._lock:
            stream = self._streams.get(key)
            return None if stream is None else (stream.generated, stream.done)

    def keys_of(self, request_id: str) -> list[int]:
        """The keys of the generations under way that were started under the client's `request_id`."""
        with self._lock:
            return [key for key, stream in self._streams.items() if stream.request_id == request_id]

    def start(self, request: GenerationRequest, sink: Sink, request_id: str = "", traceparent: str = "") -> int:
        """Let a generation in, or raise Refusal and never touch `sink`; its key. traceparent: see `RunningAnswer`.

        Several sequences are that many requests to the engine, each with a seed of its own; the sequences of a beam
        search are one.
        """
        # Of what a stop string ends, nobody waits for the engine's last word.
        reports = request.perf_metrics or bool(traceparent and request.stop_strings)
        engine_requests = self._engine_requests(request, reports)
        for engine_request in engine_requests:
            check_request(engine_request, self._engine.limits)
        stops = WordAutomaton(request.stop_strings) if request.stop_strings else None
        sequences = [
            RunningSequence(index, request, StopMatcher(stops, self._detokenizer) if stops else None)
            for index in range(request.num_sequences)
        ]
        stream = RunningAnswer(request_id, request, sink, engine_requests, sequences, traceparent)
        with self._lock:
            if self._lost is not None:
                raise Refusal(Code.UNAVAILABLE, f"the engine {self._engine.name} is not running: {self._lost}")
            self._let_in(stream)
            for tap in self._taps:
                tap.arrived(stream)
            at_once = not self._line and self._fits(stream)
            if at_once:
                self._set_aside(stream)
            else:
                self._line_up(stream)
            if request.deadline_ms:
                self._forget_past_deadlines()
                heapq.heappush(self._deadlines, (stream.arrival_ns + request.deadline_ms * 1_000_000, stream.key))
            if request.deadline_ms or not at_once:
                self._room.notify()
        if at_once:
            self._submit(stream)
        return stream.key

    def _engine_requests(self, request: GenerationRequest, reports: bool) -> list[EngineRequest]:
        beams = request.sampling.beam_width > 1
        seed = request.sampling.seed
        return [
            EngineRequest(
                key=next(self._keys),
                input_ids=request.input_ids,
                max_new_tokens=request.max_new_tokens,
                end_id=request.end_id,
                sampling=replace(request.sampling, seed=None if seed is None else (seed + index) % 2**64)
                if index
                else request.sampling,
                guide=request.guide,
                bad_strings=request.bad_strings,
                log_probs=request.log_probs,
                reports=reports,
                num_beams_returned=request.num_sequences if beams else 1,
            )
            for index in range(1 if beams else request.num_sequences)
        ]

    def _state(self) -> QueueState:
        return QueueState(tuple(self._line_counts), self._line_tokens, self._rate.per_second(time.monotonic()))

    def _let_in(self, stream: RunningAnswer) -> None:
        """Raise Refusal if too much waits; make room where only others have to wait; with the lock held."""
        request = stream.request
        if self._line:
            refusal = refusal_of(self._settings.queue, self._state(), request.priority, request.tokens)
            if refusal is not None:
                raise refusal
            if self._is_full_for(request):
                self._make_room(request)
        self._streams[stream.key] = stream
        for engine_request, sequence in zip(stream.engine_requests, stream.sequences, strict=False):
            self._sequences[engine_request.key] = (stream, sequence)

    def _is_full_for(self, request: GenerationRequest) -> bool:
        """Whether no more may wait, or not so many tokens."""
        limits = self._settings.queue
        return sum(self._line_counts) >= limits.max_size or self._line_tokens + request.tokens > limits.max_tokens

    def _make_room(self, request: GenerationRequest) -> None:
        """End those of a lower priority that wait, the last in line first, until it has room; raise Refusal, and end
        none, if that would not be enough.
        """
        lower = [entry for entry in self._line if entry[2].waiting and entry[2].request.priority < request.priority]
        staying_tokens = self._line_tokens - sum(waiting.request.tokens for _, _, waiting in lower)
        max_tokens = self._settings.queue.max_tokens
        if staying_tokens + request.tokens > max_tokens:
            message = (
                f"the server is busy: requests with {staying_tokens} tokens wait that this one does not go before, "
                f"and it has {request.tokens}; at most {max_tokens} may"
            )
            raise Refusal(Code.RESOURCE_EXHAUSTED, message, 1000)
        for _, _, last in sorted(lower, reverse=True):
            if not self._is_full_for(request):
                return
            message = "the server is busy: requests of a higher priority wait"
            self._end_early(last, CancelCause.PRIORITY, Refusal(Code.RESOURCE_EXHAUSTED, message, 1000))

    def _line_up(self, stream: RunningAnswer) -> None:
        if not self._line:
            self._rate.wait_begins(time.monotonic())
        heapq.heappush(self._line, (-stream.request.priority, stream.key, stream))
        stream.waiting = True
        self._line_counts[stream.request.priority - LOWEST_PRIORITY] += 1
        self._line_tokens += stream.request.tokens
        self._tell_load()

    def _leave_line(self, stream: RunningAnswer) -> None:
        """It waits no more; its entry goes when it comes to the front."""
        stream.waiting = False
        self._line_counts[stream.request.priority - LOWEST_PRIORITY] -= 1
        self._line_tokens -= stream.request.tokens
        while self._line and not self._line[0][2].waiting:
            heapq.heappop(self._line)
        waiting = sum(self._line_counts)
        if not waiting:
            self._line.clear()
            self._rate.wait_ends(time.monotonic())
        elif len(self._line) > 2 * waiting + 64:
            self._line = [entry for entry in self._line if entry[2].waiting]
            heapq.heapify(self._line)

    def _tell_load(self) -> None:
        waiting = sum(self._line_counts)
        self._observer.load(len(self._streams) - waiting, waiting)
        self._observer.queue(self._state())

    def _costs(self, stream: RunningAnswer) -> list[tuple[int, int]]:
        """The sequences and KV blocks that each of a generation's requests may come to."""
        limits = self._engine.limits
        beams = stream.request.sampling.beam_width
        blocks = limits.blocks_for(len(stream.request.input_ids) + stream.request.max_new_tokens)
        return [(beams, beams * blocks)] * len(stream.engine_requests)

    def _fits(self, stream: RunningAnswer) -> bool:
        """Whether the engine has room for it; where nothing else is in there, it always has."""
        costs, limits = self._costs(stream), self._engine.limits
        sequences = self._held_sequences + sum(cost[0] for cost in costs)
        blocks = self._held_blocks + sum(cost[1] for cost in costs)
        return not self._held or (
            sequences <= limits.max_num_seqs + limits.max_num_seqs // PLACES_PER_LOOKAHEAD
            and blocks <= limits.kv_blocks * self._settings.kv_cache_overcommit
        )

    def _set_aside(self, stream: RunningAnswer) -> None:
        stream.submitted_ns = time.monotonic_ns()
        for engine_request, cost in zip(stream.engine_requests, self._costs(stream), strict=True):
            self._held[engine_request.key] = cost
            self._held_sequences += cost[0]
            self._held_blocks += cost[1]
        self._tell_load()

    def _give_back(self, engine_key: int) -> None:
        """The engine is done with a request, and has room for others."""
        cost = self._held.pop(engine_key, None)
        if cost is not None:
            self._held_sequences -= cost[0]
            self._held_blocks -= cost[1]
            if self._line:
                self._room.notify()

    def _submit(self, stream: RunningAnswer) -> None:
        """Give a generation to the engine; without the lock. Raises Refusal if the engine is gone."""
        for count, engine_request in enumerate(stream.engine_requests):
            try:
                self._engine.submit(engine_request)
            except (Refusal, EngineDied) as error:
                self._take_back(stream, count, error)
                return
        with self._lock:
            ended = stream.cancelled_by is not None or stream.error is not None
        if ended:
            # The engine may have been told before it knew of it.
            self._cancel_in_engine([engine_request.key for engine_request in stream.engine_requests])

    def _take_back(self, stream: RunningAnswer, count: int, error: Exception) -> None:
        """The engine took `count` requests of a generation only: end it. Raises Refusal unless it was ended already."""
        with self._lock:
            for engine_request in stream.engine_requests[count:]:
                self._give_back(engine_request.key)
            if self._streams.get(stream.key) is not stream or stream.done:
                # It was ended with an error already, with all others that the engine took along.
                return
            self._forget(stream)
        for engine_request in stream.engine_requests[:count]:
            with contextlib.suppress(EngineDied):
                self._engine.cancel(engine_request.key)
        if isinstance(error, Refusal):
            raise error
        raise Refusal(Code.UNAVAILABLE, f"the engine {self._engine.name} is not running: {error}") from error

    def _forget(self, stream: RunningAnswer) -> None:
        """Drop all that is known of a generation; with the lock held."""
        self._streams.pop(stream.key, None)
        for engine_request in stream.engine_requests:
            self._sequences.pop(engine_request.key, None)
        if stream.waiting:
            self._leave_line(stream)
        self._tell_load()

    def cancel(self, key: int, cause: CancelCause) -> bool:
        """End a generation early; False if it is not running."""
        with self._lock:
            stream = self._streams.get(key)
            if stream is None or stream.done:
                return False
            keys = self._end_early(stream, cause)
        return self._cancel_in_engine(keys)

    def _end_early(self, stream: RunningAnswer, cause: CancelCause, error: Refusal | None = None) -> list[int]:
        """End a generation, with the lock held: at once with an error, or if it waits; else when the engine has.

        The engine's keys that are to be cancelled there.
        """
        if stream.cancelled_by is None:
            stream.cancelled_by = cause
            self._observer.cancelled(cause)
        keys = [] if stream.waiting else self._running_keys(stream)
        if stream.waiting:
            self._leave_line(stream)
            stream.cancel_unstarted()
        if error is not None:
            stream.error = error
        self._queue(stream)
        return keys

    def _running_keys(self, stream: RunningAnswer) -> list[int]:
        pairs = zip(stream.engine_requests, stream.sequences, strict=False)
        return [engine_request.key for engine_request, sequence in pairs if not sequence.done]

    def _cancel_in_engine(self, keys: list[int]) -> bool:
        """Without the lock; False if the engine is gone: then they end with an error, as all that it had."""
        try:
            for key in keys:
                self._engine.cancel(key)
        except EngineDied:
            return False
        return True

    def close(self) -> None:
        """Stop the engine and all threads; streams that still run end with an error."""
        with self._lock:
            self._closing = True
            for stream in self._streams.values():
                stream.error = stream.error or Refusal(Code.UNAVAILABLE, "the server is shutting down")
                self._queue(stream)
            self._sendable.notify_all()
            self._room.notify_all()
        self._engine.close()
        for thread in self._threads:
            thread.join(timeout=10)

    def _queue(self, stream: RunningAnswer) -> None:
        """Have what is new sent; with the lock held."""
        if not stream.wants_sending or stream.queued is Queued.AT_ONCE:
            return
        if stream.done or not stream.sent_any:
            stream.queued = Queued.AT_ONCE
            self._ready.append(stream)
            self._sendable.notify()
        elif stream.queued is Queued.NOT:
            stream.queued = Queued.UNTIL_DUE
            heapq.heappush(self._paced, (stream.due_s, stream.key, stream))
            if stream.due_s < self._wakes_at:
                self._sendable.notify()

    def _next_to_send(self) -> RunningAnswer | None:
        """Wait, with the lock held, for what is to be sent now; None at the end."""
        while True:
            if self._ready:
                return self._ready.popleft()
            if self._closing:
                return None
            while self._paced and self._paced[0][2].queued is not Queued.UNTIL_DUE:
                heapq.heappop(self._paced)
            now = time.monotonic()
            if self._paced and self._paced[0][0] <= now:
                if self._pipe is None or self._pipe.under_way(now) < MAX_CHUNKS_UNDER_WAY:
                    return heapq.heappop(self._paced)[2]
                self._wakes_at = now + PIPE_POLL_S
            else:
                self._wakes_at = self._paced[0][0] if self._paced else float("inf")
            self._sendable.wait(self._wakes_at - now if self._paced else None)

    def _chunk_delay_s(self) -> float:
        """How long ids collect now."""
        settings = self._settings
        return min(settings.max_chunk_delay_s, settings.chunk_delay_per_stream_s * (self._streaming - 1))

    def _feed(self) -> None:
        """Give the engine what waits, when there is room, and end what has come to its deadline."""
        while True:
            with self._lock:
                while not self._closing and not (self._can_feed() or self._is_overdue()):
                    self._room.wait(self._until_deadline_s())
                if self._closing:
                    return
                stream, cancelled = None, self._expire()
                if self._can_feed():
                    stream = self._line[0][2]
                    self._rate.started(time.monotonic())
                    self._leave_line(stream)
                    self._set_aside(stream)
            self._cancel_in_engine(cancelled)
            if stream is not None:
                try:
                    self._submit(stream)
                except Refusal as refusal:
                    stream.error = refusal
                    try:
                        stream.sink.fail(refusal)
                    except Exception as error:
                        self._observer.send_failed(error)
                    self._tell_end(stream)

    def _can_feed(self) -> bool:
        return bool(self._line) and self._lost is None and self._fits(self._line[0][2])

    def _until_deadline_s(self) -> float | None:
        return max(0.0, (self._deadlines[0][0] - time.monotonic_ns()) / 1e9) if self._deadlines else None

    def _forget_past_deadlines(self) -> None:
        """Keep the deadlines of generations that ended from adding up."""
        if len(self._deadlines) > 2 * len(self._streams) + 64:
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self._streams]
            heapq.heapify(self._deadlines)

    def _is_overdue(self) -> bool:
        return bool(self._deadlines) and self._deadlines[0][0] <= time.monotonic_ns()

    def _expire(self) -> list[int]:
        """End what has come to its deadline; the engine's keys that are to be cancelled."""
        cancelled: list[int] = []
        while self._is_overdue():
            stream = self._streams.get(heapq.heappop(self._deadlines)[1])
            if stream is None or stream.done:
                continue
            progress = "in the queue" if stream.waiting else f"after {stream.generated} tokens"
            error = Refusal(
                Code.DEADLINE_EXCEEDED, f"deadline_ms: {stream.request.deadline_ms} ms have passed, {progress}"
            )
            cancelled += self._end_early(stream, CancelCause.DEADLINE, error)
        return cancelled

    def _receive(self) -> None:
        while not self._closing:
            self._read_steps()
            delay_s = 1.0
            while not self._closing:
                try:
                    engine = self._start_engine()
                except Exception as error:
                    self._lose(error if isinstance(error, EngineDied) else EngineDied(_described(error), "failed"))
                    with self._lock:
                        self._room.wait_for(lambda: self._closing, timeout=delay_s)
                    delay_s = min(2 * delay_s, MAX_RESTART_DELAY_S)
                    continue
                with self._lock:
                    self._engine, self._lost = engine, None
                    closing = self._closing
                    self._room.notify_all()
                if closing:
                    engine.close()
                self._observer.engine_started()
                break

    def _lose(self, lost: EngineDied) -> None:
        """Note that the engine is gone, and end its streams with an error. Those that wait may see the next one.

        If it cannot be started, they end too.
        """
        with self._lock:
            if self._closing:
                return
            self._lost = lost
            self._held.clear()
            self._held_sequences = self._held_blocks = 0
            for stream in self._streams.values():
                if not stream.waiting or lost.cause == "failed":
                    stream.error = stream.error or Refusal(Code.UNAVAILABLE, f"the engine was lost: {lost}")
                    self._queue(stream)
        self._observer.engine_lost(lost)

    def _read_steps(self) -> None:
        """Take what the engine computes until it closes or dies."""
        try:
            for step in self._engine.steps():
                with self._lock:
                    finished = self._take_step(step)
                self._observer.step(step)
                self._cancel_in_engine(finished)
        except Exception as error:
            # Whatever it was, nobody reads this engine's steps any more: its streams must not wait for them.
            self._lose(error if isinstance(error, EngineDied) else EngineDied(_described(error)))
            self._engine.close()

    def _take_step(self, step: EngineStep) -> list[int]:
        """Take a step's news in, with the lock held; the engine's keys that it should let go of."""
        finished: list[int] = []
        now = time.monotonic()
        sequences = self._sequences
        watched = step.keys[int(now * 1e6) % len(step.keys)] if step.keys else 0
        for key, token in zip(step.keys, step.ids, strict=True):
            stream, sequence = sequences.get(key, _NOBODY)
            if stream is None or sequence is None or sequence.finish_reason is not None or stream.error is not None:
                continue
            if sequence.matcher is None:
                sequence.ids.append(token)
            elif sequence.take((token,), (), None):
                finished.append(key)
            if key == watched and sequence.last_token_s:
                self._observer.inter_token(now - sequence.last_token_s)
            sequence.last_token_s = now
            if stream.queued is Queued.NOT:
                self._queue(stream)
        for event in step.events:
            finished += self._note(event)
        return finished

    def _note(self, event: EngineEvent) -> list[int]:
        """Take one event in, with the lock held; the engine's keys that it should let go of."""
        if event.is_last:
            self._give_back(event.key)
        stream, sequence = self._sequences.get(event.key, _NOBODY)
        if stream is None or sequence is None or stream.error is not None or sequence.done:
            return []
        finished = [event.key] if stream.take(sequence, event) else []
        if stream.error is not None:
            # An error of one sequence is one of the whole answer.
            finished = [key for key in self._running_keys(stream) if key != event.key]
        self._queue(stream)
        return finished

    def _send(self) -> None:
        while True:
            with self._lock:
                stream = self._next_to_send()
                if stream is None:
                    return
                stream.queued = Queued.NOT
                first = not stream.sent_any
                stream.sent_any = True
                failed = stream.error is not None
                chunk, done = self._chunk_of(stream)
                abandoned = self._running_keys(stream) if chunk is None and not failed else []
                if first and stream.request.streaming:
                    self._streaming += 1
                if done:
                    if stream.request.streaming:
                        self._streaming -= 1
                    self._forget(stream)
                else:
                    stream.due_s = time.monotonic() + self._chunk_delay_s()
                    # More may be there: another sequence, or what follows the first id.
                    self._queue(stream)
            self._cancel_in_engine(abandoned)
            try:
                if chunk is None:
                    assert stream.error is not None
                    stream.sink.fail(stream.error)
                else:
                    if not done and stream.sink.is_cancelled():
                        self.cancel(stream.key, CancelCause.CLIENT)
                    if stream.sink.send(chunk, final=done) and self._pipe is not None:
                        self._pipe.sent()
            except Exception as error:
                # One stream that cannot be sent must not end the sending of all others.
                self._observer.send_failed(error)
                self.cancel(stream.key, CancelCause.SEND_FAILED)
            if first and stream.request.streaming and chunk is not None:
                self._observer.first_token((time.monotonic_ns() - stream.arrival_ns) / 1e9)
            if done:
                self._tell_end(stream)

    def _tell_end(self, stream: RunningAnswer) -> None:
        self._observer.ended(stream)
        for tap in self._taps:
            tap.ended(stream)

    def _chunk_of(self, stream: RunningAnswer) -> tuple[Chunk | None, bool]:
        """What to send now, and whether nothing follows; with the lock held. None where it ends with an error."""
        if stream.error is None:
            try:
                return stream.chunk(self._detokenizer)
            except Exception as error:
                # One answer that cannot be put into words must not end the sending of all others.
                self._observer.send_failed(error)
                stream.error = Refusal(Code.INTERNAL, f"unexpected {type(error).__name__} in the server")
        return None, True


#: What stands for the owner of a key that is not known any more.
_NOBODY: tuple[RunningAnswer | None, RunningSequence | None] = (None, None)


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
