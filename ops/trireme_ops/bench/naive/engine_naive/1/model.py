"""One response for each token, as soon as the engine has it."""

import threading
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from trireme_runtime.engines import load_engine
from trireme_runtime.engines.base import EngineRequest, EngineSettings
from trireme_runtime.triton import ModelConfig, response


class TritonPythonModel:
    """In: ids. Out: a response for each."""

    def initialize(self, args: dict[str, str]) -> None:
        config = ModelConfig(args)
        settings = EngineSettings(max_num_seqs=config.integer("max_num_sequences"), kv_cache_tokens=1 << 20)
        self._engine = load_engine("null", config.folder("engine_dir"), settings)
        self._senders: dict[int, Any] = {}
        self._next = 0
        threading.Thread(target=self._send, daemon=True).start()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            self._next += 1
            self._senders[self._next] = request.get_response_sender()
            self._engine.submit(
                EngineRequest(
                    key=self._next,
                    input_ids=tuple(tensors["input_ids"][0].tolist()),
                    max_new_tokens=int(tensors["request_output_len"][0, 0]),
                    end_id=None,
                )
            )

    def _send(self) -> None:
        for step in self._engine.steps():
            for event in step.all_events():
                sender = self._senders[event.key]
                ids = np.array([[event.ids]], dtype=np.int32)
                length = np.array([[len(event.ids)]], dtype=np.int32)
                flags = 0
                if event.is_last:
                    del self._senders[event.key]
                    flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
                sender.send(
                    response(pb_utils.Tensor("output_ids", ids), pb_utils.Tensor("sequence_length", length)),
                    flags=flags,
                )

    def finalize(self) -> None:
        self._engine.close()
