"""The ledger: what it says of requests, what survives, and what its reports add up to."""

import csv
import io
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError

from account_runs import bearer, id_of, new_key, opened, sqlite_url, trireme
from gateway_runs import call, chat, complete, open_stream, read_until, server_options, started_gateway
from raw import ask
from service_runs import postgres
from support import Server, start_null_server, stop_server, wait_for
from trireme_gateway.accounts.database import ledger, spent, transcripts, writers
from trireme_gateway.accounts.quota import NANO
from trireme_gateway.errors import DatabaseError
from trireme_gateway.ledger.redact import Redactor

PRICES = '[[price]]\nmodel = "ensemble"\ninput = 1.5\noutput = 6\ncached = 0.25\n'


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose engine costs nothing."""
    running = start_null_server(tmp_path_factory.mktemp("quick"), 0.0)
    yield running
    stop_server(running)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of an empty database of either kind."""
    if request.param == "sqlite":
        yield sqlite_url(tmp_path)
    else:
        with postgres() as address:
            yield address


def rows_of(url: str) -> list[dict[str, Any]]:
    """What the ledger holds."""
    with opened(url) as database, database.read() as connection:
        return [dict(row) for row in connection.execute(select(ledger).order_by(ledger.c.id)).mappings()]


def wait_for_rows(url: str, count: int) -> list[dict[str, Any]]:
    """Until there are so many."""
    wait_for(lambda: len(rows_of(url)) >= count, 10, f"{count} rows")
    found = rows_of(url)
    assert len(found) == count
    return found


def test_a_row_says_everything_about_a_request(server: Server, tmp_path: Path, url: str) -> None:
    key = new_key(url, "acme", name="app")
    with started_gateway(tmp_path / "g", *server_options(server), config=PRICES, database=url) as gateway:
        headers = {**bearer(key), "x-request-id": "mine-1"}
        answers = [chat(gateway, "What is 37 + 58?", headers, temperature=0, user="jane") for _ in range(2)]
        streamed = chat(gateway, "Repeat: a b", bearer(key), stream=True, stream_options={"include_usage": True})
        assert complete(gateway, "", bearer(key)).status == 400
        assert complete(gateway, "x", bearer(key), model="none").status == 404
        assert chat(gateway, "x").status == 401
        rows = wait_for_rows(url, 5)
        line = gateway.lines[-1]
    first, second, third, bad, missing = rows
    usage = answers[0].json["usage"]
    cost = usage["prompt_tokens"] * 1.5 + usage["completion_tokens"] * 6
    expected = {
        "request_id": "mine-1",
        "endpoint": "chat",
        "status": 200,
        "tenant": "acme",
        "key_id": id_of(key),
        "model": "ensemble",
        "release": "unreleased",
        "version": "1",
        "server": "server-1",
        "cache": "miss",
        "tokens_in": usage["prompt_tokens"],
        "tokens_out": usage["completion_tokens"],
        "tokens_cached": 0,
        "finish_reason": "stop",
        "cost_nano": round(cost * NANO / 1e6),
    }
    assert {name: first[name] for name in expected} == expected
    assert abs(first["time_ms"] - 1000 * time.time()) < 60_000
    assert 0 <= first["queue_ms"] <= first["ttft_ms"] <= first["total_ms"] < 60_000
    assert re.fullmatch(r"[0-9a-f]{64}", first["person"])
    every = usage["total_tokens"]
    assert (second["cache"], second["tokens_cached"], second["person"]) == ("hit", every, first["person"])
    assert second["cost_nano"] == round(every * 0.25 * NANO / 1e6)
    assert third["tokens_out"] == streamed.events[-1]["usage"]["completion_tokens"]
    assert third["person"] is None
    assert [(row["status"], row["finish_reason"], row["cost_nano"]) for row in (bad, missing)] == [
        (400, "error", 0),
        (404, "error", 0),
    ]
    assert line["event"] == "request"
    with opened(url) as database:
        with database.read() as connection:
            totals = {(row.kind, row.name): row.cost_nano for row in connection.execute(select(spent))}
        total = sum(row["cost_nano"] for row in rows)
        assert totals == {("key", id_of(key)): total, ("tenant", "acme"): total}
        # What is written stays as it is.
        with pytest.raises((DatabaseError, IntegrityError), match="append-only"), database.write() as connection:
            connection.execute(text("UPDATE ledger SET cost_nano = 0"))


