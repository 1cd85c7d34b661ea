"""Exact-match evaluation of a checkpoint on the held-out prompts, greedy, in float32.

python -m trireme_build.reference.evaluate CHECKPOINT [--prompts FILE] [--json]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..exact_match import Example, chat_ids, read_examples, share_right, torch_answers

MAX_NEW_TOKENS = 352


def score(model: Any, tok: Any, examples: list[Example]) -> list[list[int]]:
    """The ids of the model's greedy answer to each example."""
    prompts = [chat_ids(tok, example.prompt) for example in examples]
    return torch_answers(model, tok, prompts, [MAX_NEW_TOKENS] * len(prompts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--prompts", type=Path, help="JSON lines; default: CHECKPOINT/held_out.jsonl")
    parser.add_argument("--json", action="store_true", help="print only the shares, as JSON")
    arguments = parser.parse_args()
    tok = AutoTokenizer.from_pretrained(arguments.checkpoint)
    model = AutoModelForCausalLM.from_pretrained(arguments.checkpoint, dtype=torch.float32).eval()
    examples = read_examples(arguments.prompts or arguments.checkpoint / "held_out.jsonl")
    answers = score(model, tok, examples)
    shares = share_right(tok, examples, answers)
    if arguments.json:
        print(json.dumps(shares))
        return
    for example, ids in zip(examples, answers, strict=True):
        answer = tok.decode(ids, skip_special_tokens=True)
        if answer != example.answer:
            print(f"wrong: {example.prompt!r} -> {answer!r}, right is {example.answer!r}")
    for task, share in sorted(shares.items()):
        print(f"{task:14} {100 * share:6.1f} %")


if __name__ == "__main__":
    main()
