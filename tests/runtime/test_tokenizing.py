import json
from pathlib import Path
from typing import Any

import pytest

from tokenizers_built import KINDS, LINES
from trireme_runtime.contract import Refusal
from trireme_runtime.tokenizing import Encoder, TokenizerError, load_tokenizer


@pytest.fixture(scope="module")
def encoder(tokenizer: Any) -> Encoder:
    return Encoder(tokenizer)


def test_a_batch_gives_the_ids_of_each_prompt(encoder: Encoder, tokenizer: Any) -> None:
    prompts = ["What is 1 + 1?", "<|bos|><|user|>x<|assistant|>", "你好"]
    expected = [
        tokenizer.encode(prompts[0]),
        tokenizer.encode(prompts[1], add_special_tokens=False),
        tokenizer.encode(prompts[2]),
    ]
    assert [ids.tolist() for ids in encoder.encode_batch(prompts)] == expected


def test_a_prompt_that_has_its_begin_token_gets_no_second_one(encoder: Encoder, tokenizer: Any) -> None:
    ids = encoder.encode_batch(["<|bos|>x"])[0].tolist()
    assert ids.count(tokenizer.bos_token_id) == 1


def test_a_prompt_that_cannot_fit_is_refused_before_it_is_tokenized(encoder: Encoder) -> None:
    encoder.check_length("x" * 2048)
    with pytest.raises(Refusal, match=r"100000 bytes, at least \d+ tokens; the model's context is 2048"):
        encoder.check_length("x" * 100_000)


def test_the_bound_on_a_prompts_length_never_refuses_what_fits(tokenizer: Any) -> None:
    for kind in KINDS.values():
        built = kind()
        built.model_max_length = 16
        narrow = Encoder(built)
        for line in LINES:
            for end in range(1, len(line)):
                if len(built.encode(line[:end], add_special_tokens=False)) <= 16:
                    narrow.check_length(line[:end])


def test_chat_is_rendered_by_the_tokenizers_template(encoder: Encoder) -> None:
    messages = [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "Sort: 2 1 4 3"}]
    rendered = encoder.render_chat(json.dumps(messages))
    assert rendered == "<|bos|><|system|>Be exact.<|user|>Sort: 2 1 4 3<|assistant|>"


def test_kwargs_reach_the_template(encoder: Encoder) -> None:
    rendered = encoder.render_chat('[{"role": "user", "content": "x"}]', '{"add_generation_prompt": false}')
    assert rendered == "<|bos|><|user|>x"


@pytest.mark.parametrize(
    ("messages", "kwargs", "word"),
    [
        ("{", None, "JSON"),
        ("[]", None, "empty"),
        ("{}", None, "an object"),
        ("[1]", None, "messages[0]"),
        ("[" * 100_000, None, "JSON"),
        ('[{"role": "user", "content": "\\ud800"}]', None, "surrogate"),
        ('[{"role": "user"}]', None, "messages[0].content"),
        ('[{"role": 1, "content": "x"}]', None, "messages[0].role"),
        ('[{"role": "robot", "content": "x"}]', None, "robot"),
        ('[{"role": "user", "content": "x"}]', "[]", "chat_template_kwargs"),
        ('[{"role": "user", "content": "x"}]', '{"tokenize": true}', "tokenize"),
    ],
)
def test_bad_messages_are_refused_by_name(encoder: Encoder, messages: str, kwargs: str | None, word: str) -> None:
    with pytest.raises(Refusal) as caught:
        encoder.render_chat(messages, kwargs)
    assert word in caught.value.message


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="nowhere"):
        load_tokenizer(tmp_path / "nowhere")
