"""Between the engine and the clients: collects ids per stream, and sends them when the pipe is free.

The first ids of a stream are sent at once; further ones go together when the sender comes round to it, so that under
load a message holds several tokens and the number of messages stays what the server can carry.
"""

import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from .answers import RunningAnswer, RunningSequence, Sink
from .automaton import WordAutomaton
from .contract import Code, Refusal
from .detokenizing import Detokenizer
from .engines.base import Engine, EngineDied, EngineEvent, EngineRequest, check_request
from .requests import GenerationRequest
from .stopping import StopMatcher

#: How long to wait, at most, before a dead engine is started once more.
MAX_RESTART_DELAY_S = 30.0


class Observer(Protocol):
    """Who is told what happens; called from the router's threads."""

    def running(self, count: int) -> None:
        """`count` generations are running or being sent now."""

    def generated(self, count: int) -> None:
        """`count` further ids came from the engine."""

    def reused(self, count: int) -> None:
        """A request ended, `count` tokens of whose prompt came from the engine's cache."""

    def engine_lost(self, error: EngineDied) -> None:
        """The engine died, or could not be started again; its streams were ended with an error."""

    def send_failed(self, error: Exception) -> None:
        """A chunk could not be sent; its stream is cancelled."""


class StreamRouter:
    """Runs generations on an engine and hands their ids to sinks.

    If the engine dies, its streams end with an error, and it is started again with `start_engine`; meanwhile requests
    are refused as unavailable. `detokenizer` is asked for window boundaries and stop strings only; texts are made
    elsewhere.
    """

    def __init__(self, start_engine: Callable[[], Engine], detokenizer: Detokenizer, observer: Observer) -> None:
        self._start_engine = start_engine
        self._engine = start_engine()
        self._detokenizer = detokenizer
        self._observer = observer
        self._keys = itertools.count(1)
        self._streams: dict[int, RunningAnswer] = {}
        #: By the engine's key: what a generation has there.
        self._sequences: dict[int, tuple[RunningAnswer, RunningSequence]] = {}
        self._ready: deque[RunningAnswer] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._lost: EngineDied | None = None
        self._threads = [
            threading.Thread(target=self._receive, name="engine-events", daemon=True),
            threading.Thread(target=self._send, name="stream-sender", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def engine(self) -> Engine:
        """The engine that takes requests now."""
        return self._engine

    @property
    def active(self) -> int:
        """How many generations are running or being sent."""
        return len(self._streams)

    def peek(self, key: int) -> tuple[int, bool] | None:
        """How many ids of a generation have come, and whether it has ended; None if it is not running."""
        with self._changed:
            stream = self._streams.get(key)
            return None if stream is None else (stream.generated, stream.done)

    def keys_of(self, request_id: str) -> list[int]:
        """The keys of the running generations that were started under the client's `request_id`."""
        with self._changed:
            return [key for key, stream in self._streams.items() if stream.request_id == request_id]

    def start(self, request: GenerationRequest, sink: Sink, request_id: str = "") -> int:
        """Submit a generation; its key. Raises Refusal, and then never touches `sink`.

        Several sequences are that many requests to the engine, each with a seed of its own; the sequences of a beam
        search are one.
        """
        engine_requests = self._engine_requests(request)
        for engine_request in engine_requests:
            check_request(engine_request, self._engine.limits)
        stops = WordAutomaton(request.stop_strings) if request.stop_strings else None
        sequences = [
            RunningSequence(index, request, StopMatcher(stops, self._detokenizer) if stops else None)
            for index in range(request.num_sequences)
        ]
        stream = RunningAnswer(engine_requests[0].key, request_id, request, sink, sequences)
        with self._changed:
            if self._lost is not None:
                raise Refusal(Code.UNAVAILABLE, f"the engine {self._engine.name} is not running: {self._lost}")
            self._streams[stream.key] = stream
            for engine_request, sequence in zip(engine_requests, sequences, strict=False):
                self._sequences[engine_request.key] = (stream, sequence)
        for count, engine_request in enumerate(engine_requests):
            try:
                self._engine.submit(engine_request)
            except (Refusal, EngineDied) as error:
                self._take_back(stream, engine_requests[:count], error)
                break
        self._observer.running(self.active)
        return stream.key

    def _engine_requests(self, request: GenerationRequest) -> list[EngineRequest]:
        beams = request.sampling.beam_width > 1
        seed = request.sampling.seed
        return [
            EngineRequest(
                key=next(self._keys),
                input_ids=request.input_ids,
                max_new_tokens=request.max_new_tokens,
                end_id=request.end_id,
                sampling=replace(request.sampling, seed=None if seed is None else (seed + index) % 2**64),
                guide=request.guide,
                bad_strings=request.bad_strings,
                log_probs=request.log_probs,
                reports=request.perf_metrics,
                num_beams_returned=request.num_sequences if beams else 1,
            )
            for index in range(1 if beams else request.num_sequences)
        ]

    def _take_back(self, stream: RunningAnswer, submitted: list[EngineRequest], error: Exception) -> None:
        """A part of a generation was not taken: end it as a whole. Raises Refusal unless it was ended already."""
        with self._changed:
            if self._streams.get(stream.key) is not stream or stream.done:
                # It was ended with an error already, with all others that the engine took along.
                return
            self._forget(stream)
        for engine_request in submitted:
            with contextlib.suppress(EngineDied):
                self._engine.cancel(engine_request.key)
        if isinstance(error, Refusal):
            raise error
        raise Refusal(Code.UNAVAILABLE, f"the engine {self._engine.name} is not running: {error}") from error

    def _forget(self, stream: RunningAnswer) -> None:
        """Drop all that is known of a generation; with the lock held."""
        self._streams.pop(stream.key, None)
        for key in [key for key, (owner, _) in self._sequences.items() if owner is stream]:
            del self._sequences[key]

    def cancel(self, key: int) -> bool:
        """End a generation early; False if it is not running."""
        with self._changed:
            stream = self._streams.get(key)
            if stream is None:
                return False
            running = [
                engine_key
                for engine_key, (owner, sequence) in self._sequences.items()
                if owner is stream and not sequence.done
            ]
        try:
            for engine_key in running:
                self._engine.cancel(engine_key)
        except EngineDied:
            # It ends with an error, as all that this engine had.
            return False
        return True

    def close(self) -> None:
        """Stop the engine and both threads; streams that still run end with an error."""
        with self._changed:
            self._closing = True
            for stream in self._streams.values():
                stream.error = stream.error or Refusal(Code.UNAVAILABLE, "the server is shutting down")
                self._queue(stream)
            self._changed.notify_all()
        self._engine.close()
        for thread in self._threads:
            thread.join(timeout=10)

    def _queue(self, stream: RunningAnswer) -> None:
        if stream.wants_sending and not stream.queued:
            stream.queued = True
            self._ready.append(stream)

    def _receive(self) -> None:
        while not self._closing:
            self._read_events()
            delay_s = 1.0
            while not self._closing:
                try:
                    engine = self._start_engine()
                except Exception as error:
                    self._lose(error)
                    with self._changed:
                        self._changed.wait_for(lambda: self._closing, timeout=delay_s)
                    delay_s = min(2 * delay_s, MAX_RESTART_DELAY_S)
                    continue
                with self._changed:
                    self._engine, self._lost = engine, None
                    closing = self._closing
                if closing:
                    engine.close()
                break

    def _lose(self, error: Exception) -> None:
        """Note that the engine is gone, and end its streams with an error."""
        lost = error if isinstance(error, EngineDied) else EngineDied(f"{type(error).__name__}: {error}")
        with self._changed:
            if self._closing:
                return
            self._lost = lost
            for stream in self._streams.values():
                stream.error = stream.error or Refusal(Code.UNAVAILABLE, f"the engine was lost: {lost}")
                self._queue(stream)
            self._changed.notify_all()
        self._observer.engine_lost(lost)

    def _read_events(self) -> None:
        """Take events until the engine closes or dies."""
        try:
            for batch in self._engine.events():
                finished: list[int] = []
                with self._changed:
                    for event in batch:
                        finished += self._note(event)
                    self._changed.notify_all()
                self._observer.generated(
                    sum(len(event.ids) + sum(len(beam.ids) for beam in event.beams) for event in batch)
                )
                for key in finished:
                    self._engine.cancel(key)
        except Exception as error:
            # Whatever it was, nobody reads this engine's events any more: its streams must not wait for them.
            self._lose(error)
            self._engine.close()

    def _note(self, event: EngineEvent) -> list[int]:
        """Take one event in, with the lock held; the engine's keys that it should let go of."""
        if event.cache is not None and event.is_last:
            self._observer.reused(event.cache.reused_tokens)
        stream, sequence = self._sequences.get(event.key, (None, None))
        if stream is None or sequence is None or stream.done or sequence.done:
            return []
        finished = [event.key] if stream.take(sequence, event) else []
        if stream.error is not None:
            # An error of one sequence is one of the whole answer.
            finished = [key for key, (owner, other) in self._sequences.items() if owner is stream and not other.done]
            finished.remove(event.key)
        self._queue(stream)
        return finished

    def _send(self) -> None:
        while True:
            with self._changed:
                while not self._ready and not self._closing:
                    self._changed.wait()
                if not self._ready:
                    return
                stream = self._ready.popleft()
                stream.queued = False
                chunk, done = (None, True) if stream.error else stream.chunk(self._detokenizer)
                if done:
                    self._forget(stream)
                else:
                    # Another sequence may wait.
                    self._queue(stream)
            try:
                if chunk is None:
                    assert stream.error is not None
                    stream.sink.fail(stream.error)
                else:
                    if not done and stream.sink.is_cancelled():
                        self.cancel(stream.key)
                    stream.sink.send(chunk, final=done)
            except Exception as error:
                # One stream that cannot be sent must not end the sending of all others.
                self._observer.send_failed(error)
                self.cancel(stream.key)
            if done:
                self._observer.running(self.active)
