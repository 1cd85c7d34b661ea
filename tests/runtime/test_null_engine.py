"""The null engine, and what every engine in a child process shares: it is ended when it hangs."""

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from trireme_runtime.contract import FinishReason
from trireme_runtime.engines import load_engine
from trireme_runtime.engines.base import EngineDied, EngineRequest, EngineSettings, EngineStep, Sampling
from trireme_runtime.engines.null_child import draw_table, known_ids

CONFIG = {"vocab_size": 100, "max_position_embeddings": 4096, "silent_ids": [0, 1, 2], "seed": 3}


def engine_on(folder: Path, settings: EngineSettings | None = None, **config: Any) -> Any:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    return load_engine("null", folder, settings or EngineSettings())


def run(engine: Any, requests: list[EngineRequest]) -> tuple[list[EngineStep], dict[int, list[int]]]:
    for request in requests:
        engine.submit(request)
    left = {request.key for request in requests}
    steps, ids = [], defaultdict(list)
    for step in engine.steps():
        steps.append(step)
        for event in step.all_events():
            ids[event.key] += event.ids
            if event.is_last:
                left.discard(event.key)
        if not left:
            return steps, ids
    raise AssertionError("the engine ended")


def test_ids_are_known_and_come_one_a_step(tmp_path: Path) -> None:
    engine = engine_on(tmp_path)
    requests = [EngineRequest(key, (5, 6), 40, None, Sampling(seed=key * 1000)) for key in (1, 2, 3)]
    steps, ids = run(engine, requests)
    engine.close()
    table = draw_table(CONFIG)
    assert not {0, 1, 2} & set(table)
    assert ids == {key: known_ids(table, key * 1000, 40) for key in (1, 2, 3)}
    assert all(len(step.keys) == len(set(step.keys)) for step in steps)
    assert steps[-1].kv_blocks_used == 0
    assert max(step.kv_blocks_used for step in steps) >= 4


def test_no_more_than_max_num_seqs_run(tmp_path: Path) -> None:
    engine = engine_on(tmp_path, EngineSettings(max_num_seqs=2))
    steps, _ = run(engine, [EngineRequest(key, (5,), 20, None) for key in range(1, 6)])
    engine.close()
    assert max(step.num_ids for step in steps) == 2


def test_steps_keep_to_the_rate(tmp_path: Path) -> None:
    engine = engine_on(tmp_path, steps_per_s=200)
    began = time.monotonic()
    run(engine, [EngineRequest(1, (5,), 41, None)])
    assert time.monotonic() - began >= 0.2, "40 steps after the first, 5 ms apart"
    engine.close()


def test_a_cancelled_request_is_computed_no_further(tmp_path: Path) -> None:
    engine = engine_on(tmp_path, steps_per_s=100)
    engine.submit(EngineRequest(1, (5,), 4000, None))
    events = []
    for step in engine.steps():
        events += step.all_events()
        if len(events) == 3:
            engine.cancel(1)
        if events[-1].is_last:
            break
    engine.close()
    assert events[-1].finish_reason is FinishReason.CANCELLED
    assert len(events) <= 3 + 2 + 1


@pytest.mark.parametrize(("how", "words"), [("sleep", "stood still"), ("spin", "made no progress")])
def test_a_step_that_never_returns_ends_the_engine(tmp_path: Path, how: str, words: str) -> None:
    engine = engine_on(tmp_path, EngineSettings(hang_timeout_s=1.9), hang_after_steps=5, hang=how)
    began = time.monotonic()
    with pytest.raises(EngineDied, match=words) as caught:
        run(engine, [EngineRequest(1, (5,), 40, None)])
    assert caught.value.cause == "hung"
    assert time.monotonic() - began < 10
    engine.close()
    assert not Path(f"/proc/{engine.pid}").exists()


def test_a_reader_that_takes_its_time_is_no_hang(tmp_path: Path) -> None:
    engine = engine_on(tmp_path, EngineSettings(hang_timeout_s=1.5))
    engine.submit(EngineRequest(1, (5,), 4000, None))
    steps = engine.steps()
    next(steps)
    time.sleep(2)
    assert sum(step.num_ids for step in (next(steps) for _ in range(100))) == 100
    engine.close()
