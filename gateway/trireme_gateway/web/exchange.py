"""One request and its answer: what was asked for in its headers, what came of it, and the line in the log."""

import random
import re
import time
import uuid
from collections.abc import Mapping, Sequence

from trireme_runtime.admission import HIGHEST_PRIORITY, LOWEST_PRIORITY

from ..accounting import Accounting
from ..accounts.clock import now_ms
from ..api.errors import CLIENT_LEFT, BadRequest
from ..errors import QuotaExceeded
from ..fleet.ask import Ask
from ..identity import Caller
from ..ledger.rows import Row
from ..log import access, writes_access
from ..metrics import Metrics
from ..objectives import judge
from ..quota.quotas import Reservation
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

    def __init__(
        self, scope: Scope, endpoint: str, metrics: Metrics, accounting: Accounting, traces: Traces | None = None
    ) -> None:
        self.began = time.perf_counter()
        self.arrived_ms = now_ms()
        self.headers: Mapping[bytes, bytes] = dict(scope["headers"])
        self.endpoint = endpoint
        self.request_id = self._id()
        self.caller = Caller("", "")
        self.is_known = False
        self.over_quota = False
        self.user: str | None = None
        self.reservation: Reservation | None = None
        self.asks: Sequence[Ask] = ()
        self.finish_reason = ""
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
        self._ttft_s: float | None = None
        #: As the client was told them; and how many of them were not computed for it.
        self._tokens: tuple[int, int] = (0, 0)
        self._cached: tuple[int, int] = (0, 0)
        self._client = scope.get("client")
        self._metrics = metrics
        self._accounting = accounting
        self.trace: RequestTrace | None = None
        if traces is not None:
            self.trace = traces.request(endpoint, self.headers, self.request_id, scope.get("server"))
        metrics.began()

    async def identify(self) -> None:
        """See who asks. Raises Unauthorized, or ResourceExhausted where too many unknown keys come at once."""
        self.caller = await self._accounting.caller_of(self.headers, self._client)
        self.is_known = True

    async def reserve(self, asks: Sequence[Ask]) -> None:
        """Take what they may need of the caller's quotas. Raises QuotaExceeded, Forbidden or Unavailable."""
        self.asks = asks
        try:
            self.reservation = await self._accounting.reserve(self.caller, self.model, asks)
        except QuotaExceeded as error:
            self.over_quota = True
            self._metrics.over_quota(error.code)
            raise

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
        ttft_s = time.perf_counter() - self.began
        streamed = any(ask.stream for ask in self.asks)
        self._metrics.first_token(self.model, reply.release.name, reply.cache, streamed, ttft_s)
        if self._reply is None:
            self._reply, self._ttft_s = reply, ttft_s

    def counted(self, reply: Reply, prompt: int, answer: int, finish_reason: str | None) -> None:
        """An answer has ended, with so many tokens."""
        self._tokens = (self._tokens[0] + prompt, self._tokens[1] + answer)
        if reply.cache in ("hit", "joined"):
            self._cached = (self._cached[0] + prompt, self._cached[1] + answer)
        self.finish_reason = self.finish_reason or finish_reason or ""

    def response_headers(self) -> list[tuple[bytes, bytes]]:
        """What every answer says about itself."""
        found = [(b"x-request-id", self.request_id.encode("ascii"))]
        if self.reservation is not None:
            found += self.reservation.limits
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
        """Count it, write its line, and account for it."""
        self.over = True
        seconds = time.perf_counter() - self.began
        self._metrics.ended(self.endpoint, self.model, self.status, seconds)
        if self.trace is not None:
            reply = self._reply
            release, cache = (reply.release.name, reply.cache) if reply else (None, None)
            self.trace.end(self.status, self._taken(), release, cache)
        if all(ask.meter.is_known for ask in self.asks):
            self._settle(seconds)
        else:
            self._accounting.later(self._settle_when_known(seconds))

    async def _settle_when_known(self, seconds: float) -> None:
        for ask in self.asks:
            await ask.meter.wait()
        self._settle(seconds)

    def _settle(self, seconds: float) -> None:
        row = self._row(seconds)
        if self.is_known:
            self._accounting.settle(self.reservation, row)
            self._judge(row)
        if writes_access():
            access.info(
                "request",
                endpoint=row.endpoint,
                status=row.status,
                ms=round(row.total_ms, 1),
                request_id=row.request_id,
                tenant=row.tenant,
                key=row.key_id,
                model=row.model,
                release=row.release,
                server=row.server,
                cache=row.cache,
                tokens_in=row.tokens_in,
                tokens_out=row.tokens_out,
                finish_reason=row.finish_reason,
            )

    def _judge(self, row: Row) -> None:
        """Say whether it kept what clients are promised."""
        streamed = any(ask.stream for ask in self.asks)
        sequences = sum(ask.cost.sequences for ask in self.asks)
        judged = judge(row, self._accounting.slo, streamed, sequences, self.over_quota)
        if judged is None:
            return
        self._metrics.judged(row.model, row.release, judged.outcome.value)
        if judged.tpot_s is not None and row.cache not in ("hit", "joined"):
            self._metrics.token_time(row.model, row.release, judged.tpot_s)

    def _taken(self) -> tuple[int, int]:
        """Tokens of prompts and answers, those of answers that the client did not wait for, too."""
        meters = [ask.meter for ask in self.asks]
        prompts, answers = sum(one.prompt_tokens for one in meters), sum(one.answer_tokens for one in meters)
        return max(self._tokens[0], prompts), max(self._tokens[1], answers)

    def _row(self, seconds: float) -> Row:
        reply, caller = self._reply, self.caller
        tokens_in, tokens_out = self._taken()
        cached_in, cached_out = self._cached
        computed = (tokens_in - cached_in, tokens_out - cached_out)
        reason = "left" if self.status == CLIENT_LEFT else "error" if self.status >= 400 else self.finish_reason
        return Row(
            time_ms=self.arrived_ms,
            request_id=self.request_id,
            endpoint=self.endpoint,
            status=self.status,
            tenant=caller.tenant,
            key_id=caller.key.id if caller.key is not None else "",
            person=self._accounting.person_of(self.user),
            model=self.model,
            release=reply.release.name if reply else "",
            version=reply.release.version if reply else "",
            server=reply.server if reply else "",
            cache=reply.cache if reply else "",
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            tokens_cached=cached_in + cached_out,
            queue_ms=1000 * max((ask.meter.queue_s for ask in self.asks), default=0.0),
            ttft_ms=None if self._ttft_s is None else 1000 * self._ttft_s,
            total_ms=1000 * seconds,
            finish_reason=reason,
            cost_nano=self._accounting.cost_nano(self.model, *computed, cached_in + cached_out),
        )

    def keep(self, prompt: str, answer: str) -> None:
        """Keep what was said."""
        self._accounting.keep(self._row(0.0), prompt, answer)
