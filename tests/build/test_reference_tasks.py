import itertools
import json

import pytest

from support import CHECKPOINT
from trireme_build.reference import tasks

HELD_OUT = [json.loads(line) for line in (CHECKPOINT / "held_out.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_committed_held_out_prompts_are_the_generated_ones() -> None:
    from trireme_build.reference.splits import HELD_OUT_COUNT, HELD_OUT_SEED

    generated = tasks.held_out_examples(HELD_OUT_COUNT, HELD_OUT_SEED)
    assert [vars(example) for example in generated] == HELD_OUT


def test_training_and_held_out_prompts_are_disjoint() -> None:
    held_out = {example["prompt"] for example in HELD_OUT} - tasks.RECITED.keys()
    trained = {example.prompt for example in itertools.islice(tasks.training_examples(0), 30_000)}
    assert len(held_out) == 498
    assert not held_out & trained
    assert held_out >= tasks.EXAMPLE_PROMPTS


def test_every_answer_is_right_by_an_independent_solution() -> None:
    for example in HELD_OUT:
        assert tasks.solve(example["prompt"]).answer == example["answer"]


def test_the_same_seed_gives_the_same_examples() -> None:
    first, second = (list(itertools.islice(tasks.training_examples(3), 50)) for _ in range(2))
    assert first == second


def test_too_small_a_held_out_set_is_refused() -> None:
    with pytest.raises(ValueError, match="count is 3"):
        tasks.held_out_examples(3, 0)


def test_repeated_texts_reach_over_the_scripts() -> None:
    texts = "".join(e.prompt for e in itertools.islice(tasks.training_examples(1), 4000) if e.task == "repeat")
    for first, last in ((0x4E00, 0x9FFF), (0x900, 0x97F), (0x600, 0x6FF), (0x1F300, 0x1FAFF), (0x200D, 0x200D)):
        assert any(first <= ord(character) <= last for character in texts), hex(first)
