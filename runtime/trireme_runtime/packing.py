"""A chunk as one INT32 tensor, from `tensorrt_llm` to `postprocessing`: each further tensor costs time.

process id of the sender, stream key (low 31 bits), stream key (high bits), rows, length of the window,
for each row: its length, and 1 if nothing follows, then the window's ids, then those of each row
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .answers import Chunk
from .contract import invalid

_LOW_BITS = 31
_HEADER = 5


@dataclass(frozen=True)
class PackedChunk:
    """source: the sender's process id. rows: of each sequence its ids, and whether they are the last ones."""

    source: int
    stream_key: int
    window_ids: list[int]
    rows: list[tuple[list[int], bool]]


def pack(chunk: Chunk, source: int) -> list[int]:
    """The values of the tensor."""
    pieces = chunk.pieces
    # Several sequences are sent whole, without a window.
    window = pieces[0].window_ids
    key = chunk.stream_key
    values = [source, key & ((1 << _LOW_BITS) - 1), key >> _LOW_BITS, len(pieces), len(window)]
    for piece in pieces:
        values += (len(piece.output_ids), int(piece.finish_reason is not None))
    values += window
    for piece in pieces:
        values += piece.output_ids
    return values


def unpack(values: Sequence[int]) -> PackedChunk:
    """What `pack` packed. Raises Refusal for anything else."""
    if len(values) < _HEADER or min(values) < 0:
        raise invalid("CHUNK: not what tensorrt_llm sends")
    source, low, high, count, window = values[:_HEADER]
    start = _HEADER + 2 * count
    shapes = values[_HEADER:start]
    if len(values) != start + window + sum(shapes[::2]):
        raise invalid(f"CHUNK has {len(values)} values, which are not the number that its first ones say")
    window_ids = list(values[start : start + window])
    start += window
    rows = []
    for length, last in zip(shapes[::2], shapes[1::2], strict=True):
        rows.append((list(values[start : start + length]), bool(last)))
        start += length
    return PackedChunk(source, low | high << _LOW_BITS, window_ids, rows)
