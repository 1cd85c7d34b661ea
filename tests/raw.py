"""Requests made of the contract's tensors, without a client library of ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor, triton_to_np_dtype

from trireme_runtime.contract import SIGNATURES, Refusal, parse_refusal

Answer = dict[str, Any]


def infer_request(model: str, request_id: str = "", **values: Any) -> Any:
    """A request; values are scalars or lists, without the batch dimension."""
    own_name = model.partition("@")[0]
    signature = SIGNATURES.get(own_name) or SIGNATURES["llmapi" if own_name.endswith("llmapi") else "ensemble"]
    dtypes = {tensor.name: tensor.dtype for tensor in signature[0]}
    request = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    for name, value in values.items():
        dtype = "BYTES" if dtypes[name] == "STRING" else dtypes[name]
        items = value if isinstance(value, list) else [value]
        if dtype == "BYTES":
            array = np.array([[item.encode() if isinstance(item, str) else item for item in items]], dtype=object)
            raw = serialize_byte_tensor(array).item()
        else:
            array = np.array([items], dtype=triton_to_np_dtype(dtype))
            raw = array.tobytes()
        request.inputs.add(name=name, datatype=dtype, shape=array.shape)
        request.raw_input_contents.append(raw)
    return request


def outputs_of(response: Any) -> Answer:
    """The output tensors of a ModelInferResponse without the batch dimension; texts as str."""
    answer: Answer = {}
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if tensor.datatype == "BYTES":
            values = np.array([item.decode() for item in deserialize_bytes_tensor(raw)], dtype=object)
        else:
            values = np.frombuffer(raw, dtype=triton_to_np_dtype(tensor.datatype))
        answer[tensor.name] = values.reshape(tensor.shape)[0]
    return answer


class Raw:
    """One connection to a server."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    def start(self, model: str, request_id: str = "", **values: Any) -> Any:
        """Begin a streamed call."""
        return self.stub.ModelStreamInfer(iter([infer_request(model, request_id, **values)]), timeout=120)

    def stream(self, model: str = "ensemble", request_id: str = "", **values: Any) -> list[Answer]:
        """All answers to a request. Raises the Refusal that comes instead."""
        return list(read(self.start(model, request_id, **values)))

    def one(self, model: str = "ensemble", **values: Any) -> Answer:
        """The only answer to a request. Raises the Refusal that comes instead."""
        (answer,) = self.stream(model, **values)
        return answer

    def unary(self, model: str, **values: Any) -> Answer:
        """The answer of ModelInfer. Raises grpc.RpcError."""
        return outputs_of(self.stub.ModelInfer(infer_request(model, **values), timeout=120))


def read(call: Any) -> Iterator[Answer]:
    """The answers of a call that was begun. Raises the Refusal that comes instead."""
    refused = ""
    # To the end, after a refusal, too: what is cancelled behind the last response leaks in Triton.
    for response in call:
        refused = refused or response.error_message
        if response.infer_response.outputs:
            yield outputs_of(response.infer_response)
    if refused:
        raise parse_refusal(refused) or AssertionError(refused)


@contextmanager
def connected(address: str) -> Iterator[Raw]:
    """A connection that is closed in the end."""
    with grpc.insecure_channel(address) as channel:
        yield Raw(channel)


def ask(question: str) -> str:
    """The prompt that the reference model knows a question by."""
    return f"<|user|>{question}<|assistant|>"


__all__ = ["Answer", "Raw", "Refusal", "ask", "connected", "infer_request", "outputs_of", "read"]
