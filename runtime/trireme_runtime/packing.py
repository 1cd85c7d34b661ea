"""A chunk as one INT32 tensor, from `tensorrt_llm` to `postprocessing`: each further tensor costs time.

process id of the sender, stream key (low 31 bits), stream key (high bits), ids of the prompt, ids sent so far,
rows, length of the window, for each row: its length, and why it ended or 0 if more follows (1 for the first
FinishReason), then the window's ids, then those of each row
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .answers import Chunk
from .contract import FinishReason, invalid

_LOW_BITS = 31
_HEADER = 7

_REASONS = (None, *FinishReason)
_CODES = {reason: code for code, reason in enumerate(_REASONS)}


@dataclass(frozen=True)
class PackedChunk:
    """source: the sender's process id. The counts are those of `Chunk`. rows: of each sequence its ids, and why it
    ended, None if more follows.
    """

    source: int
    stream_key: int
    num_input_tokens: int
    num_output_tokens: int
    window_ids: list[int]
    rows: list[tuple[list[int], FinishReason | None]]


def pack(chunk: Chunk, source: int) -> list[int]:
    """The values of the tensor."""
    pieces = chunk.pieces
    # Several sequences are sent whole, without a window.
    window = pieces[0].window_ids
    key = chunk.stream_key
    counts = (chunk.num_input_tokens, chunk.num_output_tokens)
    values = [source, key & ((1 << _LOW_BITS) - 1), key >> _LOW_BITS, *counts, len(pieces), len(window)]
    for piece in pieces:
        values += (len(piece.output_ids), _CODES[piece.finish_reason])
    values += window
    for piece in pieces:
        values += piece.output_ids
    return values


def unpack(values: Sequence[int]) -> PackedChunk:
    """What `pack` packed. Raises Refusal for anything else."""
    if len(values) < _HEADER or min(values) < 0:
        raise invalid("CHUNK: not what tensorrt_llm sends")
    source, low, high, inputs, outputs, count, window = values[:_HEADER]
    start = _HEADER + 2 * count
    shapes = values[_HEADER:start]
    if count == 0 or max(shapes[1::2], default=0) >= len(_REASONS):
        raise invalid("CHUNK: not what tensorrt_llm sends")
    if len(values) != start + window + sum(shapes[::2]):
        raise invalid(f"CHUNK has {len(values)} values, which are not the number that its first ones say")
    window_ids = list(values[start : start + window])
    start += window
    rows = []
    for length, code in zip(shapes[::2], shapes[1::2], strict=True):
        rows.append((list(values[start : start + length]), _REASONS[code]))
        start += length
    return PackedChunk(source, low | high << _LOW_BITS, inputs, outputs, window_ids, rows)
