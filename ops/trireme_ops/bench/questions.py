"""Clients that know the answers, a process of its own: every answer of a server is checked, and its times are kept.

    python -m trireme_ops.bench.questions < QUESTIONS_AS_JSON > ASKED_AS_JSON_LINES

It asks until its standard input ends. Streaming and unary clients each wait for their answer and, with `pace_s`, for
their next turn; so the load is what it is told, and a stream that waits delays its own client alone.
"""

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from trireme_client import AsyncClient, Generation, TriremeError


@dataclass(frozen=True)
class Questions:
    """What to ask of the LLM `model` at `address`: (prompt, answer) pairs, by so many clients of each kind.

    pace_s: each client's mean time between two questions, 0 to ask as soon as there is an answer. max_tokens: of each
    answer. questions that streams ask and those that unary calls do may differ.
    """

    address: str
    streamed: Sequence[tuple[str, str]]
    unary: Sequence[tuple[str, str]]
    streaming_clients: int = 16
    unary_clients: int = 16
    pace_s: float = 0.0
    max_tokens: int = 200
    timeout_s: float = 120.0
    model: str = "ensemble"


@dataclass(frozen=True)
class Asked:
    """One question's fate. at: when it was asked, of the system's monotonic clock. wrong: what was said instead."""

    kind: str
    at: float
    total_s: float
    ttft_s: float | None = None
    error: str | None = None
    wrong: str | None = None


async def _stream(client: AsyncClient, generation: Generation) -> tuple[str, float | None]:
    began, ttft_s, texts = time.monotonic(), None, []
    async with client.stream(generation) as stream:
        async for delta in stream:
            if ttft_s is None:
                ttft_s = time.monotonic() - began
            texts.append(delta.text)
        if stream.completion.finish_reason not in ("stop", "length"):
            raise TriremeError(f"the stream ended with {stream.completion.finish_reason}")
    return "".join(texts), ttft_s


async def _ask(questions: Questions, client: AsyncClient, kind: str, question: tuple[str, str]) -> Asked:
    prompt, expected = question
    generation = Generation(
        messages=[{"role": "user", "content": prompt}], max_tokens=questions.max_tokens, temperature=0.0
    )
    at, ttft_s = time.monotonic(), None
    try:
        if kind == "stream":
            text, ttft_s = await _stream(client, generation)
        else:
            text = (await client.generate(generation)).text
    except TriremeError as error:
        return Asked(kind, at, time.monotonic() - at, error=f"{type(error).__name__}: {error}")
    return Asked(kind, at, time.monotonic() - at, ttft_s, wrong=None if text == expected else text)


async def _client(questions: Questions, kind: str, number: int, ended: asyncio.Event, asked: list[Asked]) -> None:
    chance = random.Random(f"{kind} {number}")
    choices = questions.streamed if kind == "stream" else questions.unary
    turn = number
    next_at = time.monotonic() + chance.uniform(0, questions.pace_s)
    async with AsyncClient(questions.address, questions.model, questions.timeout_s) as client:
        while not ended.is_set():
            delay_s = next_at - time.monotonic()
            if delay_s > 0:
                await asyncio.sleep(min(delay_s, 0.2))
                continue
            next_at = max(next_at, time.monotonic() - questions.pace_s) + questions.pace_s * chance.uniform(0.5, 1.5)
            asked.append(await _ask(questions, client, kind, choices[turn % len(choices)]))
            turn += 1


async def _run(questions: Questions) -> list[Asked]:
    ended, asked = asyncio.Event(), list[Asked]()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), lambda: ended.set() if not os.read(sys.stdin.fileno(), 4096) else None)
    clients = [("stream", number) for number in range(questions.streaming_clients)]
    clients += [("unary", number) for number in range(questions.unary_clients)]
    await asyncio.gather(*(_client(questions, kind, number, ended, asked) for kind, number in clients))
    return asked


def main() -> None:
    questions = Questions(**json.loads(sys.stdin.readline()))
    for one in asyncio.run(_run(questions)):
        print(json.dumps(asdict(one)))


if __name__ == "__main__":
    main()