def test_no_row_holds_up_a_request_and_none_is_missing(quick: Server, tmp_path: Path, url: str) -> None:
    with started_gateway(tmp_path / "g", *server_options(quick), database=url) as gateway:
        for _ in range(200):
            assert complete(gateway, "x", max_tokens=1).status == 200
    # What waited is written at the end.
    rows = rows_of(url)
    assert [row["number"] for row in rows] == list(range(1, 201))
    with opened(url) as database, database.read() as connection:
        assert [(row.rows, row.lost) for row in connection.execute(select(writers))] == [(200, 0)]


def test_a_client_that_leaves_is_in_the_ledger_with_what_it_took(quick: Server, tmp_path: Path) -> None:
    slow = start_null_server(tmp_path / "slow", 100.0)
    try:
        with started_gateway(tmp_path / "g", *server_options(slow), config=PRICES) as gateway:
            fields = {"prompt": "x", "ignore_eos": True, "max_tokens": 1000}
            with open_stream(gateway, fields) as stream:
                read_until(stream, b"data: ")
            (row,) = wait_for_rows(sqlite_url(tmp_path / "g"), 1)
            assert (row["status"], row["finish_reason"]) == (499, "left")
            assert 0 < row["tokens_out"] < 900
            assert row["cost_nano"] > 0
    finally:
        stop_server(slow)


def test_a_gateway_that_is_killed_says_next_time_how_much_is_lost(quick: Server, tmp_path: Path, url: str) -> None:
    answered = 0
    with pytest.raises(AssertionError), started_gateway(tmp_path / "a", *server_options(quick), database=url) as dying:
        for _ in range(50):
            assert complete(dying, "x", max_tokens=1).status == 200
        wait_for_rows(url, 50)
        began = time.monotonic()
        while time.monotonic() - began < 0.5:
            assert complete(dying, "x", max_tokens=1).status == 200
            answered += 1
        # A request is noted right behind its answer: where another one has been answered since, it was.
        assert call(dying, "/health/live").status == 200
        os.kill(dying.process.pid, signal.SIGKILL)
        dying.process.wait()
    total = 50 + answered
    written = len(rows_of(url))
    lost = total - written
    assert 0 < lost <= answered
    with started_gateway(tmp_path / "b", *server_options(quick), database=url) as gateway:
        assert gateway.metric("ledger_lost_total") == lost
        (said,) = [line for line in gateway.lines if "process that was killed" in line["event"]]
        assert said["rows"] == lost
    assert f"{lost} requests of this month are missing" in trireme(url, "ledger", "report").stderr
    # It is said once.
    with started_gateway(tmp_path / "c", *server_options(quick), database=url) as gateway:
        assert gateway.metric("ledger_lost_total") == 0


def test_a_hit_and_a_miss_in_one_request_cost_what_each_costs(server: Server, tmp_path: Path) -> None:
    config = '[[price]]\nmodel = "ensemble"\ninput = 1000\noutput = 100000\ncached = 10\n'
    long, other = ask("Count from 1 to 30."), ask("Say " + "xy " * 60)
    with started_gateway(tmp_path, *server_options(server), config=config) as gateway:
        alone = complete(gateway, long, temperature=0, max_tokens=60).json["usage"]
        both = complete(gateway, [long, other], temperature=0, max_tokens=60).json["usage"]
        _, row = wait_for_rows(sqlite_url(tmp_path), 2)
    computed_in = both["prompt_tokens"] - alone["prompt_tokens"]
    computed_out = both["completion_tokens"] - alone["completion_tokens"]
    assert row["tokens_cached"] == alone["total_tokens"]
    cost = computed_in * 1000 + computed_out * 100_000 + alone["total_tokens"] * 10
    assert row["cost_nano"] == round(cost * NANO / 1e6)


def test_who_begins_an_answer_that_others_read_pays_for_it(tmp_path: Path) -> None:
    slow = start_null_server(tmp_path / "slow", 100.0)
    config = '[[price]]\nmodel = "ensemble"\noutput = 1000000\n'
    fields = {"prompt": "x", "temperature": 0, "ignore_eos": True, "max_tokens": 200, "stream": True}
    try:
        with started_gateway(tmp_path / "g", *server_options(slow), config=config) as gateway:
            with open_stream(gateway, fields) as leader:
                read_until(leader, b"data: ")
                with open_stream(gateway, fields) as other:
                    read_until(other, b"data: ")
                    leader.close()
                    read_until(other, b"[DONE]")
            rows = {row["cache"]: row for row in wait_for_rows(sqlite_url(tmp_path / "g"), 2)}
        assert (rows["miss"]["status"], rows["joined"]["status"]) == (499, 200)
        assert rows["miss"]["tokens_out"] == rows["joined"]["tokens_out"] == 200
        assert (rows["miss"]["cost_nano"], rows["joined"]["cost_nano"]) == (200 * NANO, 0)
    finally:
        stop_server(slow)


