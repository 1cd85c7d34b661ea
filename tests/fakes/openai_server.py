"""A server with OpenAI's chat completions, which refuses what OpenAI's would, and sends its tokens at set times."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL, KEY = "ensemble", "secret"
FIRST_S, TOKEN_S = 0.1, 0.02

_KNOWN = {"model", "messages", "max_tokens", "temperature", "top_p", "seed", "stop", "stream", "stream_options"}


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        found = {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
        self._answer(200 if self.path == "/v1/models" else 404, found)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            request = self._checked(json.loads(body))
        except _Refused as error:
            self._answer(error.status, {"error": {"message": str(error), "type": "invalid_request_error"}})
            return
        if request.get("stream"):
            self._stream(request)
        else:
            time.sleep(FIRST_S)
            usage = {"prompt_tokens": 5, "completion_tokens": request["max_tokens"]}
            message = {"role": "assistant", "content": "a" * request["max_tokens"]}
            self._answer(200, {"choices": [{"message": message, "finish_reason": "length"}], "usage": usage})

    def _checked(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.path != "/v1/chat/completions":
            raise _Refused(404, f"no path {self.path}")
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            raise _Refused(401, "wrong key")
        unknown = set(request) - _KNOWN
        if unknown:
            raise _Refused(400, f"unknown fields {sorted(unknown)}")
        if "busy" in request["messages"][0]["content"]:
            raise _Refused(429, "too many requests")
        return request

    def _stream(self, request: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("x-trireme-release", "r7")
        self.end_headers()
        self._event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        due = time.monotonic() + FIRST_S
        for number in range(request["max_tokens"]):
            time.sleep(max(0.0, due - time.monotonic()))
            due += TOKEN_S
            last = number == request["max_tokens"] - 1
            choice = {"index": 0, "delta": {"content": "a"}, "finish_reason": "length" if last else None}
            self._event({"choices": [choice]})
        if (request.get("stream_options") or {}).get("include_usage"):
            self._event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": request["max_tokens"]}})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, fields: dict[str, Any]) -> None:
        self._chunk(f"data: {json.dumps(fields)}\n\n".encode())

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _answer(self, status: int, fields: Any) -> None:
        body = json.dumps(fields).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def openai_server() -> Iterator[str]:
    """Its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
