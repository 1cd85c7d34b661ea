"""What a key looks like, and how it is kept. Knows no database.

    trk_ID_SECRETCHECK

ID names it, and is no secret; SECRET is 256 random bits; CHECK is the CRC-32 of what stands before it, so that a key
that was cut short or misspelt is told from one that is forged. All in base 62. At rest there is only the Argon2id
digest of the whole (RFC 9106).
"""

import re
import secrets
import zlib
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

PREFIX = "trk_"

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_CHARACTERS, _SECRET_CHARACTERS, _CHECK_CHARACTERS = 10, 43, 6
_WHOLE = re.compile(
    rf"{PREFIX}([0-9A-Za-z]{{{_ID_CHARACTERS}}})_[0-9A-Za-z]{{{_SECRET_CHARACTERS + _CHECK_CHARACTERS}}}"
)

#: In any text, whole or cut.
_ANYWHERE = re.compile(rf"({PREFIX}[0-9A-Za-z]{{1,{_ID_CHARACTERS}}})_[0-9A-Za-z]+")

#: A secret of 256 random bits cannot be guessed, whatever the digest costs; so it may be cheap: about 10 ms and 8 MiB.
_hasher = PasswordHasher(time_cost=2, memory_cost=8 << 10, parallelism=1)


class NoKey(Exception):
    """A text that is no key, and why."""


@dataclass(frozen=True)
class NewKey:
    """A key as its owner gets it, once. digest: what is kept."""

    id: str
    text: str
    digest: str


def _random(count: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(count))


def _check(text: str) -> str:
    number, digits = zlib.crc32(text.encode("ascii")), ""
    for _ in range(_CHECK_CHARACTERS):
        number, digit = divmod(number, len(_ALPHABET))
        digits += _ALPHABET[digit]
    return digits


def new_key() -> NewKey:
    """A new key."""
    key_id = _random(_ID_CHARACTERS)
    text = f"{PREFIX}{key_id}_{_random(_SECRET_CHARACTERS)}"
    text += _check(text)
    return NewKey(key_id, text, _hasher.hash(text))


def id_of(text: str) -> str:
    """The id in a key. Raises NoKey saying what is wrong with it, without any of it."""
    if not text.startswith(PREFIX):
        raise NoKey(f"the API key is none of this gateway's: they begin with {PREFIX}")
    found = _WHOLE.fullmatch(text)
    if found is None or _check(text[:-_CHECK_CHARACTERS]) != text[-_CHECK_CHARACTERS:]:
        raise NoKey("the API key is incomplete or misspelt: its check does not fit")
    return found[1]


def is_digest_of(digest: str, text: str) -> bool:
    """Whether a key is the one that was digested; compared in constant time. Takes about 10 ms of a processor."""
    try:
        return _hasher.verify(digest, text)
    except (Argon2Error, InvalidHashError):
        return False


def masked(text: str) -> str:
    """A text without the secrets of keys that may be in it."""
    return _ANYWHERE.sub(r"\1_***", text) if PREFIX in text else text
