"""Between the engine and the clients: collects ids per stream, and sends them when the pipe is free.

The first ids of a stream are sent at once; further ones go together when the sender comes round to it, so that under
load a message holds several tokens and the number of messages stays what the server can carry.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from .contract import Code, FinishReason, Refusal
from .detokenizing import Detokenizer
from .engines.base import Engine, EngineDied, EngineEvent, EngineRequest, check_request
from .requests import GenerationRequest
from .stopping import StopMatcher

#: How long to wait, at most, before a dead engine is started once more.
MAX_RESTART_DELAY_S = 30.0


@dataclass(frozen=True)
class Chunk:
    """Ids to send to one client.

    window_ids: ids sent before, from a character boundary, for stateless detokenization. The counts are those of the
    whole stream so far; finish_reason is None until the last chunk.
    """

    stream_key: int
    window_ids: list[int]
    output_ids: list[int]
    num_input_tokens: int
    num_output_tokens: int
    finish_reason: FinishReason | None = None
    stop_reason: str = ""


class Sink(Protocol):
    """Where a stream's chunks go; called from the sender thread only."""

    def send(self, chunk: Chunk, final: bool) -> None:
        """Send a chunk; with `final` nothing follows."""

    def fail(self, refusal: Refusal) -> None:
        """End with an error."""

    def is_cancelled(self) -> bool:
        """Whether the client has gone away."""


class Observer(Protocol):
    """Who is told what happens; called from the router's threads."""

    def running(self, count: int) -> None:
        """`count` generations are running or being sent now."""

    def generated(self, count: int) -> None:
        """`count` further ids came from the engine."""

    def engine_lost(self, error: EngineDied) -> None:
        """The engine died, or could not be started again; its streams were ended with an error."""

    def send_failed(self, error: Exception) -> None:
        """A chunk could not be sent; its stream is cancelled."""


class _Stream:
    """What is known of one running generation. Guarded by the router's lock."""

    def __init__(
        self, key: int, request_id: str, request: GenerationRequest, sink: Sink, matcher: StopMatcher | None
    ) -> None:
        self.key = key
        self.request_id = request_id
        self.request = request
        self.sink = sink
        self.matcher = matcher
        self.ids: list[int] = list(request.input_ids) if request.echo else []
        self.echoed = len(self.ids)
        self.generated = 0
        self.sent = 0
        self.releasable = 0
        self.finish_reason: FinishReason | None = None
        self.stop_reason = ""
        self.error: Refusal | None = None
        self.queued = False

    @property
    def done(self) -> bool:
        return self.finish_reason is not None or self.error is not None

    @property
    def wants_sending(self) -> bool:
        return self.done or (self.request.streaming and self.releasable > self.sent)

    def take(self, event: EngineEvent) -> bool:
        """Note the news; True if the engine should stop because a stop string is complete."""
        ids = list(event.ids)
        self.error = event.error
        self.finish_reason = event.finish_reason
        hit = self.matcher.feed(ids) if self.matcher and ids else None
        if hit is not None:
            ids = ids[: hit.ids_used - self.generated]
            self.finish_reason, self.stop_reason = FinishReason.STOP, hit.stop
        self.ids += ids
        self.generated += len(ids)
        held_back = self.generated - self.matcher.releasable if self.matcher and not self.done else 0
        self.releasable = len(self.ids) - held_back
        return hit is not None and not event.is_last


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
        self._streams: dict[int, _Stream] = {}
        self._ready: deque[_Stream] = deque()
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
        """Submit a generation; its key. Raises Refusal, and then never touches `sink`."""
        key = next(self._keys)
        engine_request = EngineRequest(key, request.input_ids, request.max_new_tokens, request.end_id, request.sampling)
        check_request(engine_request, self._engine.limits)
        matcher = StopMatcher(request.stop_strings, self._detokenizer) if request.stop_strings else None
        with self._changed:
            if self._lost is not None:
                raise Refusal(Code.UNAVAILABLE, f"the engine {self._engine.name} is not running: {self._lost}")
            self._streams[key] = _Stream(key, request_id, request, sink, matcher)
        try:
            self._engine.submit(engine_request)
        except (Refusal, EngineDied) as error:
            with self._changed:
                stream = self._streams.get(key)
                if stream is None or stream.done:
                    # It was ended with an error already, with all others that the engine took along.
                    return key
                del self._streams[key]
            if isinstance(error, Refusal):
                raise
            raise Refusal(Code.UNAVAILABLE, f"the engine {self._engine.name} is not running: {error}") from error
        self._observer.running(self.active)
        return key

    def cancel(self, key: int) -> bool:
        """End a generation early; False if it is not running."""
        with self._changed:
            if key not in self._streams:
                return False
        try:
            self._engine.cancel(key)
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

    def _queue(self, stream: _Stream) -> None:
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
                finished = []
                with self._changed:
                    for event in batch:
                        stream = self._streams.get(event.key)
                        if stream is None or stream.done:
                            continue
                        if stream.take(event):
                            finished.append(event.key)
                        self._queue(stream)
                    self._changed.notify_all()
                self._observer.generated(sum(len(event.ids) for event in batch))
                for key in finished:
                    self._engine.cancel(key)
        except Exception as error:
            # Whatever it was, nobody reads this engine's events any more: its streams must not wait for them.
            self._lose(error)
            self._engine.close()

    def _send(self) -> None:
        while True:
            with self._changed:
                while not self._ready and not self._closing:
                    self._changed.wait()
                if not self._ready:
                    return
                stream = self._ready.popleft()
                stream.queued = False
                chunk = None if stream.error else self._chunk(stream)
                done = stream.done
                if done:
                    self._streams.pop(stream.key, None)
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

    def _chunk(self, stream: _Stream) -> Chunk:
        start = self._detokenizer.window_start(stream.ids, stream.sent)
        chunk = Chunk(
            stream_key=stream.key,
            window_ids=stream.ids[start : stream.sent],
            output_ids=stream.ids[stream.sent : stream.releasable],
            num_input_tokens=len(stream.request.input_ids),
            num_output_tokens=stream.releasable - stream.echoed,
            finish_reason=stream.finish_reason,
            stop_reason=stream.stop_reason,
        )
        stream.sent = stream.releasable
        return chunk
