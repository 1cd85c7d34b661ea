"""A Hugging Face checkpoint of random weights, made without torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file


@dataclass(frozen=True)
class Dimensions:
    """Of a Llama. The default is as small as makes sense; B and C have 125 and 300 million parameters
    with a vocabulary of 512."""

    hidden: int = 64
    intermediate: int = 96
    heads: int = 4
    kv_heads: int = 2
    layers: int = 2
    context_tokens: int = 512


B = Dimensions(hidden=768, intermediate=3072, heads=12, kv_heads=12, layers=13, context_tokens=2048)

#: 300 million.
C = Dimensions(hidden=1024, intermediate=4096, heads=16, kv_heads=8, layers=19, context_tokens=2048)


def write_checkpoint(
    folder: Path,
    tokenizer: Any,
    seed: int = 0,
    dimensions: Dimensions = Dimensions(),
    dtype: Any = np.float32,
) -> None:
    """A Llama with the vocabulary of `tokenizer`; it makes no sense, and makes it deterministically.

    dtype: of the weights, a float of numpy's or of ml_dtypes'.
    """
    folder.mkdir(parents=True)
    hidden, intermediate, vocab = dimensions.hidden, dimensions.intermediate, len(tokenizer)
    heads, kv_heads, layers = dimensions.heads, dimensions.kv_heads, dimensions.layers
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": dimensions.context_tokens,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    (folder / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng(seed)

    def weight(*shape: int) -> Any:
        values = random.standard_normal(shape, np.float32) * np.float32(0.3 * (64 / hidden) ** 0.5)
        return values.astype(dtype)

    kv = hidden // heads * kv_heads
    weights = {"model.embed_tokens.weight": weight(vocab, hidden), "lm_head.weight": weight(vocab, hidden)}
    weights["model.norm.weight"] = np.ones(hidden, dtype)
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        shapes = {"q": (hidden, hidden), "k": (kv, hidden), "v": (kv, hidden), "o": (hidden, hidden)}
        weights |= {f"{prefix}.self_attn.{name}_proj.weight": weight(*shape) for name, shape in shapes.items()}
        weights[f"{prefix}.mlp.gate_proj.weight"] = weight(intermediate, hidden)
        weights[f"{prefix}.mlp.up_proj.weight"] = weight(intermediate, hidden)
        weights[f"{prefix}.mlp.down_proj.weight"] = weight(hidden, intermediate)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}.{norm}.weight"] = np.ones(hidden, dtype)
    save_file(weights, folder / "model.safetensors")
    tokenizer.save_pretrained(folder)
