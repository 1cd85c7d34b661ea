"""HTTP: Triton's generate extension, `/generate_stream` of a streamed request and `/generate` of another."""

from typing import Any

from trireme_client import Generation, Metrics
from trireme_client.errors import error_from_text
from trireme_client.wire import tensors_of, unary_model

from .answer import Answer, clock
from .http_connection import HttpConnection, decoded


class HttpTarget:
    """A connection of its own. timeout_s: between two messages."""

    def __init__(self, address: str, timeout_s: float) -> None:
        self._connection = HttpConnection(address, timeout_s)

    def ask(self, model: str, generation: Generation, stream: bool, answer: Answer) -> None:
        values = {name: list_ if len(list_) > 1 else list_[0] for name, list_ in tensors_of(generation, stream).items()}
        path = f"/v2/models/{model}/generate_stream" if stream else f"/v2/models/{unary_model(model)}/generate"
        answer.sent = clock()
        response = self._connection.post(path, values)
        if response.status_code != 200 or not stream:
            fields = decoded(self._connection.read(response))
            answer.messages += 1
            _check(fields)
            _end(fields, answer)
            return
        for data in self._connection.events(response):
            now = clock()
            fields = decoded(data)
            answer.messages += 1
            _check(fields)
            if fields.get("text_output") and answer.came(now):
                self._connection.close()
                return
            if "finish_reason" in fields:
                _end(fields, answer)

    def close(self) -> None:
        self._connection.close()


def _check(fields: dict[str, Any]) -> None:
    if "error" in fields:
        raise error_from_text(str(fields["error"]))


def _end(fields: dict[str, Any], answer: Answer) -> None:
    """Take the counts of a last message."""
    answer.input_tokens = int(fields.get("num_input_tokens", 0))
    answer.output_tokens = int(fields.get("num_output_tokens", 0))
    answer.finish_reason = str(fields.get("finish_reason", ""))
    answer.release = str(fields.get("model_version", ""))
    if "arrival_time_ns" in fields:
        answer.metrics = Metrics(**{name: int(fields.get(name, 0)) for name in Metrics.__dataclass_fields__})
