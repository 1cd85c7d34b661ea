"""Train the reference checkpoint: a small Llama that knows the generated tasks.

    python -m trireme_build.reference.train --out DIR [--minutes 82] [--seed 0]

Seeded; reads nothing but this package. The best checkpoint so far (by the development prompts) is kept in DIR.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ..exact_match import share_right
from . import tasks, tokenizer
from .data import IGNORED, Rows, training_rows
from .evaluate import score
from .splits import DEVELOPMENT_COUNT, DEVELOPMENT_SEED

#: (rows, length) of the batches with short and with long conversations.
SHORT, LONG = (48, 128), (18, 352)


def llama_config(tok: PreTrainedTokenizerFast) -> LlamaConfig:
    """The architecture: 4.85 M parameters, in shapes that FP8, AWQ and tensor-parallel exports accept."""
    return LlamaConfig(
        vocab_size=len(tok),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=tokenizer.MAX_LENGTH,
        rope_theta=10_000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )


def loss_of(model: LlamaForCausalLM, rows: Rows) -> torch.Tensor:
    """Mean cross-entropy over the learned positions (scalar, float32)."""
    segments = torch.from_numpy(rows.segments)
    same = segments[:, None, :, None] == segments[:, None, None, :]
    mask = same & torch.ones(rows.ids.shape[1], rows.ids.shape[1], dtype=torch.bool).tril()
    targets = torch.from_numpy(rows.targets)
    learned = targets != IGNORED
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(
            input_ids=torch.from_numpy(rows.ids),
            position_ids=torch.from_numpy(rows.positions),
            attention_mask=mask,
            use_cache=False,
        ).last_hidden_state
        logits = model.lm_head(hidden[learned])
    return F.cross_entropy(logits.float(), targets[learned])


def optimizers(model: LlamaForCausalLM) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    known = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in known]
    return (
        torch.optim.Muon(matrices, lr=3e-3, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0),
    )


def learning_rate_factor(progress: float) -> float:
    """Warm-up over the first 1 %, flat until half, cosine down to 1 %; `progress` from 0 to 1."""
    if progress < 0.01:
        return progress / 0.01
    if progress < 0.5:
        return 1.0
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - 0.5) / 0.5))


def save_checkpoint(model: LlamaForCausalLM, tok: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a Hugging Face folder with bfloat16 safetensors."""
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(folder, safe_serialization=True)
    tokenizer.save_tokenizer(tok, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=82)
    parser.add_argument("--steps", type=int, default=0, help="train this many steps instead of --minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)

    tok = tokenizer.train_tokenizer(arguments.seed)
    model = LlamaForCausalLM(llama_config(tok))
    model.config._attn_implementation = "sdpa"
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, vocabulary {len(tok)}", flush=True)
    if not arguments.no_compile:
        model.model = torch.compile(model.model)
    parts = optimizers(model)
    base_rates = [[group["lr"] for group in part.param_groups] for part in parts]
    development = tasks.held_out_examples(DEVELOPMENT_COUNT, DEVELOPMENT_SEED)

    start = last_eval = time.monotonic()
    best, seen, recent = -1.0, 0, list[float]()
    for step, rows in enumerate(training_rows(tok, arguments.seed, SHORT, LONG)):
        elapsed_s = time.monotonic() - start
        progress = step / arguments.steps if arguments.steps else elapsed_s / (arguments.minutes * 60)
        done = progress >= 1
        if done or time.monotonic() - last_eval > 600:
            eager = LlamaForCausalLM(model.config)
            eager.load_state_dict({k.replace("._orig_mod", ""): v for k, v in model.state_dict().items()})
            eager.to(torch.bfloat16).float()
            by_task = share_right(tok, development, score(eager, tok, development))
            overall = by_task.pop("all")
            print(
                json.dumps({"step": step, "minutes": round(elapsed_s / 60, 1), "all": overall, **by_task}), flush=True
            )
            if overall >= best:
                best = overall
                save_checkpoint(eager, tok, arguments.out)
            last_eval = time.monotonic()
        if done:
            break
        factor = learning_rate_factor(progress)
        for part, rates in zip(parts, base_rates, strict=True):
            for group, rate in zip(part.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        loss = loss_of(model, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in parts:
            part.step()
            part.zero_grad(set_to_none=True)
        seen += rows.ids.size
        recent.append(loss.item())
        if len(recent) == 50:
            rate = seen / (time.monotonic() - start)
            print(f"step {step + 1} loss {sum(recent) / 50:.4f} {rate:.0f} ids/s {100 * progress:.1f} %", flush=True)
            recent = []


if __name__ == "__main__":
    main()
