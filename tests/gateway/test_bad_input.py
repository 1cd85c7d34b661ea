"""Clients that are broken, or mean it: bounded, answered where that is possible, and unnoticed by all others."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from gateway_runs import Gateway, call, chat, open_stream, read_until, server_options, started_gateway
from support import Server, wait_for

LIMITS = """
[limits]
max_body_bytes = 1048576
header_timeout_s = 1
body_timeout_s = 1
write_timeout_s = 2
max_connections = 200
"""


@pytest.fixture(scope="module")
def strict(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose patience is short."""
    folder = tmp_path_factory.mktemp("strict")
    with started_gateway(folder, *server_options(server), config=LIMITS) as running:
        yield running


def connected(gateway: Gateway) -> socket.socket:
    host, _, port = gateway.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def everything(connection: socket.socket) -> bytes:
    """What comes until the connection is closed."""
    data = b""
    try:
        while more := connection.recv(1 << 16):
            data += more
    except ConnectionResetError:
        pass
    return data


class Good:
    """16 clients that ask and stream, again and again, and check each answer."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._ending = threading.Event()
        self.answers = 0
        self.wrong: list[object] = []
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(16)]

    def _ask(self, number: int) -> None:
        while not self._ending.is_set():
            try:
                answer = chat(self._gateway, f"What is {number + 20} + 31?", stream=bool(number % 2))
                if (answer.status, answer.text) != (200, str(number + 51)):
                    self.wrong.append((answer.status, answer.body))
            except Exception as error:
                self.wrong.append(error)
            self.answers += 1

    def __enter__(self) -> "Good":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()


def half_headers(gateway: Gateway) -> None:
    """Headers that come byte by byte, and never end."""
    with closing(connected(gateway)) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nX-A: ")
        began = time.monotonic()
        connection.settimeout(0.1)
        data = b""
        while time.monotonic() - began < 10:
            try:
                connection.sendall(b"a")
                data += connection.recv(1 << 16)
            except TimeoutError:
                continue
            except OSError:
                break
            if b"\r\n\r\n" in data:
                break
        assert data.startswith(b"HTTP/1.1 408 "), data
        assert b"did not come within 1 s" in data


def nothing_at_all(gateway: Gateway) -> None:
    """A connection on which nothing comes."""
    with closing(connected(gateway)) as connection:
        assert everything(connection).startswith(b"HTTP/1.1 408 ")


def slow_body(gateway: Gateway) -> None:
    """A body that does not come."""
    with closing(connected(gateway)) as connection:
        connection.sendall(b'POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{"model"')
        answer = everything(connection)
        assert answer.startswith(b"HTTP/1.1 408 "), answer
        assert b"body did not come within 1 s" in answer


def long_headers(gateway: Gateway) -> None:
    """Headers of megabytes."""
    with closing(connected(gateway)) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n")
        with pytest.raises(OSError):
            for number in range(10_000):
                connection.sendall(b"X-%d: " % number + b"a" * 1000 + b"\r\n")
                time.sleep(0.0002)


def no_http(gateway: Gateway) -> None:
    """What is no HTTP."""
    with closing(connected(gateway)) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200))
        assert everything(connection).startswith(b"HTTP/1.1 400 ")


def large_body(gateway: Gateway) -> None:
    """10 MB, whose length is said."""
    answer = call(gateway, "/v1/chat/completions", b'{"model": "' + b"x" * 10_000_000)
    assert answer.status == 413
    assert "at most 1048576 are allowed" in answer.error["message"]


def endless_body(gateway: Gateway) -> None:
    """Chunks without an end."""
    with closing(connected(gateway)) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        with pytest.raises(OSError):
            for _ in range(1000):
                connection.sendall(chunk)
                time.sleep(0.0005)


def leaves_in_the_middle(gateway: Gateway) -> None:
    """A client that is gone before its request is whole."""
    with closing(connected(gateway)) as connection:
        connection.sendall(b'POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{"model"')


def many_stop_strings(gateway: Gateway) -> None:
    """10,000 stop strings."""
    assert chat(gateway, "What is 37 + 58?", stop=["x" * 90] * 10_000).status == 400


def broken_json(gateway: Gateway) -> None:
    """What is neither JSON nor UTF-8."""
    for body in (b"{" * 10_000, b'{"model": "\xff"}', b"[" * 200_000):
        assert call(gateway, "/v1/chat/completions", body).status == 400


def answered_before_its_body(gateway: Gateway) -> None:
    """A body that comes after the answer, and a request behind it."""
    with closing(connected(gateway)) as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n")
        assert read_until(connection, b'"code":null}}').startswith(b"HTTP/1.1 404 ")
        for _ in range(6):
            connection.sendall(b"x" * 50_000)
            time.sleep(0.3)
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def headers_behind_a_stream(gateway: Gateway) -> None:
    """Headers without an end, while an answer is under way: the connection is cut."""
    fields = {"prompt": "zq", "ignore_eos": True, "max_tokens": 1500}
    with open_stream(gateway, fields) as connection:
        connection.settimeout(30)
        with pytest.raises(OSError):
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n")
            while True:
                connection.sendall(b"X-A: " + b"a" * 4000 + b"\r\n")
                time.sleep(0.02)


def leaves_with_a_request_behind(gateway: Gateway) -> None:
    """Two requests at once, and gone: the first one is cancelled."""
    left = gateway.metric("requests_total", status="499")
    fields = {"prompt": "zq", "ignore_eos": True, "max_tokens": 2000}
    with open_stream(gateway, fields) as connection:
        read_until(connection, b"data: ")
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.2)
    wait_for(lambda: gateway.metric("requests_total", status="499") > left, 5, "the end of the first")


def pipelined(gateway: Gateway) -> None:
    """Requests one behind the other, without waiting for an answer."""
    with closing(connected(gateway)) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n" * 50)
        data = b""
        while data.count(b"HTTP/1.1 200") < 50:
            more = connection.recv(1 << 16)
            assert more
            data += more


BAD: list[Callable[[Gateway], None]] = [
    half_headers,
    nothing_at_all,
    slow_body,
    long_headers,
    no_http,
    large_body,
    endless_body,
    leaves_in_the_middle,
    many_stop_strings,
    broken_json,
    answered_before_its_body,
    headers_behind_a_stream,
    leaves_with_a_request_behind,
    pipelined,
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
def test_good_clients_notice_nothing(strict: Gateway, bad: Callable[[Gateway], None]) -> None:
    before = strict.resident_bytes()
    with Good(strict) as good:
        threads = [threading.Thread(target=bad, args=(strict,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        bad(strict)
        for thread in threads:
            thread.join()
        answers = good.answers
        wait_for(lambda: good.answers >= answers + 16, 60, "further answers")
    assert not good.wrong, good.wrong[:3]
    assert strict.resident_bytes() < before + (64 << 20)


def test_patience_with_headers_does_not_end_an_answer(strict: Gateway) -> None:
    """Its request came whole, in one piece, more than a second before its end."""
    fields = {"prompt": "zq", "ignore_eos": True, "max_tokens": 2000, "n": 4, "temperature": 2}
    began = time.monotonic()
    with open_stream(strict, fields) as connection:
        read_until(connection, b"data: [DONE]")
        assert time.monotonic() - began > 1
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        read_until(connection, b'{"status":"ok"}')


def test_a_stream_that_is_never_read_is_cut(strict: Gateway, server: Server) -> None:
    """It takes the buffers of two sockets and no more, and its answer is ended."""
    cut = strict.metric("connections_cut_total", reason="not_read")
    fields = {"prompt": "zq", "ignore_eos": True, "max_tokens": 2000, "logprobs": 0, "n": 4, "temperature": 2}
    with ExitStack() as stack, Good(strict) as good:
        for _ in range(2):
            connection = stack.enter_context(open_stream(strict, fields))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wait_for(lambda: strict.metric("connections_cut_total", reason="not_read") >= cut + 2, 120, "the cut")
    assert not good.wrong, good.wrong[:3]
    wait_for(lambda: server.metric("trireme_requests_running") == 0, 30, "the end of the answers")


def test_more_connections_than_allowed_are_refused(strict: Gateway) -> None:
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(closing(connected(strict)))
        wait_for(lambda: strict.process.poll() is None, 1)
        late = stack.enter_context(closing(connected(strict)))
        answer = everything(late)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"200 connections are open" in answer
    wait_for(lambda: chat(strict, "What is 37 + 58?").status == 200, 10, "room for others")
