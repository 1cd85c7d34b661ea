"""Who asks: whose answers may be shared, and whom a waiting request is counted for."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from .accounts.directory import Directory
from .accounts.keys import Key
from .accounts.token import PREFIX
from .errors import Unauthorized

_BEARER = b"bearer "

#: What a key might be called in a URL, where it would stand in the logs of everybody on the way.
_NAMES = (b"key", b"api_key", b"api-key", b"apikey", b"token", b"access_token", b"access-token", b"authorization")


@dataclass(frozen=True)
class Caller:
    """tenant: of the key; without keys a digest of what was sent as one, or "". name: whom requests that wait are
    counted for: the tenant, or the client's address. key: None where none is needed and none of ours was sent."""

    tenant: str
    name: str
    key: Key | None = None


async def caller_of(headers: Mapping[bytes, bytes], client: Any, directory: Directory, is_required: bool) -> Caller:
    """Of a request's headers, and of (host, port) of its client if that is known.

    Raises Unauthorized, or ResourceExhausted where too many unknown keys come at once.
    """
    given = headers.get(b"authorization", b"")
    sent = given[len(_BEARER) :].strip() if given[: len(_BEARER)].lower() == _BEARER else b""
    if not sent:
        if is_required:
            raise Unauthorized("there is no API key; send it as the header Authorization: Bearer KEY")
        return Caller("", str(client[0]) if client else "")
    if is_required or sent.startswith(PREFIX.encode()):
        key = await directory.key_of(sent.decode("latin-1"))
        return Caller(key.tenant, key.tenant, key)
    tenant = hashlib.sha256(sent).hexdigest()[:16]
    return Caller(tenant, tenant)


def has_key_in_query(query: bytes) -> bool:
    """Whether a URL's query may hold a key."""
    plain = unquote_to_bytes(query)
    return PREFIX.encode() in plain or any(
        part.partition(b"=")[0].lower() in _NAMES for part in plain.split(b"&") if part
    )
