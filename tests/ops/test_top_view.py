"""What `trireme top` draws, without a server."""

import io
from collections.abc import Sequence
from datetime import datetime, timezone

import pytest
from rich.console import Console

from trireme_ops.releases.watch import Histogram
from trireme_ops.top.figures import Figures, GatewayFigures, Gpu, Served
from trireme_ops.top.frame import Frame, GatewayFrame, History, Proxied, ServerFrame, State
from trireme_ops.top.rates import Growth
from trireme_ops.top.view import View
from trireme_ops.top.words import duration, milliseconds, number, percent, safe, sparkline

TIMES = Histogram(((0.01, 50.0), (0.1, 100.0), (float("inf"), 100.0)), 3.0)


def figures(kv: float = 10, errors: float = 0.0) -> Figures:
    return Figures(1234.5, 12.3, errors, 0.0, TIMES, TIMES, TIMES, 12.3, 3, 0, 0, kv, 100)


def server(name: str, state: State = State.READY, live: str = "r7", **more: float) -> ServerFrame:
    served = [Served("ensemble", "r7", ("2",), True, figures(**more))] if state is not State.DOWN else []
    proxied = [Proxied("grpc", "UP", 100, 4, 0), Proxied("http", "UP", 100, 1, 0)]
    return ServerFrame(
        name, "127.0.0.1:1", "127.0.0.1:2", state, 75.0, "", 0.0, {"ensemble": live}, served, [], proxied
    )


def frame(servers: Sequence[ServerFrame]) -> Frame:
    times = GatewayFigures(3.0, 0.0, 0.0, 50.0, 0.0, TIMES, TIMES, 1, 0, 0.5, 2, 2)
    gateway = GatewayFrame("127.0.0.1:8080", times)
    return Frame("demo", datetime.now(timezone.utc), 1, 10, servers, gateway, True)


def drawn(view: View, width: int = 80, encoding: str = "utf-8", colours: bool = False) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    system = "standard" if colours else None
    Console(file=file, width=width, color_system=system, force_terminal=colours, highlight=False).print(view)
    file.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [60, 80, 100, 132, 200])
def test_no_line_is_wider_than_the_terminal_and_what_matters_stays(width: int) -> None:
    text = drawn(View(frame([server("gpu-1"), server("gpu-2")]), History()), width)
    assert max(map(len, text.splitlines())) <= width
    assert all(title in text for title in ("server", "state", "tok/s", "gateway", "2/2 ready"))
    if width >= 80:
        assert all(title in text for title in ("req/s", "err", "KV", "TTFT95 ms", "TPOT ms", "queue ms"))
    if width == 200:
        assert all(title in text for title in ("HAProxy", "UP w100 5s", "restarts", "pend", "full/s"))


def test_a_server_that_is_down_is_shown_for_how_long() -> None:
    text = drawn(View(frame([server("a"), server("b", State.DOWN)])))
    assert "down 1m" in text and "1/2 ready" in text
    (row,) = (line for line in text.splitlines() if line.startswith("b "))
    assert row.split()[3:5] == ["-", "-"]


@pytest.mark.parametrize(
    ("one", "colour", "words"),
    [
        (server("a", kv=90), "1;31m", "90%"),
        (server("a", kv=80), "33m", "80%"),
        (server("a", errors=1.0), "1;31m", "8.1%"),
        (server("a", State.NOT_READY), "1;31m", "not ready"),
        (server("a"), "32m", "ready"),
    ],
)
def test_what_needs_a_look_is_coloured(one: ServerFrame, colour: str, words: str) -> None:
    assert f"\x1b[{colour}{words}" in drawn(View(frame([one])), colours=True).replace("\x1b[0m", "")


def test_a_terminal_without_utf_8_gets_ascii() -> None:
    history = History()
    history.tokens_per_s.extend([1.0, 2.0, 8.0])
    text = drawn(View(frame([server("a")]), history), encoding="ascii")
    assert text.isascii() and " .-@ " in text


def test_where_there_is_no_room_those_that_are_not_well_stay() -> None:
    servers = [server(f"s{index}", State.DOWN if index == 17 else State.READY) for index in range(30)]
    text = drawn(View(frame(servers), height=24))
    assert len(text.splitlines()) <= 24
    assert "s17" in text and "more; a higher terminal shows them" in text


def test_the_worst_comes_first_where_it_is_asked_for() -> None:
    text = drawn(View(frame([server("a", kv=10), server("b", kv=60)]), sort="KV"))
    assert text.index("\nb ") < text.index("\na ")


def test_a_release_that_is_not_live_and_one_of_which_it_is_not_known() -> None:
    two = [Served("ensemble", name, ("2",), True, figures()) for name in ("r7", "r8")]
    known = ServerFrame("a", "x:1", "x:2", State.READY, live={"ensemble": "r8"}, served=two)
    unknown = ServerFrame("b", "x:1", "x:2", State.READY, served=two)
    assert [one.live_on for one in frame([known]).releases] == [0, 1]
    assert [one.live_on for one in frame([known, unknown]).releases] == [None, None]


def test_a_gpu_is_shown_where_there_is_one() -> None:
    one = server("a")
    assert "GPU" not in drawn(View(frame([one])), 200)
    with_gpu = ServerFrame(one.name, "x:1", "x:2", State.READY, served=one.served, gpus=[Gpu("GPU-1", 0.62, 0.5)])
    assert "62%" in drawn(View(frame([with_gpu])), 200)


def test_names_give_a_terminal_no_orders() -> None:
    assert safe("r7\x1b[2J\n") == "r7?[2J?"
    assert "\x1b" not in drawn(View(frame([server("evil\x1b[2J")])))


def test_words() -> None:
    assert [number(value) for value in (None, 0, 0.421, 4.21, 42.1, 1234.5, 2_500_000)] == [
        "-",
        "0",
        "0.42",
        "4.2",
        "42",
        "1,234",
        "2.5M",
    ]
    assert [percent(value) for value in (None, 0, 0.00001, 0.042, 0.42, 1)] == [
        "-",
        "0%",
        "0.1%",
        "4.2%",
        "42%",
        "100%",
    ]
    assert [milliseconds(value) for value in (None, 0.0042, 0.042, 4.2)] == ["-", "4.2", "42", "4,200"]
    assert [duration(value) for value in (4, 61, 7200, 200_000)] == ["4s", "1m", "2h", "2d"]


def test_sparklines() -> None:
    assert sparkline([0, 1, None, 7, 8], 6, is_ascii=False) == " ▁▂ ██"
    assert sparkline([0, 8], 2, is_ascii=True) == "_@"
    assert sparkline([0, 0], 2, is_ascii=False) == "▁▁"
    assert sparkline([], 3, is_ascii=False) == "   "


def test_the_history_holds_what_there_is() -> None:
    history = History()
    history.add([Growth()])
    assert list(history.tokens_per_s) == [None]
    assert list(history.ttft_p95_s) == [None]
