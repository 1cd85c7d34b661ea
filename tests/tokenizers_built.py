"""Four kinds of tokenizer, built in the test from a few lines of text."""

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

LINES = (
    "Three banks of oars above the foam, the drum is slow; don't stop: it's wide. We've rowed, they're tired!",
    "def f(x):\n\treturn {'a': [1, 2.5, None]}  # code",
    "你好世界，我们在海上。",
    "مرحبا بالعالم، السفينة في البحر.",
    "नमस्ते दुनिया, नाव नदी में है।",
    "emoji 👋🏽 👨‍👩‍👧 🏳️‍🌈 and   runs    of spaces",
)


def _wrap(tokenizer: Tokenizer, **options: object) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", **options
    )


def byte_level_bpe() -> PreTrainedTokenizerFast:
    """As GPT-2 and Llama 3 have."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES * 3, trainer)
    return _wrap(tokenizer, clean_up_tokenization_spaces=False)


def metaspace_bpe() -> PreTrainedTokenizerFast:
    """With byte fallback, as Llama 2 has."""
    seed = Tokenizer(models.BPE())
    seed.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    ascii_lines = ["".join(c for c in line if ord(c) < 128) for line in LINES]
    seed.train_from_iterator(ascii_lines * 3, trainers.BpeTrainer(vocab_size=160, show_progress=False))
    import json

    trained = json.loads(seed.to_str())["model"]
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{byte:02X}>": 3 + byte for byte in range(256)}}
    for token in trained["vocab"]:
        vocab.setdefault(token, len(vocab))
    merges = [tuple(merge) for merge in trained["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = seed.normalizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _wrap(tokenizer, clean_up_tokenization_spaces=False)


def unigram() -> PreTrainedTokenizerFast:
    """As T5 and XLNet have, without byte fallback."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=240, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(LINES * 3, trainer)
    return _wrap(tokenizer, clean_up_tokenization_spaces=False)


def word_piece() -> PreTrainedTokenizerFast:
    """As BERT has: the decoder and transformers both clean up spaces."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\s+"), "removed"), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    trainer = trainers.WordPieceTrainer(vocab_size=260, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(LINES * 3, trainer)
    return _wrap(tokenizer, clean_up_tokenization_spaces=True)


KINDS = {
    "byte-level BPE": byte_level_bpe,
    "Metaspace BPE with byte fallback": metaspace_bpe,
    "Unigram": unigram,
    "WordPiece with clean-up": word_piece,
}
