"""Reading the bodies of requests, as far as they are allowed to be long and slow."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ..errors import BodyTimeout, TooLarge
from ..settings import Limits

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: How much is read of a body that is too long, and thrown away, so that a client that writes first hears why it is
#: refused: so many times the allowed length, and at least so many bytes.
_PATIENCE, _PATIENCE_BYTES = 8, 16 << 20


class Disconnected(Exception):
    """The client left before its request was whole."""


async def read_body(receive: Receive, limits: Limits) -> bytes:
    """The body. Raises TooLarge, BodyTimeout or Disconnected."""
    task = asyncio.current_task()
    assert task is not None
    late = False

    def end() -> None:
        nonlocal late
        late = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(limits.body_timeout_s, end)
    try:
        return await _read(receive, limits.max_body_bytes)
    except asyncio.CancelledError:
        if not late:
            raise
        if hasattr(task, "uncancel"):
            task.uncancel()
        raise BodyTimeout(f"the request's body did not come within {limits.body_timeout_s:g} s") from None
    finally:
        timer.cancel()


async def _read(receive: Receive, most: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Disconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= most:
            chunks.append(chunk)
        else:
            chunks.clear()
        more = message.get("more_body", False)
        if size > most and (not more or size > max(_PATIENCE * most, _PATIENCE_BYTES)):
            raise TooLarge(
                f"the request's body has {'more than ' if more else ''}{size} bytes; at most {most} are allowed"
            )
        if not more:
            return b"".join(chunks)
