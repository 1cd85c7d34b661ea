"""How one of several servers is chosen."""

import random
from collections import Counter

import pytest

from trireme_client import Generation
from trireme_gateway.fleet.ask import Ask, prompt_text
from trireme_gateway.fleet.policies import choice_of
from trireme_gateway.fleet.releases import canary_of
from trireme_gateway.fleet.server import Seats, Server
from trireme_gateway.settings import HealthSettings, Policy, ServerAddress, Share


def servers(*loads: int, size: int = 10) -> list[Server]:
    found = []
    for number, load in enumerate(loads):
        server = Server(ServerAddress(name=f"s{number}", grpc="127.0.0.1:1"), HealthSettings(), 0)
        server.seats["ensemble"] = Seats(size, 10**6, load)
        found.append(server)
    return found


def ask(session: str | None = None, prefix: str = "") -> Ask:
    return Ask(
        "id", "ensemble", "ensemble", Generation(prompt="x"), True, session=session, prefix=prefix, draw=random.random()
    )


def test_round_robin_takes_turns() -> None:
    choose, three = choice_of(Policy.ROUND_ROBIN), servers(5, 0, 9)
    assert [choose(ask(), three).name for _ in range(6)] == ["s0", "s1", "s2"] * 2


def test_least_in_flight_takes_the_one_with_the_least_for_its_size() -> None:
    choose = choice_of(Policy.LEAST_IN_FLIGHT)
    assert {choose(ask(), servers(5, 2, 9)).name for _ in range(20)} == {"s1"}
    assert {choose(ask(), servers(2, 2, 9)).name for _ in range(50)} == {"s0", "s1"}
    sized = [*servers(5), *servers(0, 12, size=100)[1:]]
    assert choose(ask(), sized) is sized[1]


def test_power_of_two_never_takes_the_worst_and_spreads() -> None:
    choose, three = choice_of(Policy.POWER_OF_TWO), servers(1, 2, 9)
    found = Counter(choose(ask(), three).name for _ in range(600))
    assert "s2" not in found
    # s0 is among the two in two of three draws.
    assert 330 < found["s0"] < 470
    assert choose(ask(), three[:1]) is three[0]


@pytest.mark.parametrize("policy", [Policy.SESSION, Policy.PREFIX])
def test_what_belongs_together_stays_together(policy: Policy) -> None:
    choose, three = choice_of(policy), servers(0, 0, 0)
    homes = {key: choose(ask(session=key), three).name for key in map(str, range(300))}
    assert {key: choose(ask(session=key), three).name for key in homes} == homes
    assert min(Counter(homes.values()).values()) > 60
    # A server that goes moves its own only.
    two = three[:2]
    assert all(choose(ask(session=key), two).name == home for key, home in homes.items() if home != "s2")


def test_prompts_that_begin_alike_go_to_the_same_server() -> None:
    choose, three = choice_of(Policy.PREFIX), servers(0, 0, 0)
    assert len({choose(ask(prefix="You are a helpful"), three).name for _ in range(20)}) == 1
    assert len({choose(ask(prefix=str(number)), three).name for number in range(40)}) == 3


def test_a_home_that_has_too_much_is_left() -> None:
    choose = choice_of(Policy.SESSION)
    home = choose(ask(session="k"), servers(0, 0, 0)).name
    loads = [8 if f"s{number}" == home else 1 for number in range(3)]
    assert choose(ask(session="k"), servers(*loads)).name != home


def test_equal_beginnings_of_chats_are_equal_beginnings_of_texts() -> None:
    system = {"role": "system", "content": "You are a pirate."}
    one = Generation(messages=[system, {"role": "user", "content": "Ahoy"}])  # type: ignore[list-item]
    other = Generation(messages=[system, {"role": "user", "content": "Hi"}])  # type: ignore[list-item]
    assert prompt_text(one)[:40] == prompt_text(other)[:40]


def test_a_canary_gets_its_share_and_keeps_its_sessions() -> None:
    shares = [
        Share(release="r2", percent=10),
        Share(release="r3", percent=20),
        Share(llm="tiny", release="x", percent=99),
    ]
    found = Counter(canary_of(ask(), shares) for _ in range(4000))
    assert 300 < found["r2"] < 500
    assert 650 < found["r3"] < 950
    assert "x" not in found
    sessions = {str(number): canary_of(ask(str(number)), shares) for number in range(2000)}
    assert 140 < Counter(sessions.values())["r2"] < 270
    assert all(canary_of(ask(session), shares) == release for session, release in sessions.items())
    # A larger share keeps those that it had.
    larger = [Share(release="r2", percent=40)]
    assert all(canary_of(ask(one), larger) == "r2" for one, release in sessions.items() if release == "r2")
