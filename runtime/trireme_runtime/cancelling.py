"""Tells the engine model that a client has gone away.

Triton does not carry the cancellation of an ensemble to the engine step that is already running, but a step behind it
sees that its request is cancelled; from there a `stop` for the stream's key goes to the engine model.
"""

import queue
import threading

import numpy as np
import triton_python_backend_utils as pb_utils

#: How many stopped keys are remembered, so that further chunks of a stream do not stop it again.
_REMEMBERED = 4096


class EngineStopper:
    """Stops streams of the model `engine_model`, in a thread of its own. Importable inside a stub only."""

    def __init__(self, engine_model: str) -> None:
        self._engine_model = engine_model
        self._stopped: dict[int, None] = {}
        self._keys: queue.SimpleQueue[int] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="engine-stopper", daemon=True).start()

    def stop(self, stream_key: int) -> None:
        """Stop the stream once; returns at once."""
        if stream_key in self._stopped:
            return
        self._stopped[stream_key] = None
        while len(self._stopped) > _REMEMBERED:
            del self._stopped[next(iter(self._stopped))]
        self._keys.put(stream_key)

    def _run(self) -> None:
        while True:
            key = self._keys.get()
            request = pb_utils.InferenceRequest(
                model_name=self._engine_model,
                requested_output_names=[],
                inputs=[
                    pb_utils.Tensor("stop", np.array([[True]])),
                    pb_utils.Tensor("stream_key", np.array([[key]], dtype=np.uint64)),
                ],
            )
            try:
                errors = [
                    response.error().message() for response in request.exec(decoupled=True) if response.has_error()
                ]
            except pb_utils.TritonModelException as error:
                # The engine model is being unloaded: its streams end anyway.
                errors = [str(error)]
            for message in errors:
                pb_utils.Logger.log_error(f"stopping stream {key} failed: {message}")
