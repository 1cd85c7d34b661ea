"""An answer as it is stored: its pieces, as they came."""

import json
from collections.abc import Sequence
from typing import Any

from trireme_client import Delta
from trireme_runtime.contract import token_bytes, token_text

#: How an answer ended that is whole.
_WHOLE = ("stop", "length")


def is_whole(batches: Sequence[Sequence[Delta]], sequences: int) -> bool:
    """Whether each of the sequences came to an end of its own."""
    ends = [delta.finish_reason for batch in batches for delta in batch if delta.finish_reason]
    return len(ends) == sequences and all(end in _WHOLE for end in ends)


def pack(batches: Sequence[Sequence[Delta]]) -> bytes:
    """The pieces as JSON."""
    return json.dumps([[_row(delta) for delta in batch] for batch in batches], ensure_ascii=False).encode("utf-8")


def unpack(data: bytes) -> list[list[Delta]]:
    """What `pack` packed. Raises ValueError for anything else."""
    try:
        return [[_delta(row) for row in batch] for batch in json.loads(data)]
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError(f"no stored answer: {error}") from None


def _row(delta: Delta) -> list[Any]:
    return [
        delta.index,
        delta.text,
        delta.finish_reason,
        delta.stop_reason,
        delta.num_input_tokens,
        delta.num_output_tokens,
        delta.log_probs,
        None if delta.tokens is None else [token_text(token) for token in delta.tokens],
        delta.cum_log_prob,
    ]


def _delta(row: list[Any]) -> Delta:
    index, text, finish_reason, stop_reason, inputs, outputs, log_probs, tokens, cum_log_prob = row
    return Delta(
        text=text,
        finish_reason=finish_reason,
        stop_reason=stop_reason,
        num_input_tokens=inputs,
        num_output_tokens=outputs,
        log_probs=None if log_probs is None else tuple(log_probs),
        tokens=None if tokens is None else tuple(map(token_bytes, tokens)),
        cum_log_prob=cum_log_prob,
        index=index,
    )
