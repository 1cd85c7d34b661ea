"""What must be equal for an answer to be the same."""

import hashlib
import json
from dataclasses import asdict

from ..fleet.ask import Ask
from ..fleet.serving import Release

#: What does not change an answer.
_BESIDE = ("priority", "deadline_ms", "metrics")

#: Changed whenever what is stored changes its form.
_FORM = 1


def is_exact(ask: Ask) -> bool:
    """Whether the answer is the same each time: greedy, or with a seed."""
    generation = ask.generation
    return ask.may_cache and (generation.temperature == 0 or generation.seed is not None)


def key_of(ask: Ask, release: Release) -> str:
    """Of the tenant, the LLM, the release, the prompt and all parameters that matter, as SHA-256 in hex."""
    values = {name: value for name, value in asdict(ask.generation).items() if name not in _BESIDE}
    text = json.dumps([_FORM, ask.tenant, ask.llm, release.identity, values], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
