"""gRPC: ModelStreamInfer of a streamed request, ModelInfer of one that is not."""

import uuid
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from trireme_client import Generation, Unavailable
from trireme_client.errors import error_from_rpc
from trireme_client.wire import deltas_of, request_of, streamed_deltas_of, unary_model

from .answer import Answer, clock

_SERVICE = "/inference.GRPCInferenceService/"

#: What only a last message, or one with an error, holds.
_TEXT, _LAST = "text_output", "finish_reason"


class GrpcTarget:
    """A channel, and with it a connection, of its own. timeout_s: for a whole answer."""

    def __init__(self, address: str, timeout_s: float) -> None:
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        self._address = address
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(address, options=options)
        # One request a call: on the wire that is the same, and the call needs no thread to write it.
        self._stream = self._channel.unary_stream(f"{_SERVICE}ModelStreamInfer", None, None)
        self._infer = self._channel.unary_unary(f"{_SERVICE}ModelInfer", None, None)

    def connect(self, timeout_s: float) -> None:
        """Wait for the connection. Raises Unavailable naming the address."""
        try:
            grpc.channel_ready_future(self._channel).result(timeout=timeout_s)
        except grpc.FutureTimeoutError:
            raise Unavailable(f"{self._address} does not answer gRPC within {timeout_s:g} s") from None

    def ask(self, model: str, generation: Generation, stream: bool, answer: Answer) -> None:
        name = model if stream else unary_model(model)
        body = request_of(generation, name, stream, uuid.uuid4().hex).SerializeToString()
        answer.sent = clock()
        try:
            if stream:
                self._read(self._stream(body, timeout=self._timeout_s), answer)
            else:
                response = service_pb2.ModelInferResponse.FromString(self._infer(body, timeout=self._timeout_s))
                answer.messages += 1
                _end(response, answer)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from None

    @staticmethod
    def _read(call: Any, answer: Answer) -> None:
        for message in call:
            now = clock()
            answer.messages += 1
            response = service_pb2.ModelStreamInferResponse.FromString(message)
            if response.error_message:
                streamed_deltas_of(response)
            inference = response.infer_response
            names = [tensor.name for tensor in inference.outputs]
            # A text of n bytes is 4 + n bytes long.
            if _TEXT in names and len(inference.raw_output_contents[names.index(_TEXT)]) > 4 and answer.came(now):
                call.cancel()
                return
            if _LAST in names:
                _end(inference, answer)

    def close(self) -> None:
        self._channel.close()


def _end(inference: Any, answer: Answer) -> None:
    """Take the counts of a last message."""
    deltas = deltas_of(inference)
    answer.release = inference.model_version
    if deltas:
        last = deltas[-1]
        answer.input_tokens, answer.output_tokens = last.num_input_tokens, last.num_output_tokens
        answer.finish_reason, answer.metrics = last.finish_reason or "", last.metrics
