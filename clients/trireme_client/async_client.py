"""The asyncio client."""

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from .calls import AsyncEndings, finish_async
from .errors import TriremeError, error_from_rpc
from .types import Completion, Delta, Generation
from .wire import (
    CHANNEL_OPTIONS,
    DEFAULT_MODEL,
    DEFAULT_URL,
    Collector,
    completion_of,
    metadata_of,
    request_of,
    sequences_of,
    streamed_deltas_of,
    unary_model,
)


class AsyncStream:
    """An answer that is under way: `async for` its pieces; `close`, or the end of `async with`, cancels the rest."""

    def __init__(self, call: Any, sequences: int, endings: AsyncEndings) -> None:
        self._call = call
        self._endings = endings
        self._collector = Collector()
        self._waiting: deque[Delta] = deque()
        #: How many sequences the server has not ended; with 0 it has sent its last response.
        self._sequences = sequences
        #: The event loop that it is read in; known from the first piece on.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    def __aiter__(self) -> "AsyncStream":
        return self

    async def __anext__(self) -> Delta:
        self._loop = asyncio.get_running_loop()
        while not self._waiting:
            try:
                response = await self._call.read()
            except grpc.RpcError as error:
                raise error_from_rpc(error) from error
            if response is grpc.aio.EOF:  # type: ignore[attr-defined]
                raise StopAsyncIteration
            try:
                deltas = streamed_deltas_of(response)
            except TriremeError:
                self._sequences = 0
                await finish_async(self._call)
                raise
            self._sequences -= sum(delta.finish_reason is not None for delta in deltas)
            self._waiting.extend(deltas)
        delta = self._waiting.popleft()
        self._collector.add(delta)
        return delta

    @property
    def completion(self) -> Completion:
        """What came so far, as a whole."""
        return self._collector.completion

    def close(self) -> None:
        """Cancel the generation if it is still running."""
        if self._sequences > 0:
            self._call.cancel()
        elif not self._is_closed:
            self._endings.add(self._call)
        self._is_closed = True

    async def __aenter__(self) -> "AsyncStream":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sequences <= 0:
            await finish_async(self._call)
        self._call.cancel()
        self._is_closed = True

    def __del__(self) -> None:
        if self._is_closed or self._call.done():
            return
        if self._sequences <= 0 and self._loop is not None and not self._loop.is_closed():
            # Dropped in any thread, with or without a loop that runs.
            self._loop.call_soon_threadsafe(self._endings.add, self._call)
        else:
            self._call.cancel()


class AsyncClient:
    """A connection to one server, for one event loop, with any number of streams at once; see `Client`."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        model: str = DEFAULT_MODEL,
        timeout_s: float | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(url, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(url, credentials, options=CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._model = model
        self._timeout_s = timeout_s
        self._endings = AsyncEndings()

    def stream(self, generation: Generation | None = None, **fields: Any) -> AsyncStream:
        """Start a streamed generation; see `Client.stream`."""
        generation = generation or Generation(**fields)
        request = request_of(generation, self._model, True, uuid.uuid4().hex)
        metadata = metadata_of(generation)

        async def requests() -> AsyncIterator[Any]:
            yield request

        call = self._stub.ModelStreamInfer(requests(), timeout=self._timeout_s, metadata=metadata)
        return AsyncStream(call, sequences_of(request), self._endings)

    async def generate(self, generation: Generation | None = None, **fields: Any) -> Completion:
        """Generate without streaming; see `Client.generate`."""
        model = unary_model(self._model)
        generation = generation or Generation(**fields)
        request = request_of(generation, model, False, uuid.uuid4().hex)
        try:
            response = await self._stub.ModelInfer(request, timeout=self._timeout_s, metadata=metadata_of(generation))
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        return completion_of(response)

    async def is_ready(self) -> bool:
        """Whether the server answers and the model is loaded."""
        try:
            request = service_pb2.ModelReadyRequest(name=self._model)
            return bool((await self._stub.ModelReady(request, timeout=self._timeout_s or 5)).ready)
        except grpc.RpcError:
            return False

    async def close(self) -> None:
        """Close the connection; running streams are cancelled."""
        await self._endings.close()
        await self._channel.close(None)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