def test_what_a_database_does_not_take_stops_nothing(quick: Server, tmp_path: Path, url: str) -> None:
    config = "[transcripts]\nenabled = true\n"
    with started_gateway(tmp_path / "g", *server_options(quick), config=config, database=url) as gateway:
        assert complete(gateway, "hi \0 x", max_tokens=1).status == 200
        assert complete(gateway, "hello", max_tokens=1).status == 200
        wait_for_rows(url, 2)
        wait_for(lambda: trireme(url, "ledger", "transcripts").stdout.count("request_id") == 2, 10, "the transcripts")


def test_where_nothing_may_be_lost_nothing_is(quick: Server, tmp_path: Path) -> None:
    config = '[ledger]\nwhen_full = "stop"\nmax_waiting = 5\nflush_ms = 1000\n'
    with started_gateway(tmp_path, *server_options(quick), config=config) as gateway:
        with ThreadPoolExecutor(30) as threads:
            statuses = list(threads.map(lambda _: complete(gateway, "x", max_tokens=1).status, range(60)))
        wait_for(lambda: gateway.metric("ledger_waiting") == 0, 10, "the rows")
        assert gateway.metric("ledger_lost_total") == 0
        rows = [row["status"] for row in rows_of(sqlite_url(tmp_path))]
        assert sorted(rows) == sorted(statuses)


@contextmanager
def small_disk(folder: Path, size: str = "1M") -> Iterator[Path]:
    """A file system that is soon full."""
    if os.getuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("only root can mount a small disk")
        pytest.skip("only root can mount a small disk")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("when_full", ["go_on", "stop"])
def test_a_full_disk(quick: Server, tmp_path: Path, when_full: str) -> None:
    config = f'{PRICES}[ledger]\nwhen_full = "{when_full}"\nmax_waiting = 50\n'
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "disk"))
        url = sqlite_url(disk)
        key = new_key(url, "acme")
        gateway = stack.enter_context(
            started_gateway(tmp_path / "g", *server_options(quick), config=config, database=url)
        )
        assert complete(gateway, "x", bearer(key), max_tokens=1).status == 200
        wait_for_rows(url, 1)
        ballast = disk / "ballast"
        with pytest.raises(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        answers = []

        def is_failing() -> bool:
            answers.append(complete(gateway, "x", bearer(key), max_tokens=1).status)
            return any("cannot be written" in line["event"] for line in gateway.lines)

        wait_for(is_failing, 20, "the full disk")
        answers += [complete(gateway, "x", bearer(key), max_tokens=1).status for _ in range(100)]
        assert set(answers[-100:]) == ({200} if when_full == "go_on" else {503})
        refused = complete(gateway, "x", bearer(key), max_tokens=1)
        if when_full == "stop":
            assert "the ledger cannot be written" in refused.error["message"]
        # There is room again: what waited is written, and nothing is half there.
        ballast.unlink()
        wait_for(lambda: any("can be written again" in line["event"] for line in gateway.lines), 20, "the ledger")
        wait_for(lambda: complete(gateway, "x", bearer(key), max_tokens=1).status == 200, 10, "an answer")
        answered = sum(1 for line in gateway.lines if line["event"] == "request")
        wait_for(lambda: len(rows_of(url)) > 5, 10, "the rows")
        with opened(url) as database, database.read() as connection:
            assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"
        rows = rows_of(url)
        numbers = [row["number"] for row in rows]
        assert numbers == list(range(1, len(rows) + 1))
        if when_full == "go_on":
            # No more than may wait; the others are counted as lost.
            assert len(rows) < answered


def test_a_file_that_is_replaced_is_noticed(quick: Server, tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    with started_gateway(tmp_path / "g", *server_options(quick), database=url) as gateway:
        assert complete(gateway, "x", max_tokens=1).status == 200
        wait_for_rows(url, 1)
        for path in tmp_path.glob("gateway.db*"):
            path.rename(tmp_path / f"old-{path.name}")
        new_key(url, "acme")
        assert complete(gateway, "x", max_tokens=1).status == 200
        wait_for(lambda: "was removed or replaced" in gateway.log, 10, "the error")
        wait_for(lambda: gateway.metric("ledger_failing") == 1, 10, "the metric")


def test_a_database_that_is_restarted_misses_nothing(quick: Server, tmp_path: Path) -> None:
    with postgres() as url, started_gateway(tmp_path / "g", *server_options(quick), database=url) as gateway:
        count = 0
        for _ in range(5):
            for _ in range(20):
                assert complete(gateway, "x", max_tokens=1).status == 200
                count += 1
            with opened(url) as database, database.write() as connection:
                connection.exec_driver_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )
        rows = wait_for_rows(url, count)
        assert sorted(row["number"] for row in rows) == list(range(1, count + 1))


def _fill(url: str) -> None:
    """A month of made-up rows, with sums that can be checked."""
    base = {
        "writer": "w",
        "request_id": "r",
        "endpoint": "chat",
        "server": "s",
        "cache": "miss",
        "queue_ms": 1.0,
        "total_ms": 50.0,
        "finish_reason": "stop",
        "person": None,
        "tokens_cached": 0,
        "model": "ensemble",
    }
    rows: list[dict[str, Any]] = []
    first_ms = 1_793_491_200_000  # 2026-11-01
    for number in range(300):
        mine = number % 3
        rows.append(
            {
                **base,
                "number": number,
                "time_ms": first_ms + number % 30 * 86_400_000 + number,
                "status": 500 if number % 50 == 0 else 200,
                "tenant": ("acme", "<b>bob</b>", "")[mine],
                "key_id": ("k1", "k2", "")[mine],
                "release": ("r1", "r2", "r1")[mine],
                "version": str(mine + 1),
                "tokens_in": 10,
                "tokens_out": mine,
                "ttft_ms": None if number % 50 == 0 else float(number % 100),
                "cost_nano": (5, 1, 0)[mine] * NANO,
            }
        )
    # Of the months around it.
    rows += [
        {**rows[0], "number": 1000, "time_ms": first_ms - 1},
        {**rows[0], "number": 1001, "time_ms": first_ms + 30 * 86_400_000},
    ]
    with opened(url) as database, database.write() as connection:
        connection.execute(insert(ledger), rows)


def _read_csv(output: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(output)))


