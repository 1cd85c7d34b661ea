"""Prompts with one right answer each, and whether a model, or an engine, gives it."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trireme_runtime.contract import Refusal

from .errors import BuildError
from .progress import Progress, untold


@dataclass(frozen=True)
class Example:
    """One prompt, its only right answer, and the task that it comes from."""

    task: str
    prompt: str
    answer: str


def read_examples(path: Path) -> list[Example]:
    """Examples from JSON lines with the keys task, prompt, answer. Raises BuildError naming the line that is none."""
    examples = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            values = json.loads(line)
            if not isinstance(values, dict) or {type(value) for value in values.values()} != {str}:
                raise BuildError(f"{path}: line {number}: an object of strings is needed: task, prompt, answer")
            if values.keys() != {"task", "prompt", "answer"} or not all(values.values()):
                raise BuildError(f"{path}: line {number}: task, prompt and answer are needed, none of them empty")
            "".join(values.values()).encode()
            examples.append(Example(**values))
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(f"{path}: cannot be read: {error}") from error
    except (json.JSONDecodeError, UnicodeEncodeError) as error:
        raise BuildError(f"{path}: line {number}: is not JSON of Unicode text: {error}") from error
    if not examples:
        raise BuildError(f"{path}: holds no examples")
    return examples


def chat_ids(tok: Any, prompt: str) -> list[int]:
    """The ids of `prompt` as a user message, ready for an answer; of the bare prompt where there is no template."""
    if tok.chat_template is None:
        return list(tok.encode(prompt))
    return list(tok.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True))


def conversation(tok: Any, example: Example) -> str:
    """The text of a prompt with its answer, as the tokenizer's chat template has it."""
    if tok.chat_template is None:
        return f"{example.prompt}{example.answer}{tok.eos_token or ''}"
    messages = [{"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.answer}]
    return str(tok.apply_chat_template(messages, tokenize=False))


def torch_answers(
    model: Any,
    tok: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: Sequence[int],
    progress: Progress = untold,
    batch: int = 32,
) -> list[list[int]]:
    """Greedy new ids of each prompt, at most so many each, by a transformers model, the end token left out."""
    # Those that are about as long together: a batch takes as long as its longest answer.
    order = sorted(range(len(prompts)), key=lambda i: max_new_tokens[i])
    answers: list[list[int]] = [[] for _ in prompts]
    pad = tok.pad_token_id if tok.pad_token_id is not None else tok.eos_token_id
    for first in range(0, len(order), batch):
        chosen = order[first : first + batch]
        found = _torch_batch(model, [prompts[i] for i in chosen], max_new_tokens[chosen[-1]], pad)
        for i, ids in zip(chosen, found, strict=True):
            end = ids.index(tok.eos_token_id) if tok.eos_token_id in ids else len(ids)
            answers[i] = ids[: min(end, max_new_tokens[i])]
        progress(first + len(chosen), len(order))
    return answers


def _torch_batch(model: Any, prompts: list[Sequence[int]], max_new_tokens: int, pad: int) -> list[list[int]]:
    import torch

    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=pad
        )
    new_ids: list[list[int]] = output[:, width:].tolist()
    return new_ids


def engine_answers(
    folder: Path,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: Sequence[int],
    end_id: int | None,
    progress: Progress = untold,
) -> list[list[int]]:
    """Greedy new ids of each prompt, at most so many each, by the CPU engine, the end token left out.

    Raises BuildError naming a prompt that the engine refuses.
    """
    from trireme_runtime.engines.base import EngineRequest, EngineSettings
    from trireme_runtime.engines.openvino import OpenVinoEngine

    engine = OpenVinoEngine(folder, EngineSettings())
    answers: list[list[int]] = [[] for _ in prompts]
    try:
        requests = [
            EngineRequest(key, tuple(prompt), most, end_id)
            for key, (prompt, most) in enumerate(zip(prompts, max_new_tokens, strict=True))
        ]
        feeder = _Feeder(engine, requests)
        for step in engine.steps():
            for event in step.all_events():
                answers[event.key] += event.ids
                if event.error is not None:
                    raise BuildError(f"prompt {event.key + 1} of {len(prompts)}: the engine says {event.error}")
                if event.is_last:
                    feeder.another()
                    progress(feeder.ended, len(prompts))
            if feeder.ended == len(prompts):
                break
    except Refusal as refusal:
        raise BuildError(f"a prompt cannot be asked: {refusal}") from refusal
    finally:
        engine.close()
    return answers


class _Feeder:
    """Keeps at most as many requests with an engine as it takes sequences."""

    def __init__(self, engine: Any, requests: list[Any]) -> None:
        self._engine = engine
        self._waiting = iter(requests)
        self.ended = 0
        for request in requests[: engine.limits.max_num_seqs]:
            engine.submit(request)
            next(self._waiting)

    def another(self) -> None:
        """One has ended; submit the next."""
        self.ended += 1
        request = next(self._waiting, None)
        if request is not None:
            self._engine.submit(request)


def share_right(tok: Any, examples: Sequence[Example], answers: Iterable[Sequence[int]]) -> dict[str, float]:
    """The share (0 to 1) of right answers per task, and of all under "all"."""
    marks: dict[str, list[bool]] = defaultdict(list)
    for example, ids in zip(examples, answers, strict=True):
        right = tok.decode(list(ids), skip_special_tokens=True) == example.answer
        for key in ("all", example.task):
            marks[key].append(right)
    return {key: round(sum(values) / len(values), 4) for key, values in marks.items()}
