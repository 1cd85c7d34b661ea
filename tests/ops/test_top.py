"""`trireme top` of real servers: once, live on a terminal, and where one hangs or is gone."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import haproxy_runs
from account_runs import bearer, new_key, sqlite_url
from gateway_runs import chat, server_options, started_gateway
from support import TRIREME, Server, start_null_server, stop_server, wait_for
from trireme_client import Client, TriremeError
from trireme_ops.cli import main
from trireme_ops.errors import OperatorError
from trireme_ops.top import sources
from trireme_ops.top.scrape import Endpoint, Locked, NoAnswer, fetch, metrics, read_key, releases
from trireme_ops.top.targets import read_fleet

STREAM_TOKENS = 40


@dataclass
class Traffic:
    """Streams of 40 tokens, one after the other on each of two servers."""

    servers: Sequence[Server]
    tokens: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> "Traffic":
        self._threads = [threading.Thread(target=self._ask, args=(server,)) for server in self.servers * 2]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, server: Server) -> None:
        with Client(server.grpc) as client:
            while not self._stop.is_set():
                with contextlib.suppress(TriremeError), client.stream(prompt="Go on.", max_tokens=STREAM_TOKENS) as one:
                    for _ in one:
                        pass
                    with self._lock:
                        self.tokens += one.completion.num_output_tokens or 0


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    started: list[Server] = []
    try:
        # One after the other: two that start at once could be given the same port.
        for name in "ab":
            started.append(start_null_server(tmp_path_factory.mktemp(name), 100.0))
        yield started
    finally:
        with ThreadPoolExecutor() as pool:
            list(pool.map(stop_server, started))


def state_file(folder: Path, servers: Sequence[Server], **more: Any) -> Path:
    named = [
        {"name": name, **{key: server.addresses[key] for key in ("http", "grpc", "metrics", "health")}}
        for name, server in zip("ab", servers, strict=False)
    ]
    path = folder / "state.json"
    path.write_text(json.dumps({"name": "pair", "servers": named, **more}), encoding="utf-8")
    return path


@pytest.fixture
def fleet(servers: list[Server], tmp_path: Path) -> Path:
    return state_file(tmp_path, servers)


def top(*arguments: object, status: int = 0) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run([TRIREME, "top", *map(str, arguments)], capture_output=True, text=True, timeout=30)
    assert done.returncode == status, done.stderr
    return done


def test_once_shows_the_tokens_that_were_generated(servers: list[Server], fleet: Path) -> None:
    with Traffic(servers) as traffic:
        wait_for(lambda: traffic.tokens > 4 * STREAM_TOKENS, what="traffic")
        began, before = time.monotonic(), traffic.tokens
        seen = json.loads(top("--fleet", fleet, "--once", "--json", "--for", 3, "--slo", "ttft=10s").stdout)
        rate = (traffic.tokens - before) / (time.monotonic() - began)
    total = seen["total"]
    assert rate / 2 < total["tokens_per_s"] < rate * 2
    assert 0.5 < total["requests_per_s"] * STREAM_TOKENS / total["tokens_per_s"] < 2
    assert total["error_rate"] == 0
    assert total["goodput_share"] == 1
    for name in ("ttft_s", "tpot_s", "queue_s"):
        assert 0 < total[name]["p50"] <= total[name]["p95"] <= total[name]["p99"] < 10
    assert [server["state"] for server in seen["servers"]] == ["ready", "ready"]
    assert [server["restarts"] for server in seen["servers"]] == [0, 0]
    assert sum(server["tokens_per_s"] for server in seen["servers"]) == pytest.approx(total["tokens_per_s"])
    (release,) = seen["releases"]
    assert (release["llm"], release["versions"], release["live_on"]) == ("ensemble", ["1"], 2)
    assert release["kv_total_blocks"] > 0


def test_one_server_by_its_addresses(servers: list[Server]) -> None:
    addresses = servers[0].addresses
    done = top("--metrics", addresses["metrics"], "--health", addresses["health"], "--once", "--interval", 0.5)
    assert "ready" in done.stdout and "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_what_is_live_is_told_to_who_has_the_control_key(servers: list[Server], fleet: Path, tmp_path: Path) -> None:
    health = Endpoint.parse("health", servers[0].addresses["health"])
    key = read_key("key", servers[0].ready_file.parent / "root" / ".trireme" / "control.key")
    assert releases(health, key, 5) == {"ensemble": None}
    with pytest.raises(Locked):
        releases(health, "wrong", 5)
    (tmp_path / "wrong").write_text("wrong\n", encoding="ascii")
    options = ("--fleet", fleet, "--once", "--json", "--interval", 0.3, "--control-key", tmp_path / "wrong")
    seen = json.loads(top(*options).stdout)
    # One release alone has to be the one that is live.
    assert [one["live"] for server in seen["servers"] for one in server["releases"]] == [True, True]


def test_what_haproxy_says_of_each_server(servers: list[Server], tmp_path: Path) -> None:
    proxied = [haproxy_runs.proxied(name, server) for name, server in zip("ab", servers, strict=True)]
    with haproxy_runs.started(tmp_path, proxied) as running:
        running.api.set_weight("grpc", "b", 25)
        fleet = state_file(tmp_path, servers, haproxy={"socket": str(running.socket)})
        seen = json.loads(top("--fleet", fleet, "--once", "--json", "--interval", 0.3).stdout)
    assert [server["haproxy"]["grpc"]["weight"] for server in seen["servers"]] == [100, 25]
    assert all(server["haproxy"]["http"]["status"].startswith("UP") for server in seen["servers"])
    gone = json.loads(top("--fleet", fleet, "--once", "--json", "--interval", 0.3).stdout)
    assert [server["haproxy"] for server in gone["servers"]] == [{}, {}]
    assert any("HAProxy" in note for note in gone["notes"])


def test_a_gateway_that_wants_a_key(servers: list[Server], tmp_path: Path) -> None:
    database, key_file = sqlite_url(tmp_path), tmp_path / "key"
    key = new_key(database, "ops", may_read_metrics=True)
    key_file.write_text(f"{key}\n", encoding="ascii")
    with started_gateway(tmp_path / "gateway", *server_options(*servers), database=database) as gateway:
        wait_for(lambda: chat(gateway, "Go on.", bearer(key), max_tokens=20).status == 200, 10, "an answer")
        fleet = state_file(tmp_path, servers, gateway=gateway.address)
        options = ("--fleet", fleet, "--once", "--json")
        locked = json.loads(top(*options, "--interval", 0.3).stdout)
        assert "--key-file" in locked["gateway"]["problem"]
        command = [TRIREME, "top", *options, "--for", "3", "--key-file", key_file]
        with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
            asked = 0
            while process.poll() is None:
                asked += chat(gateway, "Go on.", bearer(key), max_tokens=20).status == 200
            assert process.stdout is not None
            seen = json.loads(process.stdout.read())["gateway"]
    assert 0 < seen["requests_per_s"] * 3 <= asked
    assert (seen["failed_per_s"], seen["servers_ready"], seen["servers"]) == (0, 2, 2)


def test_the_picture_refers_to_nothing_outside_it(fleet: Path, tmp_path: Path) -> None:
    top("--fleet", fleet, "--once", "--interval", 0.3, "--svg", tmp_path / "top.svg")
    text = (tmp_path / "top.svg").read_text(encoding="utf-8")
    assert "2/2" in text and "@font-face" not in text
    assert set(re.findall(r"https?://[^\"\s<)]+", text)) <= {"http://www.w3.org/2000/svg", "https://www.textualize.io"}


class Terminal:
    """`trireme top` on a terminal of 100 by 30."""

    def __init__(self, *arguments: object) -> None:
        self.output = b""
        main, self._other = pty.openpty()
        self._main = main
        fcntl.ioctl(main, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.before = termios.tcgetattr(self._other)
        # Some test runners set COLUMNS, which would go before what the terminal says.
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [str(TRIREME), "top", *map(str, arguments)],
            stdin=self._other,
            stdout=self._other,
            stderr=self._other,
            env={**environment, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"},
            start_new_session=True,
        )

    def read(self) -> str:
        """All that was drawn."""
        while select.select([self._main], [], [], 0.02)[0]:
            self.output += os.read(self._main, 65_536)
        return self.output.decode("utf-8", "replace")

    @property
    def screen(self) -> str:
        """What is on it now, without colours."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.read().rpartition("\x1b[H")[2])

    def type(self, keys: str) -> None:
        os.write(self._main, keys.encode())

    def end(self) -> int:
        """Its status, once it has ended."""

        def ended() -> bool:
            self.read()
            return self.process.poll() is not None

        wait_for(ended, 10, "the end")
        self.read()
        return int(self.process.returncode)

    def is_as_before(self) -> bool:
        """Whether the terminal has its own screen, its cursor, and shows what is typed."""
        text = self.read()
        ends = all(
            text.rfind(off) > text.rfind(on) >= 0
            for on, off in (("\x1b[?1049h", "\x1b[?1049l"), ("\x1b[?25l", "\x1b[?25h"))
        )
        return ends and termios.tcgetattr(self._other) == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._main)
        os.close(self._other)


