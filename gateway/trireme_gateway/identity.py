"""Who asks: whose answers may be shared, and whom a waiting request is counted for."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_BEARER = b"bearer "


@dataclass(frozen=True)
class Caller:
    """tenant: "" without a key, and else a digest of it. name: the same, or the client's address."""

    tenant: str
    name: str


def caller_of(headers: Mapping[bytes, bytes], client: Any) -> Caller:
    """Of a request's headers, and of (host, port) of its client if that is known."""
    given = headers.get(b"authorization", b"")
    if given[: len(_BEARER)].lower() == _BEARER:
        tenant = hashlib.sha256(given[len(_BEARER) :].strip()).hexdigest()[:16]
        return Caller(tenant, tenant)
    return Caller("", str(client[0]) if client else "")
