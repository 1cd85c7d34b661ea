"""How one of several servers is chosen. Knows no network: servers in, a server out."""

import hashlib
import itertools
import random
from collections.abc import Callable, Sequence

from ..settings import Policy
from .ask import Ask
from .server import Server

#: By how much a server may have more than the mean before requests that belong to it go elsewhere (consistent hashing
#: with bounded loads, Mirrokni, Thorup, Zadimoghaddam 2016).
_BOUND = 1.25

#: Of servers that have room, in an order that does not change, the one to ask.
Choose = Callable[[Ask, Sequence[Server]], Server]


def choice_of(policy: Policy) -> Choose:
    """The policy as a function."""
    if policy is Policy.ROUND_ROBIN:
        return _round_robin()
    return {
        Policy.LEAST_IN_FLIGHT: least_in_flight,
        Policy.POWER_OF_TWO: power_of_two,
        Policy.SESSION: by_session,
        Policy.PREFIX: by_prefix,
    }[policy]


def _round_robin() -> Choose:
    turns = itertools.count()

    def choose(_ask: Ask, servers: Sequence[Server]) -> Server:
        return servers[next(turns) % len(servers)]

    return choose


def load_of(server: Server, llm: str) -> float:
    """What a server has under way, as a share of what it may have."""
    seats = server.seats[llm]
    return seats.sequences / seats.max_sequences


def least_in_flight(ask: Ask, servers: Sequence[Server]) -> Server:
    """The one with the least under way for its size; of several, any."""
    least = min(load_of(server, ask.llm) for server in servers)
    return random.choice([server for server in servers if load_of(server, ask.llm) == least])


def power_of_two(ask: Ask, servers: Sequence[Server]) -> Server:
    """Of two by chance, the one with less under way (Mitzenmacher 2001)."""
    return min(random.sample(servers, min(2, len(servers))), key=lambda server: load_of(server, ask.llm))


def by_session(ask: Ask, servers: Sequence[Server]) -> Server:
    """The same one for a session, as long as it can be; without a session, the one with the least under way."""
    return _by_key(ask.session, ask, servers)


def by_prefix(ask: Ask, servers: Sequence[Server]) -> Server:
    """The same one for prompts that begin alike, whose KV cache is there; a session goes before."""
    return _by_key(ask.session or ask.prefix, ask, servers)


def _by_key(key: str | None, ask: Ask, servers: Sequence[Server]) -> Server:
    if not key:
        return least_in_flight(ask, servers)
    mean = sum(server.seats[ask.llm].sequences for server in servers) / len(servers)
    ranked = sorted(servers, key=lambda server: _weight(key, server.name), reverse=True)
    bound = _BOUND * mean + 1
    return next(server for server in ranked if server.seats[ask.llm].sequences <= bound)


def _weight(key: str, server: str) -> bytes:
    """Rendezvous hashing (Thaler, Ravishankar 1998): a server that comes or goes moves only its own keys."""
    return hashlib.blake2b(f"{server}\0{key}".encode("utf-8", "replace"), digest_size=8).digest()
