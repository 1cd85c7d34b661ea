"""Which release answers a request: the live one, or one that is given a share of the traffic."""

import hashlib
import random
from collections.abc import Sequence

from ..settings import Share
from .ask import Ask


def canary_of(ask: Ask, shares: Sequence[Share]) -> str | None:
    """The release among `shares` that this request falls to, if any; a session always falls to the same one."""
    at = _point(ask)
    for share in shares:
        if share.llm == ask.llm:
            if at < share.percent:
                return share.release
            at -= share.percent
    return None


def is_shadowed(share: Share) -> bool:
    """Whether a request is copied, by chance."""
    return random.random() * 100 < share.percent


def _point(ask: Ask) -> float:
    """0 to 100."""
    if ask.session is None:
        return ask.draw * 100
    digest = hashlib.blake2b(f"canary\0{ask.session}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 * 100
