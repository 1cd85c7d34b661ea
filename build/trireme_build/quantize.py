"""Quantizes a checkpoint with nvidia-modelopt on the CPU, and exports it as a Hugging Face folder of codes and scales.

    python -m trireme_build.quantize CHECKPOINT OUT --to fp8 --calibration TEXTS

Needs the extra `build`. `exported.py` reads what this writes.
"""

import argparse
import contextlib
import copy
import io
import itertools
import random
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from .accuracy import Accuracy, compare
from .checkpoint import DecoderShape, Tensors, check_weights, read_config
from .errors import CheckpointError
from .tokenizer_folder import TOKENIZER_FILES


class Quantization(str, Enum):
    """What to quantize to.

    fp8: weights and activations in E4M3, a scale for each tensor. fp8_kv: the key-value cache too. nvfp4: weights and
    activations in E2M1, a scale in E4M3 for each 16, and one for all. int4_awq: weights in groups of 128, scaled by
    what the activations show (Lin et al. 2023). int8_sq: weights and activations, smoothed (Xiao et al. 2022).
    """

    FP8 = "fp8"
    FP8_KV = "fp8_kv"
    NVFP4 = "nvfp4"
    INT4_AWQ = "int4_awq"
    INT8_SQ = "int8_sq"


#: What modelopt calls the configurations.
_CONFIGS = {
    Quantization.FP8: "FP8_DEFAULT_CFG",
    Quantization.FP8_KV: "FP8_DEFAULT_CFG",
    Quantization.NVFP4: "NVFP4_DEFAULT_CFG",
    Quantization.INT4_AWQ: "INT4_AWQ_CFG",
    Quantization.INT8_SQ: "INT8_SMOOTHQUANT_CFG",
}


@dataclass(frozen=True)
class Calibration:
    """Texts that the model sees so that the ranges of its activations are known: `blocks` of `length` tokens."""

    texts: Iterable[str]
    blocks: int = 32
    length: int = 256
    batch: int = 8


#: Told how many of so many calibration batches have been seen.
Progress = Callable[[int, int], None]


def quantize(
    checkpoint: Path,
    out: Path,
    quantization: Quantization,
    calibration: Calibration,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> None:
    """Write the quantized checkpoint, tokenizer included, into the new folder `out`; the same bytes for the same seed.

    Raises CheckpointError for a checkpoint that cannot be read, for calibration texts of fewer tokens than one block,
    and if what was exported has another shape, or other rotary embeddings, than the source.
    """
    import torch

    shape = DecoderShape.from_config(read_config(checkpoint))
    check_weights(Tensors(checkpoint), shape)
    random.seed(seed)
    torch.manual_seed(seed)
    model, tokenizer = _load(checkpoint, shape)
    batches = list(_batches(tokenizer, calibration, shape.max_positions))

    def run(module: Any) -> None:
        for number, ids in enumerate(batches, 1):
            module(input_ids=ids, use_cache=False)
            progress(number, len(batches))

    with _quietly():
        import modelopt.torch.quantization as mtq
        from modelopt.torch.export import export_hf_checkpoint

        config = copy.deepcopy(getattr(mtq, _CONFIGS[quantization]))
        if quantization is Quantization.FP8_KV:
            config = mtq.utils.update_quant_cfg_with_kv_cache_quant(config, mtq.FP8_KV_CFG["quant_cfg"])
        with torch.no_grad():
            mtq.quantize(model, config, run)
        with torch.inference_mode():
            export_hf_checkpoint(model, export_dir=out)
    for name in TOKENIZER_FILES:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, out / name)
    exported = DecoderShape.from_config(read_config(out))
    if exported != shape:
        raise CheckpointError(f"{out / 'config.json'}: describes {exported}, and {checkpoint} is {shape}")


def _load(checkpoint: Path, shape: DecoderShape) -> tuple[Any, Any]:
    """The model in bfloat16, and its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    shape.rope.write_to(config)
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, config=config, dtype=torch.bfloat16, use_safetensors=True, trust_remote_code=False
    )
    return model.eval(), AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)


def blocks_of(tokenizer: Any, texts: Iterable[str], length: int) -> Iterator[list[int]]:
    """The texts as token ids, one after the other, cut into blocks of `length`; nothing is padded, a rest left out."""
    waiting: list[int] = []
    for text in texts:
        waiting += tokenizer.encode(text, add_special_tokens=False)
        while len(waiting) >= length:
            yield waiting[:length]
            del waiting[:length]


def _first_blocks(tokenizer: Any, calibration: Calibration, context_tokens: int, count: int) -> list[list[int]]:
    length = min(calibration.length, context_tokens)
    return list(itertools.islice(blocks_of(tokenizer, calibration.texts, length), count))


def _batches(tokenizer: Any, calibration: Calibration, context_tokens: int) -> Iterator[Any]:
    """int64 [batch, length] each."""
    import torch

    blocks = _first_blocks(tokenizer, calibration, context_tokens, calibration.blocks)
    if not blocks:
        length = min(calibration.length, context_tokens)
        raise CheckpointError(f"the calibration texts have fewer than {length} tokens in all; so many are needed")
    for first in range(0, len(blocks), calibration.batch):
        yield torch.tensor(blocks[first : first + calibration.batch])


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the tables and warnings that modelopt prints."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a Hugging Face checkpoint folder")
    parser.add_argument("out", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--to", required=True, choices=[q.value for q in Quantization])
    parser.add_argument("--calibration", required=True, type=Path, help="texts in UTF-8, one a line")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    def show(done: int, total: int) -> None:
        print(f"\rcalibration {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    try:
        if arguments.out.exists():
            raise CheckpointError(f"{arguments.out}: is there already")
        texts = arguments.calibration.read_text(encoding="utf-8").splitlines(keepends=True)
        calibration = Calibration(texts)
        quantize(arguments.checkpoint, arguments.out, Quantization(arguments.to), calibration, arguments.seed, show)
        accuracy, apart = _judge(arguments.checkpoint, arguments.out, calibration)
    except CheckpointError as error:
        sys.exit(str(error))
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"{arguments.calibration}: {error}")
    print(
        f"Wrote {arguments.out}. On {accuracy.tokens} tokens{'' if apart else ', those of the calibration'}: "
        f"KL {accuracy.kl:.4f} nats, top-1 {100 * accuracy.top1:.1f} %, "
        f"perplexity {accuracy.perplexity:.4g}, {accuracy.source_perplexity:.4g} before."
    )


def _judge(checkpoint: Path, out: Path, calibration: Calibration) -> tuple[Accuracy, bool]:
    """The accuracy on texts that come after those of the calibration; on those, and False, where there are none."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(out, trust_remote_code=False)
    context_tokens = DecoderShape.from_config(read_config(out)).max_positions
    blocks = _first_blocks(tokenizer, calibration, context_tokens, 2 * calibration.blocks)
    apart = blocks[calibration.blocks :]
    return compare(checkpoint, out, apart or blocks), bool(apart)


if __name__ == "__main__":
    main()
