"""Runs the CPU engine on an engine folder, without a server."""

import threading
from pathlib import Path

from trireme_runtime.engines.base import EngineEvent, EngineRequest, EngineSettings
from trireme_runtime.engines.openvino import OpenVinoEngine

SETTINGS = EngineSettings(max_num_seqs=64, max_num_tokens=512, kv_cache_tokens=32_768)


def run_all(folder: Path, requests: list[EngineRequest]) -> list[EngineEvent]:
    """The engine's events for requests that are all in flight together."""
    engine = OpenVinoEngine(folder, SETTINGS)
    events: list[EngineEvent] = []
    done = threading.Event()

    def read() -> None:
        for batch in engine.steps():
            events.extend(batch.all_events())
            if sum(event.is_last for event in events) == len(requests):
                done.set()

    reader = threading.Thread(target=read)
    reader.start()
    for request in requests:
        engine.submit(request)
    assert done.wait(600)
    engine.close()
    reader.join(10)
    assert not [event.error for event in events if event.error]
    return events


def generate(folder: Path, prompts: list[list[int]], max_new_tokens: int, end_id: int | None) -> list[list[int]]:
    """The engine's greedy ids of each prompt."""
    ids: list[list[int]] = [[] for _ in prompts]
    requests = [EngineRequest(key, tuple(prompt), max_new_tokens, end_id) for key, prompt in enumerate(prompts)]
    for event in run_all(folder, requests):
        ids[event.key] += event.ids
    return ids
