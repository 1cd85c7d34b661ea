"""A Hugging Face tokenizer as the two OpenVINO models from which structured output knows the vocabulary."""

from pathlib import Path
from typing import Any

import numpy as np
from openvino import opset13 as ops

from trireme_runtime.tokenizing import load_tokenizer

from .checkpoint import CheckpointError
from .openvino_files import save_model


def convert_tokenizer(folder: Path, out: Path) -> None:
    """Write openvino_tokenizer and openvino_detokenizer, .xml and .bin, of the tokenizer in `folder` into `out`.

    Special tokens have no text in them, so that no grammar spells one. Raises CheckpointError for a kind of tokenizer
    that cannot be converted.
    """
    import openvino_tokenizers

    tokenizer = load_tokenizer(folder)
    try:
        encoder, decoder = openvino_tokenizers.convert_tokenizer(tokenizer, with_detokenizer=True)
        _silence(decoder, {index for index, token in tokenizer.added_tokens_decoder.items() if token.special})
    except Exception as error:
        raise CheckpointError(f"{folder}: the tokenizer cannot be converted for structured output: {error}") from error
    save_model(encoder, out / "openvino_tokenizer.xml")
    save_model(decoder, out / "openvino_detokenizer.xml")


def _silence(decoder: Any, special_ids: set[int]) -> None:
    """Give the special ids of a detokenizer empty texts: each ends where it begins."""
    for node in decoder.get_ops():
        if node.get_type_name() != "VocabDecoder":
            continue
        begins = _constant(node, 1).data.copy()
        ends = _constant(node, 2)
        silent = ends.data.copy()
        for index in special_ids:
            if index < len(silent):
                silent[index] = begins[index]
        replacement = ops.constant(silent.astype(np.int32))
        node.input(2).replace_source_output(replacement.output(0))
        return
    raise ValueError("the detokenizer has no vocabulary")


def _constant(node: Any, port: int) -> Any:
    return node.input_value(port).get_node()
