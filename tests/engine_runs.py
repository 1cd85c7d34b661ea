"""Runs the CPU engine on an engine folder, without a server."""

import shutil
import threading
from pathlib import Path

from support import CHECKPOINT
from trireme_build.matrices import WeightFormat
from trireme_build.openvino_decoder import convert_checkpoint
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


def share_right(checkpoint: Path, engine: Path, every: int, weight_format: WeightFormat = WeightFormat.F32) -> float:
    """The share of the reference's held-out prompts, one in `every`, that an engine of `checkpoint` gets right.

    engine: the folder that it is made in.
    """
    from transformers import AutoTokenizer

    from trireme_build.reference.evaluate import MAX_NEW_TOKENS, chat_ids, read_examples

    engine.mkdir()
    convert_checkpoint(checkpoint, engine, weight_format)
    for name in ("config.json", "generation_config.json"):
        shutil.copyfile(CHECKPOINT / name, engine / name)
    tok = AutoTokenizer.from_pretrained(checkpoint)
    examples = read_examples(CHECKPOINT / "held_out.jsonl")[::every]
    ids = generate(engine, [chat_ids(tok, e.prompt) for e in examples], MAX_NEW_TOKENS, tok.eos_token_id)
    right = sum(tok.decode(i, skip_special_tokens=True) == e.answer for i, e in zip(ids, examples, strict=True))
    print(f"{right} of {len(examples)} right, {(engine / 'openvino_model.bin').stat().st_size / 1e6:.1f} MB")
    return right / len(examples)
