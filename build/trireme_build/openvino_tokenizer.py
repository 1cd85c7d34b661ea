"""The two OpenVINO models from which the engine's structured output knows what text each id stands for.

Nothing is tokenized with them, so they need not be those of the tokenizer: they are made of a plain one with as many
ids, and then given the texts.
"""

from pathlib import Path
from typing import Any

import numpy as np
from openvino import opset13 as ops

from trireme_runtime.detokenizing import Detokenizer
from trireme_runtime.tokenizing import load_tokenizer

from .openvino_files import save_model

#: Every byte that occurs in UTF-8 (RFC 3629, section 4).
_UTF8_BYTES = {bytes([byte]) for byte in range(0xF5) if byte not in (0xC0, 0xC1)}


def write_vocabulary(folder: Path, vocab_size: int, out: Path) -> bool:
    """Write openvino_tokenizer and openvino_detokenizer, .xml and .bin, for the tokenizer in `folder` into `out`.

    Special ids, and those of the model's `vocab_size` that the tokenizer does not have, get no text, so that no grammar
    spells them. False, and nothing is written, where ids have no texts of their own, where not every byte has an id (a
    grammar could lead to where none goes on), or where no id ends an answer.
    """
    import openvino_tokenizers

    tokenizer = load_tokenizer(folder)
    texts = Detokenizer(tokenizer).vocabulary()
    if texts is None or not set(texts) >= _UTF8_BYTES or tokenizer.eos_token_id is None:
        return False
    plain = _plain_tokenizer(vocab_size, tokenizer.eos_token_id)
    encoder, decoder = openvino_tokenizers.convert_tokenizer(plain, with_detokenizer=True)
    _set_texts(decoder, texts + [b""] * (vocab_size - len(texts)))
    save_model(encoder, out / "openvino_tokenizer.xml")
    save_model(decoder, out / "openvino_detokenizer.xml")
    return True


def _plain_tokenizer(vocab_size: int, end_id: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(vocab={f"t{index}": index for index in range(vocab_size)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=f"t{end_id}")


def _set_texts(decoder: Any, texts: list[bytes]) -> None:
    (node,) = (node for node in decoder.get_ops() if node.get_type_name() == "VocabDecoder")
    ends = np.cumsum([len(text) for text in texts], dtype=np.int32)
    begins = np.concatenate([np.zeros(1, np.int32), ends[:-1]])
    characters = np.frombuffer(b"".join(texts), np.uint8)
    for port, values in ((1, begins), (2, ends), (3, characters)):
        node.input(port).replace_source_output(ops.constant(values).output(0))
