"""The converted model in the real engine, against transformers in float32: token for token."""

import threading
from pathlib import Path
from typing import Any

import pytest

from support import CHECKPOINT, ROOT
from trireme_build.engine_folder import ensure_engine
from trireme_build.openvino_llama import convert_checkpoint
from trireme_runtime.engines.base import EngineEvent, EngineRequest, EngineSettings, Sampling
from trireme_runtime.engines.openvino import OpenVinoEngine

pytestmark = [pytest.mark.torch, pytest.mark.timeout(900)]

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


def test_at_least_99_percent_of_the_held_out_prompts_are_answered_with_the_same_ids() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trireme_build.reference.evaluate import MAX_NEW_TOKENS, chat_ids, generate_ids, read_examples

    version = ROOT / "model_repository" / "tensorrt_llm" / "1"
    ensure_engine(version, ROOT)
    tok = AutoTokenizer.from_pretrained(CHECKPOINT)
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    prompts = [example.prompt for example in read_examples(CHECKPOINT / "held_out.jsonl")]
    expected = [ids[:-1] if ids[-1] == tok.eos_token_id else ids for ids in generate_ids(model, tok, prompts)]
    actual = generate(
        version / "engine", [chat_ids(tok, prompt) for prompt in prompts], MAX_NEW_TOKENS, tok.eos_token_id
    )
    same = sum(a == e for a, e in zip(actual, expected, strict=True))
    assert len(prompts) == 500
    print(f"{same} of 500 answers have the same ids")
    assert same >= 495, f"{same} of 500 equal"


def test_log_probs_are_those_of_transformers() -> None:
    """Sampled at a high temperature, so that they are not all near 0; the log-probs are those before it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trireme_build.reference.evaluate import chat_ids

    version = ROOT / "model_repository" / "tensorrt_llm" / "1"
    ensure_engine(version, ROOT)
    tok = AutoTokenizer.from_pretrained(CHECKPOINT)
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    prompts = [chat_ids(tok, f"Repeat: {word}") for word in ("abc", "你好 👋", "9 3 7", "stream")]
    events = run_all(
        version / "engine",
        [
            EngineRequest(key, tuple(prompt), 24, None, Sampling(temperature=3.0, seed=key), log_probs=True)
            for key, prompt in enumerate(prompts)
        ],
    )
    for key, prompt in enumerate(prompts):
        ids = [token for event in events if event.key == key for token in event.ids]
        actual = [value for event in events if event.key == key for value in event.log_probs]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits, -1)[range(len(ids)), ids].tolist()
        assert len(actual) == 24
        assert actual == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_key_value_heads": 1, "tie_word_embeddings": False},
        {"num_key_value_heads": 4, "rope_theta": 500_000.0},
        {"num_key_value_heads": 2, "head_dim": 32, "hidden_size": 96},
    ],
    ids=["multi-query, own head", "multi-head, other theta", "grouped, odd head size"],
)
def test_a_random_llama_of_another_shape_generates_the_same_ids(tmp_path: Path, changes: dict[str, Any]) -> None:
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=256, max_position_embeddings=256, initializer_range=0.2, **{**shape, **changes})
    model = LlamaForCausalLM(config).eval()
    # Where a call names none, generate() falls back to the model's own end id.
    model.generation_config.eos_token_id = None
    checkpoint, folder = tmp_path / "checkpoint", tmp_path / "engine"
    model.save_pretrained(checkpoint)
    folder.mkdir()
    convert_checkpoint(checkpoint, folder)
    for name in ("config.json", "generation_config.json"):
        (folder / name).write_bytes((checkpoint / name).read_bytes())
    prompts = [[7, 8, 9], list(range(10, 90)), [200] * 5]
    greedy = GenerationConfig(max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0)
    expected = [
        model.generate(torch.tensor([prompt]), generation_config=greedy)[0, len(prompt) :].tolist()
        for prompt in prompts
    ]
    assert generate(folder, prompts, 40, None) == expected
