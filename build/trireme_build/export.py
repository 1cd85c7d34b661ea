"""Writes what a calibrated checkpoint is served from, with nvidia-modelopt. Needs the extra `build`."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .checkpoint import DecoderShape, read_config
from .errors import CheckpointError
from .memory import release
from .quantize import load_bfloat16, load_source, quietly
from .tokenizer_folder import TOKENIZER_FILES

#: What modelopt calls the families' decoders.
_DECODERS: Mapping[str, str] = {"llama": "llama", "mistral": "llama", "qwen2": "qwen", "qwen3": "qwen"}


def load_calibrated(folder: Path, checkpoint: Path) -> Any:
    """The model that `calibrate` wrote to `folder`, its quantizers in place; of an unquantized one, the source itself.

    folder: the calibrated one, or `checkpoint` again for bf16.
    """
    if folder == checkpoint:
        return load_source(checkpoint)[0]
    with quietly():
        import modelopt.torch.opt as mto

        mto.enable_huggingface_checkpointing()
        return load_bfloat16(folder, DecoderShape.from_config(read_config(checkpoint)))


def export_huggingface(folder: Path, checkpoint: Path, out: Path) -> None:
    """Write the unified Hugging Face checkpoint, tokenizer included: what the LLM API loads, and `exported` reads.

    Raises CheckpointError if what was exported has another shape, or other rotary embeddings, than the source.
    """
    import torch

    model = load_calibrated(folder, checkpoint)
    with quietly(), torch.inference_mode():
        from modelopt.torch.export import export_hf_checkpoint

        if folder == checkpoint:
            model.save_pretrained(out)
        else:
            export_hf_checkpoint(model, dtype=torch.bfloat16, export_dir=out)
    del model
    release()
    for name in (*TOKENIZER_FILES, "generation_config.json"):
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, out / name)
    shape, exported = (DecoderShape.from_config(read_config(path)) for path in (checkpoint, out))
    if exported != shape:
        raise CheckpointError(f"{out / 'config.json'}: describes {exported}, and {checkpoint} is {shape}")


def check_ranks(shape: DecoderShape, tensor_parallel: int) -> None:
    """Raise CheckpointError for a shape that cannot be divided among so many ranks."""
    for key, value in (
        ("num_attention_heads", shape.num_heads),
        ("num_key_value_heads", shape.num_kv_heads),
        ("intermediate_size", shape.intermediate_size),
        ("vocab_size", shape.vocab_size),
    ):
        if value % tensor_parallel:
            raise CheckpointError(f"config.json: {key} is {value}, which {tensor_parallel} ranks cannot share")


def export_tensorrt_llm(folder: Path, checkpoint: Path, out: Path, tensor_parallel: int) -> None:
    """Write the checkpoint that trtllm-build reads: config.json and a rankN.safetensors for each of `tensor_parallel`.

    Raises CheckpointError for a shape that cannot be divided among so many ranks.
    """
    import torch

    shape = DecoderShape.from_config(read_config(checkpoint))
    check_ranks(shape, tensor_parallel)
    model = load_calibrated(folder, checkpoint)
    with quietly(), torch.inference_mode():
        from modelopt.torch.export import export_tensorrt_llm_checkpoint

        export_tensorrt_llm_checkpoint(
            model, _DECODERS[shape.family], torch.bfloat16, out, inference_tensor_parallel=tensor_parallel
        )
    del model
    release()