def test_reports_add_up(tmp_path: Path, url: str) -> None:
    _fill(url)
    report: Sequence[str] = ("ledger", "report", "--month", "2026-11")
    table = trireme(url, *report).stdout.splitlines()
    assert [line.split()[0] for line in table] == ["tenant", "acme", "<b>bob</b>", "-", "all"]
    assert "500.0000 USD" in table[1]
    assert table[4].split()[1:3] == ["300", "6"]
    lines = _read_csv(trireme(url, *report, "--by", "tenant", "--csv", "-").stdout)
    assert [line["tenant"] for line in lines] == ["acme", "<b>bob</b>", "-"]
    assert {line["requests"] for line in lines} == {"100"}
    assert [float(line["cost"]) for line in lines] == [500, 100, 0]
    assert [int(line["tokens_out"]) for line in lines] == [0, 100, 200]
    by_version = _read_csv(trireme(url, *report, "--by", "version", "--csv", "-").stdout)
    assert {line["version"] for line in by_version} == {"ensemble r1 1", "ensemble r2 2", "ensemble r1 3"}
    assert [line["model"] for line in _read_csv(trireme(url, *report, "--by", "model", "--csv", "-").stdout)] == [
        "ensemble"
    ]
    page = tmp_path / "page.html"
    trireme(url, *report, "--by", "key", "--html", str(page))
    html = page.read_text()
    assert html.count("<svg") == 2
    assert "http" not in html.replace("http://www.w3.org/", "")
    assert "k1" in html
    trireme(url, *report, "--html", str(page))
    # A tenant's name is a name, and no part of the page.
    assert "<b>bob</b>" not in page.read_text()
    assert "&lt;b&gt;bob&lt;/b&gt;" in page.read_text()
    empty = trireme(url, "ledger", "report", "--month", "2020-02")
    assert empty.stdout == "There are no requests in 2020-02.\n"
    for month in ("2026-13", "november", "2026-1"):
        assert f"--month '{month}'" in trireme(url, "ledger", "report", "--month", month, check=False).stderr


def test_a_person_can_be_forgotten(server: Server, tmp_path: Path, url: str) -> None:
    config = "[transcripts]\nenabled = true\n"
    with started_gateway(tmp_path / "g", *server_options(server), config=config, database=url) as gateway:
        for user in ("jane@example.com", "joe", "jane@example.com"):
            assert chat(gateway, "Repeat: hello there", user=user, max_tokens=4).status == 200
        assert chat(gateway, "Repeat: hello there", max_tokens=4).status == 200
        wait_for_rows(url, 4)
        done = trireme(url, "ledger", "forget", "--user", "jane@example.com").stdout
        assert done == "Removed 2 rows of the ledger and 2 transcripts.\n"
        assert len(rows_of(url)) == 2
        assert trireme(url, "ledger", "forget", "--user", "nobody").stdout.startswith("Removed 0 rows")
    listed = trireme(url, "audit", "list").stdout
    assert "ledger.forget" in listed
    assert "jane" not in listed
    trireme(url, "audit", "verify")


