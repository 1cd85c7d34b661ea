"""Copies of requests to a release on trial. What it answers is compared, counted and thrown away."""

import asyncio
from dataclasses import replace

from trireme_client import TriremeError
from trireme_runtime.admission import LOWEST_PRIORITY

from ..metrics import Metrics
from ..settings import Share
from .ask import Ask, Meter
from .fleet import Fleet
from .releases import is_shadowed
from .serving import Release

#: Copies that are under way at once.
_AT_ONCE = 8


class Shadows:
    """The copies of a gateway; they never hold up a request, and what happens to them is counted only."""

    def __init__(self, fleet: Fleet, metrics: Metrics) -> None:
        self._fleet = fleet
        self._metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()

    def copy(self, ask: Ask, shares: tuple[Share, ...], text: str, is_exact: bool) -> None:
        """Copy an answered request to those releases whose share it falls into; text: the answer to compare with."""
        for share in shares:
            if share.llm != ask.llm or not is_shadowed(share):
                continue
            if len(self._tasks) >= _AT_ONCE:
                self._metrics.shadowed(share.release, "skipped", None)
                continue
            task = asyncio.create_task(self._ask(ask, share.release, text, is_exact))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ask(self, ask: Ask, release: str, text: str, is_exact: bool) -> None:
        began = self._fleet.now()
        copied = replace(
            ask, stream=True, priority=LOWEST_PRIORITY, deadline=None, is_copy=True, meter=Meter(), trace=None
        )
        try:
            answering = await self._fleet.open(copied, Release(release, release))
            ttft_s = self._fleet.now() - began
            texts = [delta.text async for batch in answering for delta in batch if delta.index == 0]
        except TriremeError:
            self._metrics.shadowed(release, "failed", None)
            return
        outcome = ("equal" if "".join(texts) == text else "different") if is_exact else "not_compared"
        self._metrics.shadowed(release, outcome, ttft_s)

    async def stop(self) -> None:
        """End them."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
