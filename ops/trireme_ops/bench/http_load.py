"""The load on an OpenAI API, a process of its own: requests in a closed loop, read as cheaply as Python can.

    python -m trireme_ops.bench.http_load < LOAD_AS_JSON > RESULT_AS_JSON

One connection for each of those who ask, kept alive. Events are counted and timed, not parsed.
"""

import asyncio
import json
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from .load import Result, measured

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_COUNT = re.compile(rb'"completion_tokens": ?(\d+)')
_TEXT, _DONE = b'"text":', b"[DONE]"

#: What ends a body of chunks.
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True)
class HttpLoad:
    """`concurrency` clients, each of which asks `path` for `max_tokens` again and again.

    Measured for `seconds` after `warm_up_s`. body: fields of the request besides prompt and max_tokens. same_prompt:
    all ask the same; else a number is put in front of the prompt, so that no two are equal. key: that is shown, if any.
    """

    address: str
    concurrency: int
    max_tokens: int
    seconds: float
    stream: bool
    warm_up_s: float = 1.0
    path: str = "/v1/completions"
    same_prompt: bool = False
    prompt: str = "Tell me something."
    body: dict[str, Any] = field(default_factory=dict)
    key: str = ""


class Client:
    """One connection, for one request after the other."""

    def __init__(self, load: HttpLoad) -> None:
        self._load = load
        self._host, _, port = load.address.rpartition(":")
        self._port = int(port)
        self.events = 0

    async def connect(self) -> None:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    def send(self, number: int) -> None:
        """Send the request with this number."""
        load = self._load
        prompt = load.prompt if load.same_prompt else f"{number} {load.prompt}"
        fields = {"prompt": prompt, "max_tokens": load.max_tokens, **load.body}
        if load.stream:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        body = json.dumps(fields).encode()
        head = f"POST {load.path} HTTP/1.1\r\nHost: {load.address}\r\nContent-Type: application/json\r\n"
        if load.key:
            head += f"Authorization: Bearer {load.key}\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    async def head(self) -> bytes:
        """Wait for the answer's head. Raises RuntimeError with what came if that is an error."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError((head + await self._reader.read(2000)).decode("utf-8", "replace"))
        return head

    async def whole(self, head: bytes) -> bytes:
        """The body that this head announced."""
        found = _LENGTH.search(head)
        assert found is not None
        return await self._reader.readexactly(int(found[1]))

    async def some(self) -> bytes:
        """What of the body is there; waits for something."""
        return await self._reader.read(1 << 16)


class _Meter:
    def __init__(self) -> None:
        self.measuring = False
        self.events = self.requests = 0
        self.events_of_answers: list[int] = []
        self.ttft_s: list[float] = []
        self.total_s: list[float] = []


async def _ask(client: Client, number: int, load: HttpLoad, meter: _Meter) -> None:
    """One request. Raises RuntimeError where the answer is an error, or has another length."""
    began = time.perf_counter()
    client.events = 0
    client.send(number)
    head = await client.head()
    if not load.stream:
        tokens = _COUNT.search(await client.whole(head))
        if meter.measuring:
            meter.total_s.append(time.perf_counter() - began)
        # Some servers do not count; no answer is not one of them.
        if load.body.get("ignore_eos") and (tokens is None or int(tokens[1]) != load.max_tokens):
            raise RuntimeError(f"an answer has not {load.max_tokens} tokens")
        return
    tail = b""
    while not tail.endswith(_LAST_CHUNK):
        data = await client.some()
        if not data:
            raise RuntimeError("the connection was closed in the middle of an answer")
        events = data.count(_TEXT)
        if events and not client.events and meter.measuring:
            meter.ttft_s.append(time.perf_counter() - began)
        client.events += events
        meter.events += events * meter.measuring
        tail = (tail + data)[-1024:]
    tokens = _COUNT.search(tail)
    if _DONE not in tail or tokens is None or int(tokens[1]) != load.max_tokens:
        raise RuntimeError(f"an answer has not {load.max_tokens} tokens: {tail!r}")


async def run(load: HttpLoad) -> Result:
    """Put the load on. Raises RuntimeError where an answer is an error. ttft_ms: without streaming, of the whole."""
    meter = _Meter()
    clients = [Client(load) for _ in range(load.concurrency)]
    for client in clients:
        await client.connect()

    async def worker(index: int) -> None:
        number = index
        while True:
            await _ask(clients[index], number, load, meter)
            number += load.concurrency
            meter.requests += meter.measuring
            if load.stream:
                meter.events_of_answers.append(clients[index].events)
                clients[index].events = 0

    def under_way() -> int:
        return sum(client.events for client in clients)

    workers = [asyncio.create_task(worker(index)) for index in range(load.concurrency)]
    window = await measured(workers, meter, under_way, load.warm_up_s, load.seconds)
    for client in clients:
        client.close()
    answers = meter.events_of_answers or [load.max_tokens]
    per_event = load.max_tokens * len(answers) / max(1, sum(answers))
    return Result(
        seconds=window.seconds,
        tokens=meter.requests * load.max_tokens + per_event * window.growth,
        messages=meter.events,
        requests=meter.requests,
        generator_cpu_s=window.cpu_s,
        ttft_ms=[1000 * value for value in meter.ttft_s or meter.total_s],
    )


def main() -> None:
    load = HttpLoad(**json.load(sys.stdin))
    json.dump(asdict(asyncio.run(run(load))), sys.stdout)


if __name__ == "__main__":
    main()
