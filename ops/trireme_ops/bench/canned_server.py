"""A gRPC server that answers with messages made beforehand, faster than any model: what it sends, the reader must take.

    python -m trireme_ops.bench.canned_server MESSAGES      prints its address, and serves until it is stopped

It knows as much of the KServe protocol as a load test asks of it. Each stream gets MESSAGES messages with a token each.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor

_SERVICE = "inference.GRPCInferenceService"
_MODEL = "ensemble"


def _message(text: str, last: int | None) -> bytes:
    """A message of a stream. last: how many tokens there were, with the last one."""
    response = service_pb2.ModelStreamInferResponse()
    inference = response.infer_response
    inference.model_name, inference.model_version = _MODEL, "1"

    def add(name: str, datatype: str, raw: bytes) -> None:
        inference.outputs.add(name=name, datatype=datatype, shape=[1, 1])
        inference.raw_output_contents.append(raw)

    def add_text(name: str, value: str) -> None:
        add(name, "BYTES", serialize_byte_tensor(np.array([[value.encode()]], dtype=object)).item())

    add_text("text_output", text)
    if last is not None:
        add_text("finish_reason", "length")
        add_text("stop_reason", "")
        for name, value in (("num_input_tokens", 8), ("num_output_tokens", last)):
            add(name, "INT32", np.int32(value).tobytes())
    return bytes(response.SerializeToString())


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    def __init__(self, messages: int) -> None:
        body, last = _message(" token", None), _message(" token", messages)

        async def stream(requests: Any, _context: Any) -> AsyncIterator[bytes]:
            async for _ in requests:
                for _ in range(messages - 1):
                    yield body
                yield last

        async def metadata(_request: bytes, _context: Any) -> bytes:
            return bytes(service_pb2.ServerMetadataResponse(name="canned", version="1").SerializeToString())

        async def model(_request: bytes, _context: Any) -> bytes:
            return bytes(service_pb2.ModelMetadataResponse(name=_MODEL, versions=["1"]).SerializeToString())

        async def config(_request: bytes, _context: Any) -> bytes:
            return bytes(service_pb2.ModelConfigResponse().SerializeToString())

        self._methods = {
            f"/{_SERVICE}/ModelStreamInfer": grpc.stream_stream_rpc_method_handler(stream),
            f"/{_SERVICE}/ServerMetadata": grpc.unary_unary_rpc_method_handler(metadata),
            f"/{_SERVICE}/ModelMetadata": grpc.unary_unary_rpc_method_handler(model),
            f"/{_SERVICE}/ModelConfig": grpc.unary_unary_rpc_method_handler(config),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._methods.get(handler_call_details.method)


async def _serve(messages: int) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Handlers(messages),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
