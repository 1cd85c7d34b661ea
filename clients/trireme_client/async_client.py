"""The asyncio client."""

import uuid
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from .errors import error_from_rpc
from .types import Completion, Delta, Generation
from .wire import DEFAULT_MODEL, DEFAULT_URL, Collector, completion_of, request_of, streamed_deltas_of, unary_model


class AsyncStream:
    """An answer that is under way: `async for` its pieces; `close`, or the end of `async with`, cancels the rest."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._collector = Collector()
        self._waiting: deque[Delta] = deque()

    def __aiter__(self) -> "AsyncStream":
        return self

    async def __anext__(self) -> Delta:
        while not self._waiting:
            try:
                response = await self._call.read()
            except grpc.RpcError as error:
                raise error_from_rpc(error) from error
            if response is grpc.aio.EOF:  # type: ignore[attr-defined]
                raise StopAsyncIteration
            self._waiting.extend(streamed_deltas_of(response))
        delta = self._waiting.popleft()
        self._collector.add(delta)
        return delta

    @property
    def completion(self) -> Completion:
        """What came so far, as a whole."""
        return self._collector.completion

    def close(self) -> None:
        """Cancel the generation if it is still running."""
        self._call.cancel()

    async def __aenter__(self) -> "AsyncStream":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._call.cancel()


class AsyncClient:
    """A connection to one server, for one event loop, with any number of streams at once; see `Client`."""

    def __init__(self, url: str = DEFAULT_URL, model: str = DEFAULT_MODEL, timeout_s: float | None = None) -> None:
        self._channel = grpc.aio.insecure_channel(url, options=[("grpc.max_receive_message_length", -1)])
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._model = model
        self._timeout_s = timeout_s

    def stream(self, generation: Generation | None = None, **fields: Any) -> AsyncStream:
        """Start a streamed generation; see `Client.stream`."""
        request = request_of(generation or Generation(**fields), self._model, True, uuid.uuid4().hex)

        async def requests() -> AsyncIterator[Any]:
            yield request

        return AsyncStream(self._stub.ModelStreamInfer(requests(), timeout=self._timeout_s))

    async def generate(self, generation: Generation | None = None, **fields: Any) -> Completion:
        """Generate without streaming; see `Client.generate`."""
        model = unary_model(self._model)
        request = request_of(generation or Generation(**fields), model, False, uuid.uuid4().hex)
        try:
            response = await self._stub.ModelInfer(request, timeout=self._timeout_s)
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
        await self._channel.close(None)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
