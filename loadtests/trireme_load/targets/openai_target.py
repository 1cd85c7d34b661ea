"""Any server that speaks OpenAI's API: chat completions, streamed as server-sent events."""

import os
from typing import Any

from trireme_client import (
    DeadlineExceeded,
    Generation,
    InternalError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    TriremeError,
    Unavailable,
)

from .answer import Answer, clock
from .http_connection import HttpConnection, decoded

#: Where the key is looked for; one is sent only if it is there.
KEY_VARIABLES = ("TRIREME_API_KEY", "OPENAI_API_KEY")

#: The response header that names the release, where a gateway sends it.
_RELEASE = "x-trireme-release"

_BY_STATUS: dict[int, type[TriremeError]] = {
    400: InvalidArgument,
    401: InvalidArgument,
    403: InvalidArgument,
    404: NotFound,
    408: DeadlineExceeded,
    413: InvalidArgument,
    422: InvalidArgument,
    429: ResourceExhausted,
    502: Unavailable,
    503: Unavailable,
    504: DeadlineExceeded,
}


class OpenAITarget:
    """A connection of its own. timeout_s: between two messages."""

    def __init__(self, address: str, timeout_s: float) -> None:
        key = next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), None)
        self._connection = HttpConnection(address, timeout_s, {"Authorization": f"Bearer {key}"} if key else None)

    def ask(self, model: str, generation: Generation, stream: bool, answer: Answer) -> None:
        answer.sent = clock()
        response = self._connection.post("/v1/chat/completions", _body(model, generation, stream))
        answer.release = str(response.get(_RELEASE) or "")
        if response.status_code != 200:
            text = self._connection.read(response)
            raise _BY_STATUS.get(response.status_code, InternalError)(_message(text))
        if not stream:
            fields = decoded(self._connection.read(response))
            answer.messages += 1
            _usage(fields, answer)
            answer.finish_reason = str(fields["choices"][0].get("finish_reason") or "")
            return
        for data in self._connection.events(response):
            now = clock()
            if data == b"[DONE]":
                continue
            fields = decoded(data)
            answer.messages += 1
            if "error" in fields:
                raise InternalError(_message(data))
            _usage(fields, answer)
            for choice in fields.get("choices") or ():
                answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
                if (choice.get("delta") or {}).get("content") and answer.came(now):
                    self._connection.close()
                    return

    def close(self) -> None:
        self._connection.close()


def _body(model: str, generation: Generation, stream: bool) -> dict[str, Any]:
    messages: list[Any] = list(generation.messages or ()) or [{"role": "user", "content": generation.prompt}]
    values = {
        "model": model,
        "messages": messages,
        "max_tokens": generation.max_tokens,
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "seed": generation.seed,
        "stop": list(generation.stop) or None,
        "stream": stream,
        "stream_options": {"include_usage": True} if stream else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _usage(fields: dict[str, Any], answer: Answer) -> None:
    usage = fields.get("usage") or {}
    answer.input_tokens = int(usage.get("prompt_tokens") or answer.input_tokens)
    answer.output_tokens = int(usage.get("completion_tokens") or answer.output_tokens)


def _message(text: bytes) -> str:
    try:
        return str(decoded(text)["error"]["message"])
    except (TriremeError, KeyError, TypeError):
        return text[:500].decode("utf-8", "replace")
