"""Exact-match evaluation of a checkpoint on the held-out prompts, greedy, in float32.

python -m trireme_build.reference.evaluate CHECKPOINT [--prompts FILE] [--json]
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from .tasks import Example

MAX_NEW_TOKENS = 352


def chat_ids(tok: Any, prompt: str) -> list[int]:
    """The ids of `prompt` as a user message, ready for an answer."""
    return list(tok.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True))


def generate_ids(model: Any, tok: Any, prompts: list[str], batch: int = 64) -> list[list[int]]:
    """Greedy new ids of each prompt, the end token included where it came."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: list[list[int]] = [[] for _ in prompts]
    for first in range(0, len(order), batch):
        chosen = order[first : first + batch]
        inputs = tok.pad({"input_ids": [chat_ids(tok, prompts[i]) for i in chosen]}, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, pad_token_id=tok.pad_token_id)
        for i, ids in zip(chosen, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            end = ids.index(tok.eos_token_id) + 1 if tok.eos_token_id in ids else len(ids)
            answers[i] = ids[:end]
    return answers


def score(model: Any, tok: Any, examples: list[Example]) -> list[tuple[Example, str]]:
    """Each example with the model's greedy answer."""
    generated = generate_ids(model, tok, [example.prompt for example in examples])
    return [
        (example, tok.decode(ids, skip_special_tokens=True)) for example, ids in zip(examples, generated, strict=True)
    ]


def accuracy_by_task(scored: Iterable[tuple[Example, str]]) -> dict[str, float]:
    """Exact-match share (0 to 1) per task, and of all under "all"."""
    marks: dict[str, list[bool]] = defaultdict(list)
    for example, answer in scored:
        for key in ("all", example.task):
            marks[key].append(answer == example.answer)
    return {key: round(sum(values) / len(values), 4) for key, values in marks.items()}


def read_examples(path: Path) -> list[Example]:
    """Examples from JSON lines with the keys task, prompt, answer."""
    return [Example(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--prompts", type=Path, help="JSON lines; default: CHECKPOINT/held_out.jsonl")
    parser.add_argument("--json", action="store_true", help="print only the shares, as JSON")
    arguments = parser.parse_args()
    tok = AutoTokenizer.from_pretrained(arguments.checkpoint)
    model = AutoModelForCausalLM.from_pretrained(arguments.checkpoint, dtype=torch.float32).eval()
    scored = score(model, tok, read_examples(arguments.prompts or arguments.checkpoint / "held_out.jsonl"))
    shares = accuracy_by_task(scored)
    if arguments.json:
        print(json.dumps(shares))
        return
    for example, answer in scored:
        if answer != example.answer:
            print(f"wrong: {example.prompt!r} -> {answer!r}, right is {example.answer!r}")
    for task, share in sorted(shares.items()):
        print(f"{task:14} {100 * share:6.1f} %")


if __name__ == "__main__":
    main()
