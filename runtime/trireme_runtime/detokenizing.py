"""Token ids back to text, incrementally and exactly.

A piece of a stream is detokenized without state: it comes with a *window*, some ids that were sent before, and its text
is decode(window + new) without decode(window). The window begins where a character begins, so that both decode as they
do within the whole. Bytes of a character that is not complete yet are held back until it is, or until the end.
"""

from collections.abc import Sequence
from typing import Any

REPLACEMENT = "\ufffd"

#: How many ids a window holds at least, where the stream has as many.
WINDOW_IDS = 6


def _byte_of_unicode() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes (openai/gpt-2, encoder.py, bytes_to_unicode), inverted."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return table


def _continues_character(token: str, byte_level: bool, stand_ins: dict[str, int]) -> bool:
    """Whether the token's first byte is a UTF-8 continuation byte (0x80 to 0xBF)."""
    if byte_level:
        first = stand_ins.get(token[:1], 0)
    elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        first = int(token[3:5], 16)
    else:
        return False
    return 0x80 <= first <= 0xBF


class Detokenizer:
    """Decodes ids with a fast Hugging Face tokenizer, special tokens left out."""

    def __init__(self, tokenizer: Any) -> None:
        self._backend = tokenizer.backend_tokenizer
        added = tokenizer.added_tokens_decoder
        byte_level = "ByteLevel" in str(self._backend.decoder)
        stand_ins = _byte_of_unicode()
        self._continues = [
            index not in added and _continues_character(self._backend.id_to_token(index) or "", byte_level, stand_ins)
            for index in range(len(tokenizer))
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of all of `ids`."""
        return str(self._backend.decode(ids, skip_special_tokens=True))

    def window_start(self, ids: Sequence[int], sent: int) -> int:
        """Where the window before `ids[sent:]` begins: at a character boundary, WINDOW_IDS or a few more back."""
        start = max(0, sent - WINDOW_IDS)
        while start > 0 and self._continues[ids[start]]:
            start -= 1
        return start

    def delta(self, window: Sequence[int], new: Sequence[int], final: bool) -> str:
        """The text that `new` adds after `window`; with `final`, all that was held back comes too."""
        before = self.decode(window).rstrip(REPLACEMENT) if window else ""
        after = self.decode([*window, *new])
        return (after if final else after.rstrip(REPLACEMENT))[len(before) :]
