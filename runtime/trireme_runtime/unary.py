"""One answer for each request, from a decoupled ensemble. Importable inside a stub only.

A model that is not decoupled may keep the response sender of a request and answer later, so that any number of requests
is under way at once. They go to the ensemble as any client's do, through the server's own gRPC endpoint: calls between
models take a thread each, and from many threads at once they corrupt the stub's memory (Triton 2.51).
"""

import asyncio
import contextlib
import os
import threading
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import numpy as np
import triton_python_backend_utils as pb_utils
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import (
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from . import triton
from .cancelling import stop_elsewhere
from .contract import TRACEPARENT, UNARY_ID_PREFIX, Code, Refusal, invalid, parse_refusal
from .otlp import url_of_environment

#: Where the server's gRPC endpoint is, host:port.
ADDRESS_VARIABLE = "TRIREME_GRPC"
DEFAULT_ADDRESS = "127.0.0.1:8001"

#: How often to look whether a client has gone away.
_CANCELLATION_POLL_S = 0.05


class UnaryFront:
    """Passes requests on to the model `ensemble`, at most `max_in_flight` at once; further ones are refused.

    What a client has given up is stopped in `engine_model`.
    """

    def __init__(self, ensemble: str, engine_model: str, max_in_flight: int) -> None:
        self._ensemble = ensemble
        self._engine_model = engine_model
        #: Whether the models behind it tell of what is traced.
        self._traces = url_of_environment() is not None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="unary", daemon=True)
        self._thread.start()
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        asyncio.run_coroutine_threadsafe(self._connect(), self._loop).result()

    async def _connect(self) -> None:
        address = os.environ.get(ADDRESS_VARIABLE, DEFAULT_ADDRESS)
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.aio.insecure_channel(address, options=unlimited)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def take(self, request: Any) -> None:
        """Answer a request later. For the thread that `execute` runs in."""
        sender = request.get_response_sender()
        try:
            triton.refuse_parameters(request)
            tensors = triton.tensors_of(request)
            if "stream" in tensors and tensors["stream"].any():
                raise invalid(f"stream is True; this model gives one answer: call {self._ensemble}")
            # The client's own id may be in use; under this one nobody else can stop the request.
            message = self._message(self._ensemble, UNARY_ID_PREFIX + uuid.uuid4().hex, tensors)
            for name in request.requested_output_names():
                message.outputs.add(name=name)
            if self._traces and (traceparent := triton.traceparent_of(request)):
                message.parameters[TRACEPARENT].string_param = traceparent
        except Exception as error:
            _send(sender, triton.error_response(triton.as_refusal(error)))
            return
        asyncio.run_coroutine_threadsafe(self._answer(message, sender), self._loop)

    @staticmethod
    def _message(model: str, request_id: str, tensors: dict[str, Any]) -> Any:
        message = service_pb2.ModelInferRequest(model_name=model, id=request_id)
        for name, values in tensors.items():
            dtype = np_to_triton_dtype(values.dtype)
            message.inputs.add(name=name, datatype=dtype, shape=values.shape)
            raw = serialize_byte_tensor(values).item() if dtype == "BYTES" and values.size else values.tobytes()
            message.raw_input_contents.append(raw if values.size else b"")
        return message

    async def _answer(self, message: Any, sender: Any) -> None:
        watcher = asyncio.create_task(self._stop_when_given_up(message.id, sender))
        try:
            self._in_flight += 1
            if self._in_flight > self._max_in_flight:
                busy = f"the server is busy: {self._max_in_flight} unary requests are under way, the most that may be"
                raise Refusal(Code.RESOURCE_EXHAUSTED, busy, 1000)
            outputs = [response async for response in self._responses(message) if response.outputs]
            response = triton.response(*(_tensors_of(outputs[-1]) if outputs else ()))
        except Exception as error:
            response = triton.error_response(triton.as_refusal(error))
        finally:
            self._in_flight -= 1
            watcher.cancel()
        with contextlib.suppress(Exception):
            _send(sender, response)

    async def _responses(self, message: Any) -> AsyncIterator[Any]:
        """The responses to a request. Raises the Refusal that comes instead."""

        async def requests() -> AsyncIterator[Any]:
            yield message

        refusal = None
        try:
            # To the end, after a refusal, too: what is cancelled behind the last response leaks in Triton.
            async for response in self._stub.ModelStreamInfer(requests()):
                if response.error_message:
                    refusal = _refusal_of(response.error_message)
                else:
                    yield response.infer_response
        except grpc.RpcError as error:
            raise Refusal(Code.UNAVAILABLE, f"the server does not answer itself: {error.details()}") from error
        if refusal is not None:
            raise refusal

    async def _stop_when_given_up(self, request_id: str, sender: Any) -> None:
        """Until it is cancelled: before the request reaches the engine, there is nothing to stop."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_CANCELLATION_POLL_S)
            if sender.is_cancelled():
                await loop.run_in_executor(None, stop_elsewhere, self._engine_model, request_id)

    def close(self) -> None:
        """End the thread."""
        asyncio.run_coroutine_threadsafe(self._channel.close(None), self._loop).result(timeout=5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)


def _send(sender: Any, response: Any) -> None:
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _tensors_of(inference: Any) -> list[Any]:
    tensors = []
    for tensor, raw in zip(inference.outputs, inference.raw_output_contents, strict=True):
        if tensor.datatype == "BYTES":
            values = np.array(deserialize_bytes_tensor(raw), dtype=object)
        else:
            values = np.frombuffer(raw, dtype=triton_to_np_dtype(tensor.datatype))
        tensors.append(pb_utils.Tensor(tensor.name, values.reshape(tensor.shape)))
    return tensors


def _refusal_of(message: str) -> Refusal:
    refusal = parse_refusal(message)
    if refusal is not None:
        return refusal
    unavailable = "no available versions" in message or "is not ready" in message or "not healthy" in message
    return Refusal(Code.UNAVAILABLE if unavailable else Code.INVALID_ARGUMENT, message)
