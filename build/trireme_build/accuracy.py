"""How far a quantized checkpoint is from its source: both run in float32 on the same tokens. Needs torch.

The codes are read back from the exported files and multiplied with their scales; activations are not quantized.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint import read_config
from .exported import open_weights
from .matrices import WeightFormat


@dataclass(frozen=True)
class Accuracy:
    """Means over `tokens` predicted tokens.

    kl: Kullback-Leibler divergence of the candidate from the source, in nats. top1: the share of positions at which
    both find the same token the likeliest. perplexity: that of the candidate, source_perplexity: that of the source.
    """

    tokens: int
    kl: float
    top1: float
    perplexity: float
    source_perplexity: float


def compare(source: Path, candidate: Path, blocks: Sequence[Sequence[int]]) -> Accuracy:
    """Run both checkpoints on `blocks` of token ids, at least two each.

    Raises CheckpointError for a checkpoint that cannot be read, ValueError if there is nothing to predict.
    """
    import torch

    tokens = sum(len(ids) - 1 for ids in blocks)
    if tokens < 1 or not all(blocks):
        raise ValueError("there is no token to predict: blocks of at least two token ids are needed")
    models = [load_float32(folder) for folder in (source, candidate)]
    divergence = agreement = 0.0
    losses = [0.0, 0.0]
    for ids in blocks:
        batch = torch.tensor([list(ids)])
        with torch.inference_mode():
            first, second = (torch.log_softmax(model(batch).logits[0, :-1], -1) for model in models)
        divergence += float((first.exp() * (first - second)).sum())
        agreement += float((first.argmax(-1) == second.argmax(-1)).sum())
        for index, log_probs in enumerate((first, second)):
            losses[index] -= float(log_probs[torch.arange(len(ids) - 1), batch[0, 1:]].sum())
    perplexities = [math.exp(loss / tokens) for loss in losses]
    return Accuracy(tokens, max(0.0, divergence / tokens), agreement / tokens, perplexities[1], perplexities[0])


def load_float32(folder: Path) -> Any:
    """A checkpoint, quantized or not, as a transformers model in float32, its weights multiplied out."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape, weights, _ = open_weights(folder)
    config = AutoConfig.for_model(**{k: v for k, v in read_config(folder).items() if k != "quantization_config"})
    shape.rope.write_to(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    state = {}
    for name, dims in shape.weight_shapes.items():
        matrix = len(dims) == 2
        values = (
            weights.matrix(name.removesuffix(".weight"), WeightFormat.F32).values() if matrix else weights.vector(name)
        )
        state[name] = torch.from_numpy(values.copy())
    if shape.tied_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, assign=True)
    # What is no parameter was made on no device.
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval()
