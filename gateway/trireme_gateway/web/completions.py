"""/v1/chat/completions and /v1/completions."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from pydantic import BaseModel

from trireme_client import Answer, Cancelled, Delta, InternalError, InvalidArgument, TriremeError
from trireme_client.wire import Collector

from ..api.errors import CLIENT_LEFT, BadRequest, ModelNotFound, body_of, headers_of, status_of, type_of
from ..api.fields import ChatRequest
from ..api.translate import ALL_THAT_IS_LEFT, Wish, of_server, parse
from ..api.wording import DONE, Heading, Usage, Wording
from ..cache.key import is_exact
from ..fleet.ask import Ask, cost_of, prompt_text
from ..log import log
from ..metrics import Metrics
from ..service import Reply, Service
from ..settings import Limits, ModelName
from .exchange import Exchange
from .reading import Disconnected, Receive, Scope, Send, read_body

_JSON = b"application/json"
_EVENTS = b"text/event-stream; charset=utf-8"

#: For proxies that would collect events.
_STREAM_HEADERS = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


class Completions:
    """One of the endpoints, as an ASGI application.

    body: what is sent to it; wish_of: what that asks for; wording: how it is answered.
    """

    def __init__(
        self,
        service: Service,
        metrics: Metrics,
        endpoint: str,
        body: type[BaseModel],
        wish_of: Callable[[Any, Limits], Wish],
        wording: type[Wording],
    ) -> None:
        self._service = service
        self._metrics = metrics
        self._endpoint = endpoint
        self._body = body
        self._wish_of = wish_of
        self._wording = wording

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        exchange = Exchange(scope, self._endpoint, self._metrics, self._service.accounting, self._service.traces)
        watcher: asyncio.Task[None] | None = None
        try:
            try:
                await exchange.identify()
                body = await read_body(receive, self._service.settings.limits)
                watcher = asyncio.create_task(_watch(receive, exchange, _current()))
                await self._answer(exchange, body, send)
            except InvalidArgument as error:
                is_ours = isinstance(error, BadRequest)
                known = error if is_ours else of_server(error, self._body is ChatRequest, exchange.guided_by)
                await self._fail(exchange, known, send)
            except TriremeError as error:
                await self._fail(exchange, error, send)
            except (asyncio.CancelledError, Disconnected):
                raise
            except Exception as error:
                log.exception("unexpected error", request_id=exchange.request_id)
                unexpected = InternalError(f"unexpected {type(error).__name__} in the gateway; its log has more")
                await self._fail(exchange, unexpected, send)
        except Disconnected:
            exchange.status = CLIENT_LEFT
        except asyncio.CancelledError:
            exchange.status = CLIENT_LEFT
            if not exchange.left:
                raise
        finally:
            if watcher is not None:
                watcher.cancel()
            exchange.end()

    async def _answer(self, exchange: Exchange, body: bytes, send: Send) -> None:
        settings = self._service.settings
        wish = self._wish_of(parse(self._body, body), settings.limits)
        model = next((model for model in settings.model if model.id == wish.model), None)
        if model is None:
            names = ", ".join(model.id for model in settings.model)
            raise ModelNotFound(f"there is no model {wish.model[:80]!r}; there are {names}")
        exchange.model, exchange.guided_by, exchange.user = model.id, wish.guided_by, wish.user
        if exchange.trace is not None:
            exchange.trace.asked(model.id, wish.generations[0], wish.choices, wish.stream)
        asks = [self._ask(exchange, wish, model, number) for number in range(len(wish.generations))]
        await exchange.reserve(asks)
        replies = await _all([self._service.answer(ask) for ask in asks])
        for reply in replies:
            exchange.first_pieces(reply)
        if exchange.trace is not None and wish.stream:
            exchange.trace.first_token()
        heading = Heading(_id(self._wording), int(time.time()), model.id, replies[0].release.name)
        wording = self._wording(heading, wish.log_probs, wish.include_usage)
        collectors = [Collector() for _ in replies]
        try:
            if wish.stream:
                await self._stream(exchange, wish, wording, replies, collectors, send)
            else:
                await self._whole(exchange, wish, wording, replies, collectors, send)
        finally:
            for reply in replies:
                reply.close()
            for reply, collector in zip(replies, collectors, strict=True):
                exchange.counted(reply, *collector.counts, collector.finish_reason)
            if self._service.accounting.keeps_transcripts:
                for ask, collector in zip(asks, collectors, strict=True):
                    exchange.keep(prompt_text(ask.generation), collector.completion.text)
            if exchange.trace is not None:
                answers = [answer for collector in collectors for answer in collector.completion.answers]
                exchange.trace.answered(heading.id, answers)
        for ask, collector in zip(asks, collectors, strict=True):
            if settings.shadow:
                self._service.shadows.copy(ask, settings.shadow, collector.completion.text, is_exact(ask))

    def _ask(self, exchange: Exchange, wish: Wish, model: ModelName, number: int) -> Ask:
        settings, generation = self._service.settings, wish.generations[number]
        prompt = prompt_text(generation)
        tokens = generation.max_tokens
        if tokens == ALL_THAT_IS_LEFT:
            tokens = min(settings.queue.reserve_tokens, model.context_tokens or tokens)
        deadline_ms = exchange.deadline_ms()
        return Ask(
            request_id=exchange.request_id,
            model=model.id,
            llm=model.llm,
            generation=generation,
            stream=wish.stream,
            tenant=exchange.caller.tenant,
            caller=exchange.caller.name,
            session=exchange.session() or wish.session,
            priority=exchange.priority(),
            deadline=None if deadline_ms is None else self._service.fleet.now() + deadline_ms / 1000,
            prefix=prompt[: settings.prefix_chars],
            cost=cost_of(generation, prompt, tokens),
            may_cache=exchange.may_cache(),
            draw=exchange.draw,
            trace=exchange.trace,
        )

    async def _whole(
        self,
        exchange: Exchange,
        wish: Wish,
        wording: Wording,
        replies: list[Reply],
        collectors: list[Collector],
        send: Send,
    ) -> None:
        async for number, batch in _together(replies):
            for delta in batch:
                collectors[number].add(_checked(delta))
        answers: list[tuple[int, Answer]] = []
        for number, collector in enumerate(collectors):
            first = number * wish.choices
            answers += [(first + index, answer) for index, answer in enumerate(collector.completion.answers)]
        body = wording.whole(answers, _usage(collectors))
        exchange.over = True
        await exchange.start(send, 200, _JSON, [(b"content-length", b"%d" % len(body))])
        await send({"type": "http.response.body", "body": body})

    async def _stream(
        self,
        exchange: Exchange,
        wish: Wish,
        wording: Wording,
        replies: list[Reply],
        collectors: list[Collector],
        send: Send,
    ) -> None:
        await exchange.start(send, 200, _EVENTS, _STREAM_HEADERS)
        opened: set[int] = set()
        async for number, batch in _together(replies):
            events = ""
            for delta in batch:
                collectors[number].add(_checked(delta))
                index = number * wish.choices + delta.index
                if index not in opened:
                    opened.add(index)
                    events += wording.opening(index)
                events += wording.event(index, delta)
            if events:
                await send({"type": "http.response.body", "body": events.encode(), "more_body": True})
        end = wording.usage_event(_usage(collectors)).encode() if wish.include_usage else b""
        exchange.over = True
        await send({"type": "http.response.body", "body": end + DONE})

    async def _fail(self, exchange: Exchange, error: TriremeError, send: Send) -> None:
        body = body_of(error)
        if exchange.trace is not None:
            exchange.trace.failed(type_of(error))
        if exchange.started:
            # The status is sent already: an event says it, and no end that looks like one.
            await send({"type": "http.response.body", "body": b"data: " + body + b"\n\n"})
            exchange.status = status_of(error)
            return
        headers = [(b"content-length", b"%d" % len(body)), *headers_of(error)]
        if status_of(error) in (408, 413):
            headers.append((b"connection", b"close"))
        exchange.over = True
        await exchange.start(send, status_of(error), _JSON, headers)
        await send({"type": "http.response.body", "body": body})


def _current() -> "asyncio.Task[Any]":
    task = asyncio.current_task()
    assert task is not None
    return task


async def _watch(receive: Receive, exchange: Exchange, answering: "asyncio.Task[Any]") -> None:
    """End the answering when the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
    if not exchange.over:
        exchange.left = True
        answering.cancel()


