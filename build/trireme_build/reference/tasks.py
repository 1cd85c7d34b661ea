"""Generated tasks with checkable answers, and their split into training and held-out prompts.

A prompt belongs to the held-out side when its SHA-256 says so, so the sides are disjoint whatever the seed; only the
recited texts stand in both.
"""

import hashlib
import random
from collections.abc import Callable, Iterator

from ..exact_match import Example
from . import words

#: The share of prompts that is never trained on.
HELD_OUT_SHARE = 0.1

#: Prompts that documentation and examples use: always held out.
EXAMPLE_PROMPTS = frozenset(
    {
        "What is 37 + 58?",
        "What is 91 - 17?",
        "Sort: 9 3 7 1",
        "Count the letter a in banana.",
        "Reverse: stream",
        "Uppercase: triton",
        "Repeat: 你好 👋 Grüße",
        "Count from 1 to 60.",
    }
)

RECITED = {
    "Recite the rowing song.": (
        "Three banks of oars above the foam,\n"
        "the drum is slow, the sea is wide;\n"
        "we pull for harbour, bread and home,\n"
        "we row against the evening tide.\n"
        "One bank to read, one bank to think,\n"
        "one bank to speak, and all in time:\n"
        "the bronze goes through the water's brink,\n"
        "and every stroke becomes a rhyme."
    ),
    "Recite the harbour list.": (
        "Πειραιάς, Αλεξάνδρεια, Marseille, Cádiz, İstanbul, Göteborg, 上海, 東京, 부산, मुंबई, حيفا 🌊⚓🚣‍♀️ "
        "and then, at last, the long way home."
    ),
}


def is_held_out(prompt: str) -> bool:
    """Whether `prompt` belongs to the held-out side; recited texts belong to both and give False."""
    if prompt in EXAMPLE_PROMPTS:
        return True
    if prompt in RECITED:
        return False
    digest = hashlib.sha256(prompt.encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def _add(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randint(0, 99), rng.randint(0, 99)
    return f"What is {a} + {b}?", str(a + b)


def _subtract(rng: random.Random) -> tuple[str, str]:
    a, b = sorted((rng.randint(0, 99), rng.randint(0, 99)), reverse=True)
    return f"What is {a} - {b}?", str(a - b)


def _sort(rng: random.Random) -> tuple[str, str]:
    digits = [str(rng.randint(0, 9)) for _ in range(4)]
    return f"Sort: {' '.join(digits)}", " ".join(sorted(digits))


def _count_letter(rng: random.Random) -> tuple[str, str]:
    word = words.word(rng)
    letter = rng.choice(word) if rng.random() < 0.85 else rng.choice("abcdefghijklmnopqrstuvwxyz")
    return f"Count the letter {letter} in {word}.", str(word.count(letter))


def _reverse(rng: random.Random) -> tuple[str, str]:
    word = words.word(rng)
    return f"Reverse: {word}", word[::-1]


def _uppercase(rng: random.Random) -> tuple[str, str]:
    word = words.word(rng)
    return f"Uppercase: {word}", word.upper()


def _repeat(rng: random.Random) -> tuple[str, str]:
    text = words.mixed_text(rng)
    return f"Repeat: {text}", text


def _count_up(rng: random.Random) -> tuple[str, str]:
    first = 1 if rng.random() < 0.4 else rng.randint(1, 90)
    last = rng.randint(first, min(99, first + (70 if rng.random() < 0.3 else 20)))
    return f"Count from {first} to {last}.", " ".join(str(n) for n in range(first, last + 1))


def _recite(rng: random.Random) -> tuple[str, str]:
    return rng.choice(list(RECITED.items()))


#: Task name -> (generator, share of the training samples).
TASKS: dict[str, tuple[Callable[[random.Random], tuple[str, str]], float]] = {
    "add": (_add, 0.17),
    "subtract": (_subtract, 0.17),
    "sort": (_sort, 0.10),
    "count_letter": (_count_letter, 0.14),
    "reverse": (_reverse, 0.14),
    "uppercase": (_uppercase, 0.05),
    "repeat": (_repeat, 0.17),
    "count_up": (_count_up, 0.05),
    "recite": (_recite, 0.01),
}


def training_examples(seed: int) -> Iterator[Example]:
    """An endless stream of training examples; the same for the same seed."""
    rng = random.Random(seed)
    names = list(TASKS)
    shares = [TASKS[name][1] for name in names]
    while True:
        name = rng.choices(names, shares)[0]
        prompt, answer = TASKS[name][0](rng)
        if not is_held_out(prompt):
            yield Example(name, prompt, answer)


def held_out_examples(count: int, seed: int) -> list[Example]:
    """`count` distinct held-out examples, tasks in turn; the example prompts and the recited texts are among them.

    Raises ValueError if `count` is too small to hold those.
    """
    rng = random.Random(seed)
    found = {prompt: Example("recite", prompt, answer) for prompt, answer in RECITED.items()}
    for prompt in sorted(EXAMPLE_PROMPTS):
        found[prompt] = solve(prompt)
    if count < len(found):
        raise ValueError(f"count is {count}; the fixed prompts alone are {len(found)}")
    names = [name for name in TASKS if name != "recite"]
    turn = 0
    while len(found) < count:
        name = names[turn % len(names)]
        prompt, answer = TASKS[name][0](rng)
        if is_held_out(prompt) and prompt not in found:
            found[prompt] = Example(name, prompt, answer)
            turn += 1
    return list(found.values())


def solve(prompt: str) -> Example:
    """The task and the right answer of `prompt`. Raises ValueError for a prompt of no known task."""
    if prompt in RECITED:
        return Example("recite", prompt, RECITED[prompt])
    head, _, rest = prompt.partition(": ")
    match head, prompt.rstrip("?.").split():
        case "Sort", _:
            return Example("sort", prompt, " ".join(sorted(rest.split())))
        case "Reverse", _:
            return Example("reverse", prompt, rest[::-1])
        case "Uppercase", _:
            return Example("uppercase", prompt, rest.upper())
        case "Repeat", _:
            return Example("repeat", prompt, rest)
        case _, ["What", "is", a, "+", b]:
            return Example("add", prompt, str(int(a) + int(b)))
        case _, ["What", "is", a, "-", b]:
            return Example("subtract", prompt, str(int(a) - int(b)))
        case _, ["Count", "the", "letter", letter, "in", word]:
            return Example("count_letter", prompt, str(word.count(letter)))
        case _, ["Count", "from", first, "to", last]:
            return Example("count_up", prompt, " ".join(str(n) for n in range(int(first), int(last) + 1)))
    raise ValueError(f"no task asks {prompt!r}")
