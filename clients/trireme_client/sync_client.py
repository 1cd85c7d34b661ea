"""The blocking client."""

import uuid
from collections import deque
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from .calls import Endings, finish
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


class Stream:
    """An answer that is under way: iterate for its pieces; `close` (or the end of a `with`) cancels what is left."""

    def __init__(self, call: Any, sequences: int, endings: Endings) -> None:
        self._call = call
        self._endings = endings
        self._collector = Collector()
        self._waiting: deque[Delta] = deque()
        #: How many sequences the server has not ended; with 0 it has sent its last response.
        self._sequences = sequences

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Delta:
        while not self._waiting:
            try:
                deltas = streamed_deltas_of(next(self._call))
            except grpc.RpcError as error:
                raise error_from_rpc(error) from error
            except TriremeError:
                self._sequences = 0
                self.close()
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
        if self._sequences <= 0:
            finish(self._call)
        self._call.cancel()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._sequences <= 0 and not self._call.done():
            self._endings.add(self._call)
        else:
            self._call.cancel()


class Client:
    """A connection to one server; may be used from several threads, with any number of streams at once.

    url: host:port of the gRPC endpoint. model: the ensemble; the model that `generate` calls is named after it.
    timeout_s: for each call as a whole, None for no limit. credentials: of a TLS endpoint, such as
    `grpc.ssl_channel_credentials()`, which trusts whom gRPC does; None: plain.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        model: str = DEFAULT_MODEL,
        timeout_s: float | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        if credentials is None:
            self._channel = grpc.insecure_channel(url, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(url, credentials, options=CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._model = model
        self._timeout_s = timeout_s
        self._endings = Endings()

    def stream(self, generation: Generation | None = None, **fields: Any) -> Stream:
        """Start a streamed generation, given whole or by the fields of Generation.

        Iterating raises the TriremeError that the server answers with.
        """
        generation = generation or Generation(**fields)
        request = request_of(generation, self._model, True, uuid.uuid4().hex)
        metadata = metadata_of(generation)
        call = self._stub.ModelStreamInfer(iter([request]), timeout=self._timeout_s, metadata=metadata)
        return Stream(call, sequences_of(request), self._endings)

    def generate(self, generation: Generation | None = None, **fields: Any) -> Completion:
        """Generate without streaming. Raises the TriremeError that the server answers with.

        If it is given up, by the timeout for example, the generation is cancelled.
        """
        model = unary_model(self._model)
        generation = generation or Generation(**fields)
        request = request_of(generation, model, False, uuid.uuid4().hex)
        try:
            response = self._stub.ModelInfer(request, timeout=self._timeout_s, metadata=metadata_of(generation))
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
        self._endings.close()
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
