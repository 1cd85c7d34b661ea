"""One generation, as the gateway passes it on."""

import asyncio
import json
from dataclasses import dataclass, field

from trireme_client import Generation

from ..traces import RequestTrace

#: Bytes of a prompt that are taken for one token where a budget is kept; most tokenizers have more.
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class Cost:
    """What a generation takes of a server: sequences at once, and tokens of the KV cache at most; those of its prompt
    among them."""

    sequences: int
    tokens: int
    prompt_tokens: int = 0


class Meter:
    """What a generation has taken so far, whoever waits for it. queue_s: how long it waited for a server."""

    def __init__(self) -> None:
        self.queue_s = 0.0
        self.prompt_tokens = self.answer_tokens = 0
        self._pending = 0
        self._known = asyncio.Event()
        self._known.set()

    def counted(self, prompt: int, answer: int) -> None:
        """Tokens that were computed for it on a server, as far as that is known."""
        self.prompt_tokens = max(self.prompt_tokens, prompt)
        self.answer_tokens = max(self.answer_tokens, answer)

    def pend(self) -> None:
        """The server is asked to end it, and will say what it has taken."""
        self._pending += 1
        self._known.clear()

    def is_told(self) -> None:
        """It has said so, or never will."""
        self._pending -= 1
        if not self._pending:
            self._known.set()

    @property
    def is_known(self) -> bool:
        """Whether nothing more is to come."""
        return not self._pending

    async def wait(self) -> None:
        """Until nothing more is to come."""
        await self._known.wait()


@dataclass(frozen=True)
class Ask:
    """One generation for one LLM, which the client calls `model`.

    stream: whether its pieces are wanted as they come. tenant: whose answers it may be given from the cache. caller:
    whom it is counted for where requests wait. session: what belongs together, if that is known. deadline: when it is
    of no use any more, in s of the loop's clock. prefix: the beginning of its prompt. cost: an estimate; the servers
    count for themselves. may_cache: whether its answer may come from the cache. is_copy: nobody waits for its answer.
    draw: 0 to 1, the chance that decides about its release; the prompts of one request have it in common. meter: counts
    what it takes. trace: of the request, if it is traced.
    """

    request_id: str
    model: str
    llm: str
    generation: Generation
    stream: bool
    tenant: str = ""
    caller: str = ""
    session: str | None = None
    priority: int = 0
    deadline: float | None = None
    prefix: str = ""
    cost: Cost = field(default_factory=lambda: Cost(1, 1))
    may_cache: bool = True
    is_copy: bool = False
    draw: float = 0.0
    meter: Meter = field(default_factory=Meter, compare=False)
    trace: RequestTrace | None = None


def prompt_text(generation: Generation) -> str:
    """The prompt as one text: what begins alike has equal beginnings here."""
    if generation.messages is None:
        return generation.prompt or ""
    return json.dumps([[message["role"], message["content"]] for message in generation.messages], ensure_ascii=False)


def cost_of(generation: Generation, prompt: str, default_tokens: int) -> Cost:
    """Of a generation whose max_tokens is `default_tokens` where the client named none."""
    sequences = max(1, generation.n or 1)
    prompt_tokens = -(-len(prompt.encode("utf-8", "replace")) // _BYTES_PER_TOKEN)
    return Cost(sequences, prompt_tokens + sequences * default_tokens, prompt_tokens)
