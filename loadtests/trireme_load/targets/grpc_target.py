"""gRPC: ModelStreamInfer of a streamed request, ModelInfer of one that is not."""

import contextlib
import uuid

import grpc
from tritonclient.grpc import service_pb2

from trireme_client import Generation, Unavailable
from trireme_client.errors import error_from_status, error_from_text
from trireme_client.wire import deltas_of, request_of, unary_model

from ..grpc_reader import Kind, Outcome
from .answer import Answer
from .grpc_link import link


class GrpcTarget:
    """A channel, and with it a connection, of its own. timeout_s: for a whole answer."""

    def __init__(self, address: str, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._link = link()
        self._number = self._link.number()

    def connect(self, timeout_s: float) -> None:
        """Wait for the connection. Raises Unavailable naming the address."""
        outcome = self._link.call(Kind.CONNECT, self._number, self._address, timeout_s)
        if outcome.status:
            raise Unavailable(outcome.detail)

    def ask(self, model: str, generation: Generation, stream: bool, answer: Answer) -> None:
        name = model if stream else unary_model(model)
        body = request_of(generation, name, stream, uuid.uuid4().hex).SerializeToString()
        outcome = self._link.call(Kind.ASK, self._number, stream, body, self._timeout_s, answer.leave_after)
        _fill(answer, outcome)
        if outcome.error_text:
            raise error_from_text(outcome.error_text)
        if outcome.status:
            raise error_from_status(grpc.StatusCode[outcome.status], outcome.detail)

    def close(self) -> None:
        with contextlib.suppress(Unavailable):
            self._link.tell(Kind.CLOSE, self._number)


def _fill(answer: Answer, outcome: Outcome) -> None:
    """Take what came of a request."""
    answer.sent, answer.text_at, answer.messages = outcome.sent, outcome.text_at, outcome.messages
    answer.left = outcome.left
    if not outcome.last:
        return
    inference = service_pb2.ModelInferResponse.FromString(outcome.last)
    answer.release = inference.model_version
    deltas = deltas_of(inference)
    if deltas:
        last = deltas[-1]
        answer.input_tokens, answer.output_tokens = last.num_input_tokens, last.num_output_tokens
        answer.finish_reason, answer.metrics = last.finish_reason or "", last.metrics