@contextlib.contextmanager
def terminal(*arguments: object) -> Iterator[Terminal]:
    one = Terminal(*arguments)
    try:
        yield one
    finally:
        one.close()


def clock(screen: str) -> str:
    return (re.findall(r"\d\d:\d\d:\d\d", screen) or [""])[0]


def test_the_live_view_is_redrawn_paused_and_quit(servers: list[Server], fleet: Path) -> None:
    with terminal("--fleet", fleet, "--interval", 0.5) as one:
        wait_for(lambda: "2/2 ready" in one.screen, 20, "a frame")
        wait_for(lambda: "q quits" in one.screen, 10, "the rest of it")
        first = clock(one.screen)
        wait_for(lambda: clock(one.screen) not in ("", first), 10, "another frame")
        one.type("s")
        wait_for(lambda: "by tokens/s" in one.screen, 10, "the order")
        one.type("p")
        wait_for(lambda: "PAUSED" in one.screen, 10, "the pause")
        one.type("pq")
        assert one.end() == 0
        assert one.is_as_before()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_gives_the_terminal_back(fleet: Path, number: signal.Signals, status: int) -> None:
    with terminal("--fleet", fleet, "--interval", 0.5) as one:
        wait_for(lambda: "2/2 ready" in one.screen, 20, "a frame")
        one.process.send_signal(number)
        assert one.end() == status
        assert one.is_as_before()


