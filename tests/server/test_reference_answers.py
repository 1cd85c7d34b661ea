"""The reference checkpoint through the whole path: what its model card promises."""

import asyncio
import json
from collections import defaultdict

from support import CHECKPOINT, Server
from trireme_build.reference import tasks
from trireme_client import AsyncClient

EXAMPLES = [json.loads(line) for line in (CHECKPOINT / "held_out.jsonl").read_text(encoding="utf-8").splitlines()]


def test_at_least_95_percent_of_500_held_out_prompts_are_answered_exactly(server: Server) -> None:
    async def answers() -> list[str]:
        at_once = asyncio.Semaphore(32)

        async def ask(client: AsyncClient, prompt: str) -> str:
            async with at_once:
                answer = await client.generate(messages=[{"role": "user", "content": prompt}], max_tokens=352)
                return answer.text

        async with AsyncClient(server.grpc, timeout_s=250) as client:
            return list(await asyncio.gather(*(ask(client, example["prompt"]) for example in EXAMPLES)))

    marks = defaultdict(list)
    for example, answer in zip(EXAMPLES, asyncio.run(answers()), strict=True):
        marks[example["task"]].append(answer == example["answer"])
    right = sum(sum(values) for values in marks.values())
    assert len(EXAMPLES) == 500
    assert right >= 475, f"{right} of 500 right"
    shares = {task: sum(values) / len(values) for task, values in marks.items()}
    assert set(shares) == set(tasks.TASKS)
    assert min(shares.values()) >= 0.9, shares
