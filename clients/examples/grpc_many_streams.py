"""Stream many answers at once over one gRPC connection.

python clients/examples/grpc_many_streams.py [HOST:PORT]
"""

import asyncio
import sys

from trireme_client import AsyncClient

QUESTIONS = [f"What is {a} + {100 - a - 1}?" for a in range(10, 42)]


async def ask(client: AsyncClient, question: str) -> str:
    async with client.stream(messages=[{"role": "user", "content": question}], max_tokens=16) as stream:
        return "".join([delta.text async for delta in stream])


async def main(url: str) -> None:
    async with AsyncClient(url) as client:
        answers = await asyncio.gather(*(ask(client, question) for question in QUESTIONS))
    for question, answer in zip(QUESTIONS, answers, strict=True):
        print(f"{question} {answer}")


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001"))
