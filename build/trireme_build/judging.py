"""Whether a build is near enough to its source: the figures, and the limits that a recipe sets them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .accuracy import Accuracy, Block, LogProbs, compare
from .errors import AccuracyError, BuildError
from .exact_match import chat_ids, conversation, read_examples, share_right
from .progress import Progress
from .recipe import Verify

#: Greedy answers, without the end token, to prompts of ids, each of at most so many new ids, until an end id.
Answer = Callable[[Sequence[Sequence[int]], Sequence[int], int | None, Progress], list[list[int]]]

_Thing = TypeVar("_Thing")


def spread(things: Sequence[_Thing], most: int) -> list[_Thing]:
    """At most so many of them, evenly spread, the first among them."""
    return [things[i * len(things) // most] for i in range(most)] if len(things) > most else list(things)


class Judge:
    """The texts and the tasks of a recipe, in the ids of a checkpoint.

    Raises BuildError for files that cannot be read, or hold nothing to compare.
    """

    def __init__(self, limits: Verify, checkpoint: Path, context_tokens: int) -> None:
        from transformers import AutoTokenizer

        self.limits = limits
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
        examples = read_examples(limits.tasks) if limits.tasks else []
        self.examples = spread(examples, limits.max_answers)
        self.blocks = self._of_texts(context_tokens) if limits.texts else self._of_answers(context_tokens)
        if not self.blocks:
            raise BuildError(
                f"{limits.texts or limits.tasks}: holds no text of which at least a token can be predicted within the "
                f"model's context of {context_tokens} tokens"
            )

    def _of_texts(self, context_tokens: int) -> list[Block]:
        assert self.limits.texts is not None
        try:
            lines = [line for line in self.limits.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise BuildError(f"{self.limits.texts}: cannot be read: {error}") from error
        encoded = (self._encode(line)[:context_tokens] for line in spread(lines, self.limits.max_texts))
        return [Block(ids) for ids in encoded if len(ids) > 1]

    def _of_answers(self, context_tokens: int) -> list[Block]:
        """Whole conversations, of which the answers count."""
        blocks = []
        for example in spread(self.examples, self.limits.max_texts):
            prompt = len(chat_ids(self.tokenizer, example.prompt))
            ids = self._encode(conversation(self.tokenizer, example))[:context_tokens]
            if prompt < len(ids):
                blocks.append(Block(ids, prompt))
        return blocks

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def accuracy(self, source: LogProbs, candidate: LogProbs, progress: Progress) -> Accuracy:
        """How far a candidate is from the source on the texts."""
        return compare(source, candidate, self.blocks, progress)

    def exact_match(self, answer: Answer, progress: Progress) -> dict[str, Any]:
        """The share of right answers, in all and per task, and over how many; nothing without tasks."""
        if not self.examples:
            return {}
        prompts = [chat_ids(self.tokenizer, example.prompt) for example in self.examples]
        # One token more than the right answer has is enough to see that it does not end there.
        most = [len(self._encode(example.answer)) + 1 for example in self.examples]
        answers = answer(prompts, most, self.tokenizer.eos_token_id, progress)
        return {"exact_match": share_right(self.tokenizer, self.examples, answers), "answers": len(answers)}

    def check(self, what: str, accuracy: Accuracy, exact_match: dict[str, Any]) -> None:
        """Raise AccuracyError naming every limit that `what` misses."""
        missed = []
        if accuracy.kl > self.limits.max_kl:
            missed.append(f"KL is {accuracy.kl:.4g} nats, and max_kl {self.limits.max_kl:g}")
        if accuracy.top1 < self.limits.min_top1:
            missed.append(f"top-1 agreement is {accuracy.top1:.4f}, and min_top1 {self.limits.min_top1:g}")
        if accuracy.perplexity_increase > self.limits.max_perplexity_increase:
            missed.append(
                f"perplexity is {100 * accuracy.perplexity_increase:.2f} % higher, and max_perplexity_increase "
                f"{100 * self.limits.max_perplexity_increase:g} %"
            )
        share = exact_match.get("exact_match", {}).get("all")
        if share is not None and self.limits.min_exact_match is not None and share < self.limits.min_exact_match:
            missed.append(f"exact match is {share:.4f}, and min_exact_match {self.limits.min_exact_match:g}")
        if missed:
            raise AccuracyError(f"{what} is not near enough to its source: {'; '.join(missed)}")


def describe(accuracy: Accuracy, exact_match: dict[str, Any]) -> str:
    """The figures in one line."""
    share = exact_match.get("exact_match", {}).get("all")
    right = "" if share is None else f", {100 * share:.1f} % of {exact_match['answers']} answers right"
    return (
        f"KL {accuracy.kl:.2g} nats, top-1 {100 * accuracy.top1:.1f} %, perplexity {accuracy.perplexity:.5g} "
        f"({100 * accuracy.perplexity_increase:+.2f} %){right}"
    )
