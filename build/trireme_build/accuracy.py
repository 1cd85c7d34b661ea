"""How far a candidate is from its source: both compute the log-probabilities of the same tokens.

The candidates are a checkpoint whose codes are read back and multiplied with their scales, run by transformers in
float32, and an engine folder, run by OpenVINO as it is served.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checkpoint import DecoderShape, read_config
from .exported import Weights, open_weights
from .matrices import WeightFormat
from .progress import Progress, untold

#: Natural logarithms of the probabilities of each next token, float32 [tokens - 1, vocabulary], of token ids.
LogProbs = Callable[[Sequence[int]], NDArray[np.float32]]


@dataclass(frozen=True)
class Block:
    """A text as token ids; what is looked at is how those from the index `first` on, at least 1, are predicted."""

    ids: Sequence[int]
    first: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.first < len(self.ids):
            raise ValueError(f"a text of {len(self.ids)} ids has nothing to predict from id {self.first} on")


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

    @property
    def perplexity_increase(self) -> float:
        """As a share of the source's; below 0 where the candidate's is lower."""
        return self.perplexity / self.source_perplexity - 1

    def figures(self) -> dict[str, float]:
        """For a manifest."""
        return {key: round(value, 6) for key, value in asdict(self).items()}


def compare(
    source: LogProbs,
    candidate: LogProbs,
    blocks: Sequence[Block],
    progress: Progress = untold,
) -> Accuracy:
    """Compare two on texts. Raises ValueError if there are none."""
    if not blocks:
        raise ValueError("there is no text to compare on")
    tokens = 0
    divergence = agreement = 0.0
    losses = [0.0, 0.0]
    for number, block in enumerate(blocks, 1):
        first, second = (score(block.ids)[block.first - 1 :] for score in (source, candidate))
        tokens += len(first)
        divergence += float((np.exp(first) * (first - second)).sum(dtype=np.float64))
        agreement += float((first.argmax(-1) == second.argmax(-1)).sum())
        next_ids = np.asarray(block.ids[block.first :])
        for index, log_probs in enumerate((first, second)):
            losses[index] -= float(log_probs[np.arange(len(next_ids)), next_ids].sum(dtype=np.float64))
        progress(number, len(blocks))
    perplexities = [math.exp(loss / tokens) for loss in losses]
    return Accuracy(tokens, max(0.0, divergence / tokens), agreement / tokens, perplexities[1], perplexities[0])


def torch_log_probs(model: Any) -> LogProbs:
    """Of a transformers model, where it is."""
    import torch

    def log_probs(ids: Sequence[int]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = model(torch.tensor([list(ids)], device=model.device)).logits[0, :-1]
            found: NDArray[np.float32] = torch.log_softmax(logits.float(), -1).cpu().numpy()
        return found

    return log_probs


def openvino_log_probs(engine: Path) -> LogProbs:
    """Of an engine folder, computed as the engine computes it."""
    import openvino as ov

    from trireme_runtime.engines.openvino_child import EXACT_FLOAT32

    infer = ov.Core().compile_model(engine / "openvino_model.xml", "CPU", EXACT_FLOAT32).create_infer_request()

    def log_probs(ids: Sequence[int]) -> NDArray[np.float32]:
        infer.reset_state()
        inputs = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, len(ids)), np.int64),
            "position_ids": np.arange(len(ids), dtype=np.int64)[np.newaxis],
            "beam_idx": np.zeros(1, np.int32),
        }
        logits: NDArray[np.float32] = infer.infer(inputs)["logits"][0, :-1]
        shifted = logits - logits.max(-1, keepdims=True)
        found: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        return found

    return log_probs


def load_float32(folder: Path) -> Any:
    """A checkpoint, quantized or not, as a transformers model in float32, its weights multiplied out. Needs torch."""
    shape, weights, _ = open_weights(folder)
    return as_float32_model(read_config(folder), shape, weights)


def as_float32_model(config: dict[str, Any], shape: DecoderShape, weights: Weights) -> Any:
    """The transformers model that a Hugging Face `config` describes, with `weights` multiplied out. Needs torch."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = AutoConfig.for_model(**{k: v for k, v in config.items() if k != "quantization_config"})
    shape.rope.write_to(settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32, trust_remote_code=False)
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
    model.model.rotary_emb = type(model.model.rotary_emb)(settings)
    return model.eval()
