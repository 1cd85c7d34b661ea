"""Quantizes a checkpoint with nvidia-modelopt on the CPU. Needs the extra `build`.

What comes out is a *calibrated* folder: the weights in bfloat16 and, beside them, what each quantizer knows. `export`
writes checkpoints for engines from it.
"""

import contextlib
import copy
import io
import itertools
import random
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint import DecoderShape, Tensors, check_weights, read_config, weight_files
from .errors import CheckpointError
from .memory import return_large_blocks
from .progress import Progress, untold
from .quantization import Quantization

#: What modelopt calls the configurations.
_CONFIGS = {
    Quantization.FP8: "FP8_DEFAULT_CFG",
    Quantization.FP8_KV: "FP8_DEFAULT_CFG",
    Quantization.NVFP4: "NVFP4_DEFAULT_CFG",
    Quantization.INT4_AWQ: "INT4_AWQ_CFG",
    Quantization.INT8_SQ: "INT8_SMOOTHQUANT_CFG",
}


#: In bytes.
_SMALLEST_SHARD = 32 << 20


@dataclass(frozen=True)
class Calibration:
    """Texts that the model sees so that the ranges of its activations are known: `blocks` of `length` tokens."""

    texts: Iterable[str]
    blocks: int = 32
    length: int = 256
    batch: int = 8


def calibrate(
    checkpoint: Path,
    out: Path,
    quantization: Quantization,
    calibration: Calibration,
    seed: int = 0,
    progress: Progress = untold,
) -> None:
    """Write the calibrated folder `out`; the same weights and scales for the same seed.

    Raises CheckpointError for a checkpoint that cannot be read, or is quantized already, and for calibration texts of
    fewer tokens than one block.
    """
    import torch

    random.seed(seed)
    torch.manual_seed(seed)
    model, tokenizer, shape = load_source(checkpoint)
    batches = list(_batches(tokenizer, calibration, shape.max_positions))

    def run(module: Any) -> None:
        for number, ids in enumerate(batches, 1):
            module(input_ids=ids, use_cache=False)
            progress(number, len(batches))

    with quietly():
        import modelopt.torch.opt as mto
        import modelopt.torch.quantization as mtq

        config = copy.deepcopy(getattr(mtq, _CONFIGS[quantization]))
        if quantization is Quantization.FP8_KV:
            config = mtq.utils.update_quant_cfg_with_kv_cache_quant(config, mtq.FP8_KV_CFG["quant_cfg"])
        with torch.no_grad():
            mtq.quantize(model, config, run)
        mto.enable_huggingface_checkpointing()
        # What is mapped of a file is let go when nothing of it is in use: in many files, that is soon.
        size = sum(path.stat().st_size for path in weight_files(checkpoint))
        model.save_pretrained(out, max_shard_size=max(_SMALLEST_SHARD, size // 16))
    # modelopt, imported here for the first time, keeps this frame.
    del model


def load_source(checkpoint: Path) -> tuple[Any, Any, DecoderShape]:
    """The model of a checkpoint that is not quantized, in bfloat16; its tokenizer, and its shape.

    Raises CheckpointError if its weights are not what config.json says.
    """
    from transformers import AutoTokenizer

    shape = DecoderShape.from_config(read_config(checkpoint))
    check_weights(Tensors(checkpoint), shape)
    return load_bfloat16(checkpoint, shape), AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False), shape


def load_bfloat16(folder: Path, shape: DecoderShape) -> Any:
    """A checkpoint that transformers can read, with the rotary embeddings of `shape`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    return_large_blocks()
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    shape.rope.write_to(config)
    model = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.bfloat16, use_safetensors=True, trust_remote_code=False
    )
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim < 2:
            # The matrices are mapped from their file; these would keep it mapped when the matrices are gone.
            tensor.data = tensor.data.clone()
    return model.eval()


def blocks_of(tokenizer: Any, texts: Iterable[str], length: int) -> Iterator[list[int]]:
    """The texts as token ids, one after the other, cut into blocks of `length`; nothing is padded, a rest left out."""
    waiting: list[int] = []
    for text in texts:
        waiting += tokenizer.encode(text, add_special_tokens=False)
        while len(waiting) >= length:
            yield waiting[:length]
            del waiting[:length]


def _batches(tokenizer: Any, calibration: Calibration, context_tokens: int) -> Iterator[Any]:
    """int64 [batch, length] each."""
    import torch

    length = min(calibration.length, context_tokens)
    blocks = list(itertools.islice(blocks_of(tokenizer, calibration.texts, length), calibration.blocks))
    if not blocks:
        raise CheckpointError(f"the calibration texts have fewer than {length} tokens in all; so many are needed")
    for first in range(0, len(blocks), calibration.batch):
        yield torch.tensor(blocks[first : first + calibration.batch])


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the tables, notices and warnings that modelopt prints."""
    nowhere = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        yield
