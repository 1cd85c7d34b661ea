"""What a checkpoint is, before anything is done with it: nothing of its weights is read but their headers."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trireme_runtime.tokenizing import TokenizerError, load_tokenizer

from .checkpoint import DecoderShape, weight_files
from .errors import CheckpointError
from .exported import open_weights

#: Bytes of one value of the key-value cache.
KV_BYTES = {"f32": 4, "bf16": 2, "fp8": 1}


@dataclass(frozen=True)
class Inspection:
    """quantization: of `exported.ALGORITHMS`' values, or "f32"; weight_bytes: of the files."""

    shape: DecoderShape
    quantization: str
    weight_bytes: int
    vocabulary: int
    has_chat_template: bool

    @property
    def parameters(self) -> int:
        """How many numbers the weights are."""
        return sum(math.prod(dims) for dims in self.shape.weight_shapes.values())

    def kv_bytes_per_token(self, kind: str) -> int:
        """Of the key-value cache in one of KV_BYTES: keys and values of every layer."""
        return 2 * self.shape.num_layers * self.shape.num_kv_heads * self.shape.head_dim * KV_BYTES[kind]

    def figures(self) -> dict[str, Any]:
        """For a manifest."""
        return {
            "family": self.shape.family,
            "parameters": self.parameters,
            "weight_bytes": self.weight_bytes,
            "quantization": self.quantization,
            "layers": self.shape.num_layers,
            "hidden_size": self.shape.hidden_size,
            "heads": self.shape.num_heads,
            "kv_heads": self.shape.num_kv_heads,
            "head_dim": self.shape.head_dim,
            "context_tokens": self.shape.max_positions,
            "vocab_size": self.shape.vocab_size,
            "tied_embeddings": self.shape.tied_embeddings,
            "rope": {"theta": self.shape.rope.theta, "kind": self.shape.rope.kind, **self.shape.rope.parameters},
            "kv_bytes_per_token": {kind: self.kv_bytes_per_token(kind) for kind in KV_BYTES},
        }


def inspect_checkpoint(checkpoint: Path) -> Inspection:
    """Look whether a checkpoint can be served, and what it is.

    Raises CheckpointError for weights that are no safetensors, an architecture or a feature that is not supported,
    tensors that are not those of config.json, and a tokenizer or a chat template that cannot be used.
    """
    if not checkpoint.is_dir():
        raise CheckpointError(f"{checkpoint}: no such folder; a Hugging Face checkpoint folder is needed")
    shape, _, quantization = open_weights(checkpoint)
    try:
        tokenizer = load_tokenizer(checkpoint)
    except TokenizerError as error:
        raise CheckpointError(str(error)) from error
    if len(tokenizer) > shape.vocab_size:
        raise CheckpointError(
            f"{checkpoint}: the tokenizer has {len(tokenizer)} ids, config.json says {shape.vocab_size}"
        )
    _check_chat_template(tokenizer.chat_template)
    size = sum(path.stat().st_size for path in weight_files(checkpoint))
    return Inspection(shape, quantization, size, len(tokenizer), bool(tokenizer.chat_template))


def _check_chat_template(template: str | None) -> None:
    import jinja2

    try:
        jinja2.Environment().parse(template or "")
    except jinja2.TemplateSyntaxError as error:
        # Tags of transformers' own are unknown here; what is wrong with them shows at the first request.
        if "unknown tag" not in str(error):
            raise CheckpointError(f"its chat template: {error}") from error
