"""One request and its answer: what was asked for in its headers, what came of it, and the line in the log."""

import logging
import random
import re
import time
import uuid
from collections.abc import Mapping

from trireme_runtime.admission import HIGHEST_PRIORITY, LOWEST_PRIORITY

from ..api.errors import BadRequest
from ..identity import Caller, caller_of
from ..log import access
from ..metrics import Metrics
from ..service import Reply
from ..traces import RequestTrace, Traces
from .reading import Scope, Send

#: What a client's request id may be: one word, which cannot be taken for others in a line of the log.
_ID = re.compile(rb"[!-~]{1,128}")

_NUMBER = re.compile(rb"-?[0-9]{1,9}")

PRIORITY_HEADER, DEADLINE_HEADER, SESSION_HEADER = "x-trireme-priority", "x-trireme-deadline-ms", "x-trireme-session"
_MAX_DEADLINE_MS = 24 * 3_600_000


class Exchange:
    """Of one request. status: of HTTP, or 499 where the client left."""

    def __init__(self, scope: Scope, endpoint: str, metrics: Metrics, traces: Traces | None = None) -> None:
        self.began = time.perf_counter()
        self.headers: Mapping[bytes, bytes] = dict(scope["headers"])
        self.endpoint = endpoint
        self.request_id = self._id()
        self.caller: Caller = caller_of(self.headers, scope.get("client"))
        self.model = ""
        #: The field that an answer must match, if there is one.
        self.guided_by: str | None = None
        #: Decides by chance about the release, for all of its prompts.
        self.draw = random.random()
        self.status = 500
        self.started = False
        self.left = False
        self.over = False
        self._reply: Reply | None = None
        self._tokens: tuple[int, int] = (0, 0)
        self._metrics = metrics
        self.trace: RequestTrace | None = None
        if traces is not None:
            self.trace = traces.request(endpoint, self.headers, self.request_id, scope.get("server"))
        metrics.began()

    def _id(self) -> str:
        given = self.headers.get(b"x-request-id", b"")
        if _ID.fullmatch(given):
            return given.decode("ascii")
        return uuid.uuid4().hex

    def priority(self) -> int:
        """Of the header. Raises BadRequest."""
        return self._number(PRIORITY_HEADER, 0, LOWEST_PRIORITY, HIGHEST_PRIORITY)

    def deadline_ms(self) -> int | None:
        """Of the header, from the request's arrival on; None where there is none. Raises BadRequest."""
        return self._number(DEADLINE_HEADER, 0, 1, _MAX_DEADLINE_MS) or None

    def session(self) -> str | None:
        """Of the header."""
        given = self.headers.get(SESSION_HEADER.encode())
        return None if not given else given[:512].decode("latin-1")

    def may_cache(self) -> bool:
        """Whether the client allows an answer from the cache."""
        wanted = self.headers.get(b"cache-control", b"").lower()
        return b"no-cache" not in wanted and b"no-store" not in wanted

    def _number(self, name: str, default: int, lowest: int, highest: int) -> int:
        given = self.headers.get(name.encode())
        if given is None:
            return default
        value = int(given) if _NUMBER.fullmatch(given) else lowest - 1
        if not lowest <= value <= highest:
            shown = given[:40].decode("latin-1")
            raise BadRequest(f"the header {name} is {shown!r}; a whole number from {lowest} to {highest} is needed")
        return value

    def first_pieces(self, reply: Reply) -> None:
        """The first pieces of an answer are there; of several answers, those that came first."""
        self._metrics.first_token(self.model, reply.release.name, reply.cache, time.perf_counter() - self.began)
        if self._reply is None:
            self._reply = reply

    def counted(self, prompt: int, answer: int) -> None:
        """An answer has ended, with so many tokens."""
        self._tokens = (self._tokens[0] + prompt, self._tokens[1] + answer)

    def response_headers(self) -> list[tuple[bytes, bytes]]:
        """What every answer says about itself."""
        found = [(b"x-request-id", self.request_id.encode("ascii"))]
        if self._reply is not None:
            found += [
                (b"x-trireme-release", self._reply.release.name.encode()),
                (b"x-trireme-cache", self._reply.cache.encode()),
                (b"openai-processing-ms", b"%d" % (1000 * (time.perf_counter() - self.began))),
            ]
            if self._reply.server:
                found.append((b"x-trireme-server", self._reply.server.encode()))
        return found

    async def start(self, send: Send, status: int, content_type: bytes, more: list[tuple[bytes, bytes]]) -> None:
        """Begin to answer."""
        self.status = status
        self.started = True
        headers = [(b"content-type", content_type), *self.response_headers(), *more]
        await send({"type": "http.response.start", "status": status, "headers": headers})

    def end(self) -> None:
        """Count it, and write its line."""
        self.over = True
        seconds = time.perf_counter() - self.began
        self._metrics.ended(self.endpoint, self.model, self.status, seconds)
        reply = self._reply
        if self.trace is not None:
            release, cache = (reply.release.name, reply.cache) if reply else (None, None)
            self.trace.end(self.status, self._tokens, release, cache)
        if not access.isEnabledFor(logging.INFO):
            return
        access.info(
            "%s %d %.1fms id=%s model=%s release=%s server=%s cache=%s tokens=%d+%d",
            self.endpoint,
            self.status,
            1000 * seconds,
            self.request_id,
            self.model or "-",
            reply.release.name if reply else "-",
            (reply.server if reply else "") or "-",
            reply.cache if reply else "-",
            *self._tokens,
        )
