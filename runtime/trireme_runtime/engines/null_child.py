"""The process of the null engine: steps that compute nothing, in the order and with the limits of a real engine."""

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trireme_runtime.contract import FinishReason
from trireme_runtime.engines.base import (
    CacheUse,
    EngineEvent,
    EngineLimits,
    EngineRequest,
    EngineSettings,
    EngineStep,
    EngineTimes,
)
from trireme_runtime.engines.engine_child import run

#: How many ids are drawn; an answer goes round and round in them.
TABLE_IDS = 4096


def draw_table(config: dict[str, Any]) -> list[int]:
    """The ids that all answers are made of, drawn with the seed of `config`."""
    silent = set(config.get("silent_ids", ()))
    usable = [index for index in range(int(config["vocab_size"])) if index not in silent]
    return random.Random(int(config.get("seed", 0))).choices(usable, k=TABLE_IDS)


def known_ids(table: Sequence[int], seed: int | None, count: int) -> list[int]:
    """The first `count` ids of the answer to any request with `seed`."""
    start = (seed or 0) % TABLE_IDS
    return [table[(start + index) % TABLE_IDS] for index in range(count)]


@dataclass
class _Running:
    """A request; blocks: those of the KV cache that it would hold. due: when its next token comes, if set."""

    request: EngineRequest
    position: int
    count: int = 0
    first_scheduled_ns: int = 0
    first_token_ns: int = 0
    blocks: int = 0
    due: float = 0.0


#: How long the engine sleeps at a time where the times of each request are set: so late, a new one is noticed.
_NAP_S = 0.0005


class NullGenerator:
    """Requests join and leave between steps; at most max_num_seqs run, the others wait in their order."""

    def __init__(self, folder: Path, settings: EngineSettings) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.limits = EngineLimits(
            vocab_size=int(config["vocab_size"]),
            max_context_tokens=int(config["max_position_embeddings"]),
            kv_cache_tokens=settings.kv_cache_tokens,
            max_num_seqs=settings.max_num_seqs,
        )
        steps_per_s = float(config.get("steps_per_s", 0))
        self._step_s = 1 / steps_per_s if steps_per_s else 0.0
        self._first_s = float(config.get("first_token_ms", 0)) / 1000
        self._token_s = float(config.get("token_ms", 0)) / 1000
        self._is_timed = self._first_s > 0 or self._token_s > 0
        self._table = draw_table(config)
        self._active: dict[int, _Running] = {}
        self._blocks = 0
        self._next_step = 0.0
        self._steps_until_hang = int(config.get("hang_after_steps", -1))
        self._hang_pause_s = 0.0 if config.get("hang") == "spin" else 3600.0

    @property
    def idle(self) -> bool:
        return not self._active

    def submit(self, request: EngineRequest, *_further: Any) -> list[EngineEvent]:
        running = _Running(request, (request.sampling.seed or 0) % TABLE_IDS)
        if self._is_timed:
            running.first_scheduled_ns = time.monotonic_ns()
            running.due = time.monotonic() + self._first_s
        self._active[request.key] = running
        return []

    def cancel(self, key: int) -> list[EngineEvent]:
        running = self._active.pop(key, None)
        if running is None:
            return []
        self._blocks -= running.blocks
        return [self._with_report(running, EngineEvent(key, finish_reason=FinishReason.CANCELLED))]

    def settle(self) -> None:
        """Nothing is kept of what was cancelled."""

    def step(self) -> EngineStep:
        if self._step_s:
            self._wait_for_step()
        while self._steps_until_hang == 0:
            time.sleep(self._hang_pause_s)
        self._steps_until_hang -= 1
        now_ns = time.monotonic_ns()
        keys: list[int] = []
        ids: list[int] = []
        events: list[EngineEvent] = []
        now = time.monotonic()
        for key, running in self._active.items():
            if len(keys) + len(events) == self.limits.max_num_seqs:
                break
            if self._is_timed:
                if running.due > now:
                    continue
                running.due += self._token_s
            token = self._table[running.position]
            running.position = (running.position + 1) % TABLE_IDS
            running.count += 1
            if running.count == 1:
                running.first_token_ns = now_ns
                running.first_scheduled_ns = running.first_scheduled_ns or now_ns
            if running.count == running.request.max_new_tokens:
                event = EngineEvent(key, (token,), FinishReason.LENGTH)
                events.append(self._with_report(running, event))
            elif running.request.reports:
                events.append(self._with_report(running, EngineEvent(key, (token,))))
            else:
                keys.append(key)
                ids.append(token)
            blocks = self.limits.blocks_for(len(running.request.input_ids) + running.count)
            if blocks != running.blocks:
                self._blocks += blocks - running.blocks
                running.blocks = blocks
        for event in events:
            if event.is_last:
                self._blocks -= self._active.pop(event.key).blocks
        if self._is_timed and not keys and not events:
            time.sleep(_NAP_S)
        return EngineStep(keys, ids, events, self._blocks)

    def _wait_for_step(self) -> None:
        """Keep to the rate; what was missed is not made up for."""
        now = time.monotonic()
        if now < self._next_step:
            time.sleep(self._next_step - now)
        self._next_step = max(now, self._next_step) + self._step_s

    @staticmethod
    def _with_report(running: _Running, event: EngineEvent) -> EngineEvent:
        times = EngineTimes(running.first_scheduled_ns, running.first_token_ns, time.monotonic_ns())
        cache = CacheUse(new_blocks=running.blocks)
        return EngineEvent(event.key, event.ids, event.finish_reason, times=times, cache=cache)


if __name__ == "__main__":
    run(NullGenerator)