def test_a_key_that_is_typed_while_it_starts_counts(fleet: Path) -> None:
    with terminal("--fleet", fleet) as one:
        one.type("q")
        assert one.end() == 0


def test_a_hung_server_is_down_and_holds_up_neither_the_others_nor_the_screen(
    servers: list[Server], fleet: Path
) -> None:
    hung = servers[1]
    stopped = [hung.process.pid, hung.triton_pid()]
    with terminal("--fleet", fleet, "--interval", 0.5) as one:
        wait_for(lambda: "2/2 ready" in one.screen, 20, "a frame")
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            wait_for(lambda: re.search(r"^b +down", one.screen, re.MULTILINE), 15, "b is down")
            for _ in range(2):
                drawn, before = clock(one.screen), time.monotonic()
                wait_for(lambda drawn=drawn: clock(one.screen) not in ("", drawn), 10, "a frame")
                assert time.monotonic() - before < 3
            assert re.search(r"^a +ready", one.screen, re.MULTILINE)
            seen = json.loads(top("--fleet", fleet, "--once", "--json", "--interval", 0.3).stdout)
            assert [server["state"] for server in seen["servers"]] == ["ready", "down"]
            assert seen["servers"][1]["down_s"] > 0 and "no answer" in seen["servers"][1]["problem"]
        finally:
            for pid in reversed(stopped):
                os.kill(pid, signal.SIGCONT)
        wait_for(lambda: "2/2 ready" in one.screen, 30, "b is back")
        one.type("q")
        assert one.end() == 0


def test_a_server_that_dies_is_not_ready_until_it_was_started_again(servers: list[Server], fleet: Path) -> None:
    with terminal("--fleet", fleet, "--interval", 0.3) as one:
        wait_for(lambda: "2/2 ready" in one.screen, 20, "a frame")
        os.kill(servers[0].triton_pid(), signal.SIGKILL)
        wait_for(lambda: re.search(r"^a +(not ready|down)", one.screen, re.MULTILINE), 15, "a is not ready")
        wait_for(lambda: "2/2 ready" in one.screen, 60, "a is back")
        one.type("q")
        assert one.end() == 0
    seen = json.loads(top("--fleet", fleet, "--once", "--json", "--interval", 0.3).stdout)
    assert [server["restarts"] for server in seen["servers"]] == [1, 0]
    assert seen["total"]["tokens_per_s"] == 0


