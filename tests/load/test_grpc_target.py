"""gRPC as load tests speak it, against a server that answers with messages made beforehand."""

import time
from collections.abc import Iterator

import gevent
import psutil
import pytest

from support import wait_for
from trireme_client import Generation, InternalError, Unavailable
from trireme_load.errors import UnreachableError
from trireme_load.targets import Answer, connect, grpc_link
from trireme_load.targets.grpc_target import GrpcTarget
from trireme_ops.bench.generator import canned

MESSAGES = 50


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with canned(MESSAGES) as found:
        yield found


@pytest.fixture
def target(address: str) -> Iterator[GrpcTarget]:
    target = connect("grpc", address, timeout_s=10)
    assert isinstance(target, GrpcTarget)
    yield target
    target.close()
    grpc_link.close()


def ask(target: GrpcTarget, leave_after: int | None = None, stream: bool = True) -> Answer:
    answer = Answer(leave_after)
    target.ask("ensemble", Generation(prompt="hello", max_tokens=MESSAGES), stream, answer)
    return answer


def readers() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if "trireme_load.grpc_reader" in " ".join(one.cmdline())]


def test_each_message_has_its_time_and_the_last_one_its_counts(target: GrpcTarget) -> None:
    before = time.monotonic()
    answer = ask(target)
    assert (len(answer.text_at), answer.messages, answer.output_tokens) == (MESSAGES, MESSAGES, MESSAGES)
    assert (answer.finish_reason, answer.release, answer.input_tokens) == ("length", "1", 8)
    times = [before, answer.sent, *answer.text_at, time.monotonic()]
    assert times == sorted(times), "one clock for both processes"


def test_users_are_answered_side_by_side(target: GrpcTarget, address: str) -> None:
    others = [connect("grpc", address, timeout_s=10) for _ in range(7)]
    asking = [gevent.spawn(ask, one) for one in [target, *others] for _ in range(4)]
    gevent.joinall(asking, raise_error=True, timeout=30)
    assert [one.value.output_tokens for one in asking] == [MESSAGES] * 32
    assert len(readers()) == 1, "they share one process"
    for one in others:
        one.close()


def test_one_who_leaves_gets_no_more(target: GrpcTarget) -> None:
    answer = ask(target, leave_after=3)
    assert answer.left and len(answer.text_at) == 3 and answer.finish_reason == ""
    assert ask(target).output_tokens == MESSAGES, "and asks again"


def test_a_user_who_is_stopped_cancels_the_call(target: GrpcTarget) -> None:
    asking = [gevent.spawn(ask, target) for _ in range(20)]
    gevent.sleep(0)
    gevent.killall(asking)
    assert ask(target).output_tokens == MESSAGES


def test_what_a_server_refuses_is_an_error(target: GrpcTarget) -> None:
    with pytest.raises(InternalError, match=r"(?i)method not found"):
        ask(target, stream=False)


def test_one_that_was_closed_is_an_error_and_no_wait(target: GrpcTarget) -> None:
    target.close()
    with gevent.Timeout(5), pytest.raises(InternalError, match="KeyError"):
        ask(target)


def test_an_address_where_nobody_answers_is_named() -> None:
    try:
        with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1 does not answer gRPC within 0\.5 s"):
            connect("grpc", "127.0.0.1:1", timeout_s=10, connect_timeout_s=0.5)
    finally:
        grpc_link.close()


def test_the_death_of_the_process_is_an_error_of_those_who_wait(target: GrpcTarget) -> None:
    (reader,) = readers()
    reader.suspend()
    asking = gevent.spawn(ask, target)
    gevent.sleep(0.05)
    reader.kill()
    with pytest.raises(Unavailable, match="the load generator's process for gRPC ended"):
        asking.get(timeout=10)
    with pytest.raises(Unavailable, match="process for gRPC"):
        ask(target)


def test_it_ends_with_whoever_started_it(target: GrpcTarget) -> None:
    (reader,) = readers()
    asking = gevent.spawn(ask, target)
    gevent.sleep(0)
    grpc_link.close()
    wait_for(lambda: not reader.is_running(), 5, "its end")
    with pytest.raises(Unavailable):
        asking.get(timeout=10)


def test_how_busy_it_is_is_told(target: GrpcTarget) -> None:
    told: list[int] = []
    grpc_link.link().on_busy = lambda _busiest, lags_s: told.append(len(lags_s))
    gevent.sleep(1.2)
    assert told and sum(told) > 20
