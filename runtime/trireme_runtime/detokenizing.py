"""Token ids back to text, incrementally and exactly.

A piece of a stream is detokenized without state: it comes with a *window*, some ids that were sent before, and its text
is decode(window + new) without decode(window). The window begins where a character begins, so that both decode as they
do within the whole. Bytes of a character that is not complete yet are held back until it is, or until the end.
"""

import json
import re
from codecs import utf_8_decode
from collections.abc import Iterable, Sequence
from typing import Any

REPLACEMENT = "\ufffd"

#: How many ids a window holds at least, where the stream has as many.
WINDOW_IDS = 6

#: What `clean_up_tokenization_spaces` replaces, in this order (transformers, tokenization_utils_base.py,
#: PreTrainedTokenizerBase.clean_up_tokenization).
_CLEAN_UP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


def held_length(text: str, patterns: Sequence[str]) -> int:
    """The length of the longest end of `text` that begins, but does not complete, one of `patterns`."""
    longest = 0
    for pattern in patterns:
        for length in range(min(len(pattern) - 1, len(text)), longest, -1):
            if pattern.startswith(text[-length:]):
                longest = length
                break
    return longest


def _byte_of_unicode() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes (openai/gpt-2, encoder.py, bytes_to_unicode), inverted."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return table


class Detokenizer:
    """Decodes ids with a fast Hugging Face tokenizer, special tokens left out.

    Equals `tokenizer.decode(ids, skip_special_tokens=True)` wherever that holds no U+FFFD.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._cleans_up = bool(tokenizer.clean_up_tokenization_spaces)
        added = tokenizer.added_tokens_decoder
        self._special = [index in added and added[index].special for index in range(len(tokenizer))]
        tokens = [self._backend.id_to_token(index) or "" for index in range(len(tokenizer))]
        stand_ins = _byte_of_unicode() if "ByteLevel" in str(self._backend.decoder) else {}
        byte_tokens = (
            {} if stand_ins else {i: int(m[1], 16) for i, t in enumerate(tokens) if (m := _BYTE_TOKEN.fullmatch(t))}
        )
        first_bytes = [byte_tokens.get(i, stand_ins.get(t[:1], 0)) for i, t in enumerate(tokens)]
        #: Whether an id begins inside a character, with a UTF-8 continuation byte.
        self._continues = [0x80 <= byte <= 0xBF and i not in added for i, byte in enumerate(first_bytes)]
        self._byte_tokens = byte_tokens
        self._stand_ins = stand_ins
        self._added = added
        self._tokens = tokens
        #: What each id adds, where that is the same wherever it stands; and whether a text loses its first space.
        self._table, self._drops_first_space = self._context_free()

    def _context_free(self) -> tuple[list[bytes] | None, bool]:
        decoder = json.loads(self._backend.to_str())["decoder"] or {}
        parts = decoder["decoders"] if decoder.get("type") == "Sequence" else [decoder]
        strips = [part for part in parts if part.get("type") == "Strip"]
        known = {"ByteLevel"} if self._stand_ins else {"Replace", "ByteFallback", "Fuse", "Strip"}
        if (
            self._cleans_up
            or {part.get("type") for part in parts} - known
            or any((part["content"], part["stop"]) != (" ", 0) or part["start"] > 1 for part in strips)
        ):
            return None, False
        return self.vocabulary(), any(part["start"] for part in strips)

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return len(self._tokens)

    def vocabulary(self) -> list[bytes] | None:
        """What each id adds to a text, as UTF-8 or a part of it; nothing for special ids.

        None where that depends on its neighbours, as it does if the tokenizer cleans up spaces. A space that it drops
        at the very beginning of a text is not taken into account.
        """
        if self._cleans_up:
            return None
        return [self._bytes_of(index, token) for index, token in enumerate(self._tokens)]

    def token(self, index: int) -> bytes:
        """What an id stands for by itself, as UTF-8 or a part of it; a special id by its name."""
        if self._special[index]:
            return self._tokens[index].encode("utf-8")
        return self._table[index] if self._table is not None else self._bytes_of(index, self._tokens[index])

    def _bytes_of(self, index: int, token: str) -> bytes:
        if self._special[index]:
            return b""
        if index in self._byte_tokens:
            return bytes([self._byte_tokens[index]])
        if self._stand_ins and index not in self._added:
            return bytes(self._stand_ins[character] for character in token)
        before = str(self._backend.decoder.decode(["x"]))
        return str(self._backend.decoder.decode(["x", token])).removeprefix(before).encode("utf-8")

    def decode(self, ids: Sequence[int]) -> str:
        """The text of all of `ids`."""
        text = self._raw(ids)
        return self._clean(text) if self._cleans_up else text

    def window_start(self, ids: Sequence[int], sent: int) -> int:
        """Where the window before `ids[sent:]` begins: at an id that begins a character, WINDOW_IDS or a few more back.

        Special ids have no text, so it does not begin with one: a tokenizer may drop the space in front of the first
        text, and a character may be spread around them. Where the tokenizer cleans up spaces, what it does depends on
        all that came before, and the window is everything.
        """
        if self._cleans_up:
            return 0
        start = max(0, sent - WINDOW_IDS)
        while start > 0 and (self._continues[ids[start]] or self._special[ids[start]]):
            start -= 1
        return start

    def delta(self, window: Sequence[int], new: Sequence[int], final: bool) -> str:
        """The text that `new` adds after `window`; with `final`, all that was held back comes too."""
        if self._table is not None:
            before_bytes = self.bytes_of(window)
            rest = before_bytes[utf_8_decode(before_bytes, "replace", False)[1] :] if before_bytes else b""
            return self.text_of(rest + self.bytes_of(new), final, is_first=not before_bytes)[0]
        before = self._settled(window) if window else ""
        together = [*window, *new]
        return (self.decode(together) if final else self._settled(together))[len(before) :]

    @property
    def is_context_free(self) -> bool:
        """Whether each id adds the same bytes wherever it stands: then there are `bytes_of` and `text_of`."""
        return self._table is not None

    def bytes_of(self, ids: Iterable[int]) -> bytes:
        """What `ids` add to a text."""
        assert self._table is not None
        return b"".join(map(self._table.__getitem__, ids))

    def text_of(self, data: bytes, final: bool, is_first: bool) -> tuple[str, int]:
        """The text of `data` up to its last complete character, or with `final` all of it, and how many bytes that is.

        is_first: whether no text came before.
        """
        text, used = utf_8_decode(data, "replace", final)
        return text[1:] if is_first and self._drops_first_space and text.startswith(" ") else text, used

    def _raw(self, ids: Sequence[int]) -> str:
        if not self._byte_tokens:
            return str(self._backend.decode(ids, skip_special_tokens=True))
        # The byte-fallback decoder gives up a whole run of bytes for one that is wrong or not complete yet.
        tokens: list[str] = []
        run = bytearray()
        for token in ids:
            byte = self._byte_tokens.get(token)
            if byte is not None:
                run.append(byte)
                continue
            if self._special[token]:
                continue
            if run:
                tokens.append(run.decode("utf-8", "replace"))
                run.clear()
            tokens.append(self._tokens[token])
        if run:
            tokens.append(run.decode("utf-8", "replace"))
        return str(self._backend.decoder.decode(tokens))

    @staticmethod
    def _clean(text: str) -> str:
        for found, replaced in _CLEAN_UP:
            text = text.replace(found, replaced)
        return text

    def _settled(self, ids: Sequence[int]) -> str:
        """The text of `ids` as far as no later id can change it."""
        # An incomplete character at the end is one U+FFFD; those before it stand for bytes that are wrong for good.
        text = self._raw(ids).removesuffix(REPLACEMENT)
        if not self._cleans_up:
            return text
        patterns = [found for found, _ in _CLEAN_UP]
        while held := held_length(text, patterns):
            text = text[:-held]
        return self._clean(text)
