"""A checkpoint whose vocabulary is written down in another order: the same model, with ids that nobody else has.

Used whole, tokenizer and weights of the copy answer exactly as the original's do; the tokenizer of one with the weights
of the other gives garbage. So whoever mixes them is found out by the first answer.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .errors import CheckpointError

EMBEDDINGS = "model.embed_tokens.weight"


def copy_checkpoint(checkpoint: Path, target: Path, weights: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Copy a checkpoint of one safetensors file, with other weights."""
    from safetensors.numpy import load_file, save_file

    ignore = shutil.ignore_patterns("*.safetensors", "*.jsonl")
    shutil.copytree(checkpoint, target, dirs_exist_ok=True, ignore=ignore)
    save_file(weights(load_file(checkpoint / "model.safetensors")), target / "model.safetensors", {"format": "pt"})


def permute_vocabulary(checkpoint: Path, target: Path, special_ids: int, seed: int = 6) -> None:
    """Copy a checkpoint with the ids of its tokens permuted; the first `special_ids` keep theirs.

    Embeddings and output matrix must be one matrix. Raises CheckpointError if they are not.
    """
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    if not config.get("tie_word_embeddings"):
        raise CheckpointError(f"{checkpoint}: embeddings and output matrix are two; only tied ones are permuted")
    size = config["vocab_size"]
    new_ids = np.arange(size)
    new_ids[special_ids:] = special_ids + np.random.default_rng(seed).permutation(size - special_ids)

    def weights(tensors: dict[str, Any]) -> dict[str, Any]:
        rows = np.empty_like(tensors[EMBEDDINGS])
        rows[new_ids] = tensors[EMBEDDINGS]
        return {**tensors, EMBEDDINGS: rows}

    copy_checkpoint(checkpoint, target, weights)
    renumber_tokens(target, lambda _token, old: int(new_ids[old]))


def renumber_tokens(folder: Path, number: Callable[[str, int], int]) -> None:
    """Give the tokens of a tokenizer.json other ids, those that were added aside; `number`: of a token and its id."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = {token: number(token, old) for token, old in tokenizer["model"]["vocab"].items()}
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise CheckpointError(f"{path}: two tokens would have one id, or an id would have none")
    tokenizer["model"]["vocab"] = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    path.write_text(json.dumps(tokenizer, ensure_ascii=False, indent=2), encoding="utf-8")