def test_prompts_and_answers_are_kept_only_where_asked_for_and_redacted(server: Server, tmp_path: Path) -> None:
    said = "Repeat: mail jane@example.com or call +49 30 901820, card 4111 1111 1111 1111"
    with started_gateway(tmp_path / "off", *server_options(server)) as gateway:
        assert chat(gateway, said).status == 200
        wait_for_rows(sqlite_url(tmp_path / "off"), 1)
    for path in (tmp_path / "off").iterdir():
        assert b"jane" not in path.read_bytes()
        assert b"4111" not in path.read_bytes()
    url = sqlite_url(tmp_path / "on")
    config = "[transcripts]\nenabled = true\n"
    with started_gateway(tmp_path / "on", *server_options(server), config=config) as gateway:
        assert chat(gateway, said, {"x-request-id": "t-1"}, max_tokens=100).status == 200
        wait_for_rows(url, 1)
        assert "jane" not in gateway.log

        def kept() -> str:
            return trireme(url, "ledger", "transcripts").stdout

        wait_for(lambda: "t-1" in kept(), 10, "the transcript")
        text_kept = kept()
        assert "[email]" in text_kept
        assert "[phone]" in text_kept
        assert "[card]" in text_kept
    for path in (tmp_path / "on").iterdir():
        assert b"jane@" not in path.read_bytes()
        assert b"4111 1111" not in path.read_bytes()
    # Who reads them is recorded.
    assert "transcripts.read" in trireme(url, "audit", "list").stdout


def test_what_is_too_old_is_deleted(quick: Server, tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    _fill(url)
    now_ms = int(1000 * time.time())
    old = {"request_id": "old", "tenant": "", "person": None, "prompt": "p", "answer": "a"}
    with opened(url) as database, database.write() as connection:
        connection.execute(insert(transcripts), [{**old, "time_ms": now_ms - age * 86_400_000} for age in (8, 6)])
    config = "[transcripts]\nkeep_days = 7\n[ledger]\nkeep_days = 0.5\n"
    with started_gateway(tmp_path / "g", *server_options(quick), config=config, database=url):
        wait_for(lambda: trireme(url, "ledger", "transcripts").stdout.count('"old"') == 1, 10, "the deletion")
        wait_for(lambda: all(row["time_ms"] > now_ms - 86_400_000 for row in rows_of(url)), 10, "the deletion")


REDACTED = {
    "mail jane.doe+x@example.co.uk now": "mail [email] now",
    "card 4111 1111 1111 1111 ends": "card [card] ends",
    "card 4111-1111-1111-1111.": "card [card].",
    "amex 378282246310005": "amex [card]",
    "call +49 30 901820 or (415) 555-2671": "call [phone] or [phone]",
    "my password is hunter22x": "my password is [key]",
    "api_key=0123456789abcdef": "api_key=[key]",
    "use sk-abcdef0123456789abcd": "use [key]",
    "AKIAIOSFODNN7EXAMPLE is it": "[key] is it",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----": "[key]",
    # What is none of these stays.
    "What is 37 + 58?": "What is 37 + 58?",
    "the token economy": "the token economy",
    "on 2026-11-23 at 12:30, 1,000,000 of 3.14159": "on 2026-11-23 at 12:30, 1,000,000 of 3.14159",
}


@pytest.mark.parametrize("given", REDACTED)
def test_redaction(given: str) -> None:
    assert Redactor("US").redact(given) == REDACTED[given]


def test_settings_of_prices_are_checked(tmp_path: Path) -> None:
    from trireme_gateway.errors import SettingError
    from trireme_gateway.settings import read_settings

    path = tmp_path / "g.toml"
    for config, says in (
        ('[[price]]\nmodel = "none"\n', "there is no model 'none'"),
        ('[[price]]\nmodel = "ensemble"\ninput = -1\n', "price"),
        ('[ledger]\nwhen_full = "panic"\n', "when_full"),
        ("[quota.key]\nrequests_per_minute = 0\n", "requests_per_minute"),
        ('[quota.shared]\nkind = "redis"\nurl = "http://x"\n', "url"),
        ('currency = "dollars"\n', "currency"),
    ):
        path.write_text(config)
        with pytest.raises(SettingError, match=says):
            read_settings(path, {})
