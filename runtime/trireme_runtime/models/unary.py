"""One request, one answer: passes requests on to the decoupled ensemble."""

from typing import Any

from .. import triton
from ..loading import loads
from ..shared_state import StatusFile
from ..unary import UnaryFront


class TritonPythonModel:
    """Takes and gives what `ensemble` does, except for `stream`."""

    @loads
    def initialize(self, args: dict[str, str]) -> None:
        config = triton.ModelConfig.of_verified(args)
        self._front = UnaryFront(config.text("ensemble"), config.text("engine_model"), config.integer("max_in_flight"))
        self._status = StatusFile(args["model_name"], args["model_version"])

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            self._front.take(request)

    def finalize(self) -> None:
        self._front.close()
        self._status.close()
