"""The blocking client."""

import uuid
from collections import deque
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from .errors import error_from_rpc
from .types import Completion, Delta, Generation
from .wire import (
    DEFAULT_MODEL,
    DEFAULT_URL,
    Collector,
    completion_of,
    request_of,
    streamed_deltas_of,
    unary_model,
)


class Stream:
    """An answer that is under way: iterate for its pieces; `close` (or the end of a `with`) cancels what is left."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._collector = Collector()
        self._waiting: deque[Delta] = deque()

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Delta:
        while not self._waiting:
            try:
                self._waiting.extend(streamed_deltas_of(next(self._call)))
            except grpc.RpcError as error:
                raise error_from_rpc(error) from error
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

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._call.cancel()


class Client:
    """A connection to one server; may be used from several threads, with any number of streams at once.

    url: host:port of the gRPC endpoint. model: the ensemble; the model that `generate` calls is named after it.
    timeout_s: for each call as a whole, None for no limit.
    """

    def __init__(self, url: str = DEFAULT_URL, model: str = DEFAULT_MODEL, timeout_s: float | None = None) -> None:
        self._channel = grpc.insecure_channel(url, options=[("grpc.max_receive_message_length", -1)])
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._model = model
        self._timeout_s = timeout_s

    def stream(self, generation: Generation | None = None, **fields: Any) -> Stream:
        """Start a streamed generation, given whole or by the fields of Generation.

        Iterating raises the TriremeError that the server answers with.
        """
        request = request_of(generation or Generation(**fields), self._model, True, uuid.uuid4().hex)
        return Stream(self._stub.ModelStreamInfer(iter([request]), timeout=self._timeout_s))

    def generate(self, generation: Generation | None = None, **fields: Any) -> Completion:
        """Generate without streaming. Raises the TriremeError that the server answers with.

        If it is given up, by the timeout for example, the generation is cancelled.
        """
        model = unary_model(self._model)
        request = request_of(generation or Generation(**fields), model, False, uuid.uuid4().hex)
        try:
            response = self._stub.ModelInfer(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        return completion_of(response)

    def is_ready(self) -> bool:
        """Whether the server answers and the model is loaded."""
        try:
            request = service_pb2.ModelReadyRequest(name=self._model)
            return bool(self._stub.ModelReady(request, timeout=self._timeout_s or 5).ready)
        except grpc.RpcError:
            return False

    def close(self) -> None:
        """Close the connection; running streams are cancelled."""
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