async def _all(opening: list[Any]) -> list[Reply]:
    """The replies to all; if one fails, none."""
    if len(opening) == 1:
        return [await opening[0]]
    tasks = [asyncio.ensure_future(one) for one in opening]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        for done in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(done, Reply):
                done.close()
        raise


async def _together(replies: list[Reply]) -> AsyncIterator[tuple[int, list[Delta]]]:
    """The pieces of all, as they come, with the number of their reply."""
    if len(replies) == 1:
        async for batch in replies[0]:
            yield 0, batch
        return
    pieces: asyncio.Queue[tuple[int, list[Delta] | TriremeError | None]] = asyncio.Queue()

    async def read(number: int, reply: Reply) -> None:
        try:
            async for batch in reply:
                pieces.put_nowait((number, batch))
            pieces.put_nowait((number, None))
        except TriremeError as error:
            pieces.put_nowait((number, error))
        except BaseException as error:
            # Whoever waits for its pieces would wait for ever.
            unexpected = InternalError(f"unexpected {type(error).__name__} in the gateway; its log has more")
            pieces.put_nowait((number, unexpected))
            raise

    tasks = [asyncio.create_task(read(number, reply)) for number, reply in enumerate(replies)]
    try:
        left = len(replies)
        while left:
            number, piece = await pieces.get()
            if isinstance(piece, TriremeError):
                raise piece
            if piece is None:
                left -= 1
            else:
                yield number, piece
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


def _checked(delta: Delta) -> Delta:
    """A piece of an answer. Raises Cancelled where somebody else has ended it."""
    if delta.finish_reason in ("cancelled", "error"):
        raise Cancelled("the answer was ended by its server before it was complete")
    return delta


def _usage(collectors: list[Collector]) -> Usage:
    counts = [collector.counts for collector in collectors]
    return Usage(sum(prompt for prompt, _ in counts), sum(answer for _, answer in counts))


def _id(wording: type[Wording]) -> str:
    return f"{'chatcmpl' if wording.kind == 'chat.completion' else 'cmpl'}-{uuid.uuid4().hex}"
