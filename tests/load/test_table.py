import io

from load_runs import NASTY, failed, request, run_of
from trireme_load.summary import summarize
from trireme_load.table import aligned, one_line, render, write
from trireme_load.thresholds import check, parse_thresholds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_table_is_aligned_and_complete() -> None:
    assert render(summarize(run_of(), [request(2.0, queue_s=0.02), failed(3.0)])) == (
        "ms     mean   p50   p90   p95   p99   max\n"
        "TTFT    100   100   100   100   100   100\n"
        "ITL    50.0  50.0  50.0  50.0  50.0  50.0\n"
        "TPOT   50.0  50.0  50.0  50.0  50.0  50.0\n"
        "E2E     200   200   200   200   200   200\n"
        "queue  20.0  20.0  20.0  20.0  20.0  20.0\n"
        "\n"
        "requests    0.100/s answered; 2 sent in 10 s, 1 succeeded, 1 failed\n"
        "tokens      0.300/s; per user 15.0/s (p50)\n"
        "goodput     - (no --slo)\n"
        "errors      1; 50.0 % of requests\n"
        "  UNAVAILABLE  1  UNAVAILABLE: no\n"
    )


def test_what_was_not_measured_is_a_dash() -> None:
    text = render(summarize(run_of(), []))
    assert "TTFT      -    -    -    -    -    -\n" in text
    assert text.endswith("\nINVALID: no request succeeded in the measured time\n")


def test_what_is_wrong_is_said_in_words_and_bold_on_a_terminal() -> None:
    summary = summarize(run_of(partial="stopped by hand"), [request(2.0)])
    misses = check(parse_thresholds({"max": {"ttft.p99": "80ms"}}, "t.toml"), summary)
    terminal, file = Terminal(), io.StringIO()
    write(summary, misses, terminal)
    write(summary, misses, file)
    assert "\x1b[1mPARTIAL: the run ended early: stopped by hand\x1b[0m\n" in terminal.getvalue()
    assert file.getvalue().endswith(
        "PARTIAL: the run ended early: stopped by hand\nMISSED: ttft.p99 is 100 ms; at most 80ms is allowed\n"
    )
    assert "\x1b" not in file.getvalue()


def test_a_message_of_a_server_does_nothing_to_a_terminal() -> None:
    text = render(summarize(run_of(), [failed(2.0, error=f"\x1b[31m\r\n\u202e{NASTY}")]))
    assert "\x1b" not in text and "\r" not in text and "\u202e" not in text
    assert "東京" in text


def test_long_texts_are_cut() -> None:
    assert one_line("x" * 200) == "x" * 99 + "…"


def test_no_rows_are_no_lines() -> None:
    assert aligned([]) == []