def test_where_nothing_answers_a_script_is_told() -> None:
    done = top("--metrics", "127.0.0.1:1", "--once", "--json", "--interval", 0.2, status=1)
    assert json.loads(done.stdout)["servers"][0]["state"] == "down"
    assert "no server answers at 127.0.0.1:1" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--metrics", "127.0.0.1:99999", "--once"], 1, ["--metrics", "127.0.0.1:99999", "1 to 65535"]),
        (["--metrics", "127.0.0.1:1/x", "--once"], 1, ["--metrics", "127.0.0.1:1/x"]),
        (["--health", "127.0.0.1:1", "--once"], 1, ["--health", "--metrics"]),
        (["--fleet", "x", "--metrics", "127.0.0.1:1", "--once"], 1, ["--fleet", "--metrics"]),
        (["--fleet", "/nowhere/state.json", "--once"], 1, ["/nowhere/state.json", "trireme fleet up"]),
        (["--key-file", "/nowhere/key", "--once"], 1, ["--key-file", "/nowhere/key"]),
        (["--json"], 1, ["--json", "--once"]),
        ([], 1, ["no terminal", "trireme top --once"]),
        (["--once", "--interval", "0"], 2, ["--interval", "'0'", "0.2 to 3600"]),
        (["--once", "--window", "nan"], 2, ["--window", "'nan'", "0.2 to 3600"]),
        (["--once", "--slo", "tpot=5ms"], 2, ["--slo", "tpot=5ms", "ttft=500ms"]),
        (["--once", "--slo", "ttft=5"], 2, ["--slo", "ttft=5", "500ms"]),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, words: list[str]
) -> None:
    try:
        ended = main(["top", *arguments])
    except SystemExit as error:
        ended = int(error.code or 0)
    printed = capsys.readouterr()
    assert ended == status
    assert all(word in printed.err for word in words), printed.err
    assert not printed.out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[server]]", ["no JSON", "fleet.toml"]),
        ("{}", ["servers is None"]),
        ('{"servers": [{"name": "a"}]}', ["servers[0].metrics", "None"]),
        ('{"servers": [{"name": "a", "metrics": "x"}]}', ["servers[0].metrics", "'x'"]),
        ('{"servers": [{"name": "a", "metrics": "x:1"}, {"name": "a", "metrics": "x:1"}]}', ["'a'", "2 times"]),
        ('{"servers": [{"name": "a", "metrics": "x:1"}], "haproxy": {"socket": 3}}', ["haproxy.socket", "3"]),
        ('{"servers": [{"name": "a", "metrics": "x:1"}], "gateway": "x"}', ["gateway", "'x'"]),
    ],
)
def test_a_state_file_that_is_none_is_refused_by_name(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "state.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(OperatorError) as error:
        read_fleet(path, "")
    assert all(word in str(error.value) for word in [str(path), *words]), error.value


@contextlib.contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[Endpoint]:
    """Something that accepts one connection and does what it is told to."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield Endpoint("127.0.0.1", listener.getsockname()[1])
        thread.join()


def test_an_answer_that_drips_is_no_answer() -> None:
    ended = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not ended.wait(0.05):
            connection.sendall(b"x")

    with answering(drip) as endpoint:
        began = time.monotonic()
        with pytest.raises(NoAnswer, match="answer within"):
            fetch(endpoint, "/metrics", 0.3)
        assert time.monotonic() - began < 2
        ended.set()


def test_an_answer_that_is_never_whole_makes_the_last_one_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "TIMEOUT_S", 0.1)
    ended, answers = threading.Event(), iter([1])

    def ask() -> int:
        for answer in answers:
            return answer
        ended.wait(30)
        raise NoAnswer("ended")

    source = sources.Source(ask, 0.05)
    source.start()
    wait_for(lambda: source.seen.answers, 10, "an answer")
    wait_for(lambda: source.seen.problem, 10, "a problem")
    assert not source.seen.answers and source.seen.value == 1
    source.stop()
    ended.set()


@pytest.mark.parametrize(
    ("sent", "error", "words"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", Locked, "key"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", NoAnswer, "HTTP 404"),
        (b"SSH-2.0-x\r\n", NoAnswer, "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", NoAnswer, "no metric"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\ntrireme_x{ 1", NoAnswer, "not understood"),
    ],
)
def test_what_is_no_metrics_endpoint_is_told(sent: bytes, error: type[Exception], words: str) -> None:
    with answering(lambda connection: connection.sendall(sent)) as endpoint, pytest.raises(error, match=words):
        metrics(endpoint, ("trireme_",), 2)
