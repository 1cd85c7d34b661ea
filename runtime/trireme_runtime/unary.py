"""One answer for each request, from a decoupled ensemble. Importable inside a stub only.

A model that is not decoupled may still keep the response sender of a request and answer from a thread, so that as many
requests are under way as there are threads; they wait, and cost next to nothing.
"""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from . import triton
from .contract import Code, Refusal, invalid, parse_refusal

#: How often to look whether clients have gone away.
_CANCELLATION_POLL_S = 0.05


class UnaryFront:
    """Passes requests on to the model `ensemble`, at most `max_in_flight` at once; the others wait.

    What a client has given up is stopped in `engine_model`.
    """

    def __init__(self, ensemble: str, engine_model: str, max_in_flight: int) -> None:
        self._ensemble = ensemble
        self._engine_model = engine_model
        self._pool = ThreadPoolExecutor(max_in_flight, thread_name_prefix="unary")
        self._running: dict[str, Any] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._watcher = threading.Thread(target=self._watch, name="unary-cancellations", daemon=True)
        self._watcher.start()

    def take(self, request: Any) -> None:
        """Answer a request later, from a thread."""
        sender = request.get_response_sender()
        try:
            triton.refuse_parameters(request)
            if any(tensor.name() == "stream" and tensor.as_numpy().any() for tensor in request.inputs()):
                raise invalid(f"stream is True; this model gives one answer: call {self._ensemble}")
        except Exception as error:
            self._send(sender, triton.error_response(triton.as_refusal(error)))
            return
        self._pool.submit(self._run, request, sender)

    def _run(self, request: Any, sender: Any) -> None:
        # The client's own id may be in use; under this one nobody else can stop the request.
        request_id = uuid.uuid4().hex
        with self._changed:
            self._running[request_id] = sender
            self._changed.notify()
        try:
            response = self._infer(request, request_id)
        except Exception as error:
            response = triton.error_response(triton.as_refusal(error))
        finally:
            with self._changed:
                del self._running[request_id]
        self._send(sender, response)

    def _infer(self, request: Any, request_id: str) -> Any:
        if request.is_cancelled():
            raise Refusal(Code.CANCELLED, "the client has gone away")
        inner = pb_utils.InferenceRequest(
            request_id=request_id,
            model_name=self._ensemble,
            requested_output_names=list(request.requested_output_names()),
            inputs=request.inputs(),
        )
        outputs: list[Any] = []
        for response in _responses(inner):
            if response.has_error():
                raise _refusal_of(response.error().message())
            outputs = response.output_tensors() or outputs
        return triton.response(*outputs)

    @staticmethod
    def _send(sender: Any, response: Any) -> None:
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._running)
                if self._closing:
                    return
                gone = [request_id for request_id, sender in self._running.items() if sender.is_cancelled()]
                self._changed.wait_for(lambda: self._closing, timeout=_CANCELLATION_POLL_S)
            for request_id in gone:
                # Until it has ended: before it reaches the engine, there is nothing to stop.
                self._stop(request_id)

    def _stop(self, request_id: str) -> None:
        inputs = [pb_utils.Tensor("stop", np.array([[True]]))]
        stop = pb_utils.InferenceRequest(
            request_id=request_id, model_name=self._engine_model, requested_output_names=[], inputs=inputs
        )
        for response in _responses(stop):
            refusal = parse_refusal(response.error().message()) if response.has_error() else None
            if refusal is not None and refusal.code is not Code.NOT_FOUND:
                pb_utils.Logger.log_error(f"stopping a request failed: {refusal}")

    def close(self) -> None:
        """End the threads; requests that run come to their end first."""
        self._pool.shutdown(wait=True)
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._watcher.join(timeout=10)


def _responses(request: Any) -> Any:
    """The responses of a decoupled model, an error instead of the exception where it cannot be called."""
    try:
        yield from request.exec(decoupled=True)
    except pb_utils.TritonModelException as error:
        yield triton.error_response(_refusal_of(str(error)))


def _refusal_of(message: str) -> Refusal:
    refusal = parse_refusal(message)
    if refusal is not None:
        return refusal
    unavailable = "no available versions" in message or "is not ready" in message or "not healthy" in message
    return Refusal(Code.UNAVAILABLE if unavailable else Code.INVALID_ARGUMENT, message)
