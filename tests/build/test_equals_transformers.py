"""The converted model in the real engine, against transformers in float32: token for token."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine_runs import MAX_NEW_TOKENS, run_all, share_right
from support import CHECKPOINT, ROOT, rounds
from trireme_build.checkpoint import DecoderShape
from trireme_build.engine_folder import ensure_engine
from trireme_build.exact_match import chat_ids, engine_answers, read_examples, torch_answers
from trireme_build.matrices import WeightFormat
from trireme_build.openvino_decoder import convert_checkpoint
from trireme_runtime.engines.base import EngineRequest, Sampling

pytestmark = [pytest.mark.torch, pytest.mark.timeout(900)]


def test_at_least_99_percent_of_the_held_out_prompts_are_answered_with_the_same_ids() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    version = ROOT / "model_repository" / "tensorrt_llm" / "1"
    ensure_engine(version, ROOT)
    tok = AutoTokenizer.from_pretrained(CHECKPOINT)
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    prompts = [chat_ids(tok, example.prompt) for example in read_examples(CHECKPOINT / "held_out.jsonl")]
    assert len(prompts) == 500
    prompts = prompts[:: rounds(3, 1)]
    expected = torch_answers(model, tok, prompts, [MAX_NEW_TOKENS] * len(prompts))
    actual = engine_answers(version / "engine", prompts, [MAX_NEW_TOKENS] * len(prompts), tok.eos_token_id)
    same = sum(a == e for a, e in zip(actual, expected, strict=True))
    print(f"{same} of {len(prompts)} answers have the same ids")
    assert same >= 0.99 * len(prompts), f"{same} of {len(prompts)} equal"


def test_log_probs_are_those_of_transformers() -> None:
    """Sampled at a high temperature, so that they are not all near 0; the log-probs are those before it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

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


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("Llama", {"num_key_value_heads": 1, "tie_word_embeddings": False}),
        ("Llama", {"num_key_value_heads": 4, "rope_theta": 500_000.0}),
        ("Llama", {"num_key_value_heads": 2, "head_dim": 32, "hidden_size": 96}),
        ("Llama", {"num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True}),
        ("Llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
        ("Llama", {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 64}}),
        ("Llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}),
        ("Mistral", {"num_key_value_heads": 2, "sliding_window": None}),
        ("Qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
        ("Qwen3", {"num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True}),
        ("Qwen3", {"num_key_value_heads": 2, "head_dim": 16, "attention_bias": True}),
    ],
    ids=[
        "multi-query, own head",
        "multi-head, other theta",
        "grouped, odd head size",
        "llama with biases",
        "rope linear",
        "rope llama3",
        "rope yarn",
        "mistral",
        "qwen2",
        "qwen3",
        "qwen3 with biases",
    ],
)
def test_a_random_checkpoint_of_another_shape_generates_the_same_ids(
    tmp_path: Path, family: str, changes: dict[str, Any]
) -> None:
    import torch
    import transformers

    torch.manual_seed(1)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = getattr(transformers, f"{family}Config")(
        vocab_size=256, max_position_embeddings=256, initializer_range=0.2, **{**shape, **changes}
    )
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for name, parameter in model.named_parameters():
        # They begin as zeros and ones, which would hide that one is left out.
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, float("norm" in name), 0.2)
    # Where a call names none, generate() falls back to the model's own end id.
    model.generation_config.eos_token_id = None
    checkpoint, folder = tmp_path / "checkpoint", tmp_path / "engine"
    # In several files.
    model.save_pretrained(checkpoint, max_shard_size="100KB")
    assert (checkpoint / "model.safetensors.index.json").is_file()
    folder.mkdir()
    convert_checkpoint(checkpoint, folder)
    for name in ("config.json", "generation_config.json"):
        (folder / name).write_bytes((checkpoint / name).read_bytes())
    prompts = [[7, 8, 9], list(range(10, 90)), [200] * 5]
    greedy = transformers.GenerationConfig(max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0)
    expected = [
        model.generate(torch.tensor([prompt]), generation_config=greedy)[0, len(prompt) :].tolist()
        for prompt in prompts
    ]
    assert engine_answers(folder, prompts, [40] * len(prompts), None) == expected


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        {"rope_type": "linear", "factor": 2.0},
        {**LLAMA3, "original_max_position_embeddings": 8192},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768},
        {"rope_type": "yarn", "factor": 40.0, "beta_fast": 16, "beta_slow": 2, "mscale": 0.8, "mscale_all_dim": 1.0},
        {"rope_type": "yarn", "factor": 16.0, "attention_factor": 0.9, "truncate": False},
    ],
)
def test_rope_frequencies_are_those_of_transformers(scaling: dict[str, Any] | None) -> None:
    import torch
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(rope_theta=500_000.0, rope_scaling=scaling, max_position_embeddings=131_072, head_dim=128)
    rope_type = scaling["rope_type"] if scaling else "default"
    expected, factor = ROPE_INIT_FUNCTIONS[rope_type](config, torch.device("cpu"))
    values = {**config.to_dict(), "architectures": ["LlamaForCausalLM"]}
    # Newer configurations keep both in one object.
    parameters = {**values, "rope_theta": None, "rope_scaling": None}
    del parameters["rope_theta"]
    parameters["rope_parameters"] = {"rope_theta": 500_000.0, "rope_type": "default", **(scaling or {})}
    for written in (values, parameters):
        rope = DecoderShape.from_config(json.loads(json.dumps(written))).rope
        assert rope.inverse_frequencies(128) == pytest.approx(expected.tolist(), rel=2e-5)
        assert rope.attention_factor == pytest.approx(factor)


@pytest.mark.parametrize(("weights", "share"), [("int8", 0.98), ("int4", 0.8)])
def test_compressed_weights_answer_the_reference_tasks(tmp_path: Path, weights: str, share: float) -> None:
    assert share_right(CHECKPOINT, tmp_path / "engine", 2, WeightFormat(weights)) >= share
