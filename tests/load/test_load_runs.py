"""`trireme load` against real servers."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from fakes.openai_server import FIRST_S, KEY, TOKEN_S, openai_server
from support import ROOT, TRIREME, Server, long_form, start_null_server, stop_server, wait_for
from trireme_load.record import CANCELLED, OK, Record, read_csv
from trireme_ops.ports import free_ports
from trireme_runtime.tokenizing import load_tokenizer

TTFT_MS, ITL_MS = 300.0, 100.0

#: What a figure may be off by: 5 %, or 2 ms if that is more.
SHARE, LEAST_MS = 0.05, 2.0


def timed_server(folder: Path, **more: Any) -> Server:
    """One whose tokens come at set times, and are visible each."""
    tokenizer = load_tokenizer(ROOT / "model_repository" / "postprocessing" / "1" / "tokenizer")
    visible = re.compile("[a-z]")
    silent = [index for index in range(len(tokenizer)) if not visible.fullmatch(tokenizer.decode([index]))]
    settings = {"max_num_sequences": "256", "max_chunk_delay_ms": "0"}
    model = {"silent_ids": silent, "first_token_ms": TTFT_MS, "token_ms": ITL_MS}
    return start_null_server(folder, 0, settings, **{**model, **more})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = timed_server(tmp_path_factory.mktemp("timed"))
    yield running
    stop_server(running)


def load(*arguments: str, timeout_s: float = 120) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(TRIREME), "load", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False
    )


def of(server: Server, target: str, out: Path, *more: str) -> list[str]:
    """Arguments of a short run."""
    options = ["--target", target, "--host", str(server.addresses[target]), "--out", str(out)]
    return [*options, "--warm-up=1s", "--duration=3s", "--prompts=synthetic:16/12", *more]


def summary_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return found


def records_of(out: Path) -> list[Record]:
    return list(read_csv(out / "requests.csv"))


def off_by(seen_ms: float, set_ms: float) -> bool:
    return abs(seen_ms - set_ms) > max(LEAST_MS, SHARE * set_ms)


@pytest.mark.alone
@pytest.mark.parametrize("target", ["grpc", "http"])
@pytest.mark.parametrize("users", [*(pytest.param(users, marks=long_form) for users in (1, 16)), 64])
def test_the_figures_are_those_that_were_set(server: Server, tmp_path: Path, users: int, target: str) -> None:
    wrong: dict[str, float] = {}
    # Another process may have had the processors for a moment: that is not what is measured here.
    for attempt in range(3):
        out = tmp_path / str(attempt)
        done = load(*of(server, target, out, "--users", str(users)))
        assert done.returncode in (0, 1), done.stderr
        summary = summary_of(out)
        assert summary["requests"]["failed"] == 0 and summary["requests"]["succeeded"] > 0
        seen = {name: summary[name]["p50"] for name in ("ttft", "itl", "tpot")}
        wanted = {"ttft": TTFT_MS, "itl": ITL_MS, "tpot": ITL_MS}
        wrong = {name: seen[name] for name in seen if off_by(seen[name], wanted[name])}
        if not wrong and summary["valid"]:
            return
    pytest.fail(f"{wrong} at {users} users over {target}: {summary['invalid_because']}")


@pytest.mark.alone
def test_two_processes_end_well_and_leave_complete_files(server: Server, tmp_path: Path) -> None:
    done = load(*of(server, "grpc", tmp_path, "--users", "6", "--processes", "2"))
    assert done.returncode == 0, done.stderr
    records = records_of(tmp_path)
    assert {record.worker for record in records} == {0, 1}
    by_user: dict[tuple[int, int], list[Record]] = {}
    for record in records:
        by_user.setdefault((record.worker, record.user), []).append(record)
    assert len(by_user) == 6
    for asked in by_user.values():
        # None is missing between two: a user asks again at once.
        ends = sorted((record.sent_s, record.end_s) for record in asked)
        assert all(later[0] - earlier[1] < 0.5 for earlier, later in pairwise(ends))
    summary = summary_of(tmp_path)
    assert summary["requests"]["sent"] == sum(1 <= record.intended_s < 5 for record in records)
    assert len(summary["generators"]) == 2
    assert "TTFT" in done.stdout and "report.html" in done.stdout


def test_an_open_loop_sends_when_its_time_comes_and_measures_from_then(server: Server, tmp_path: Path) -> None:
    done = load(*of(server, "grpc", tmp_path, "--arrival=constant", "--rate=10", "--processes=2", "--seed=7"))
    assert done.stderr == "" or "bottleneck" in done.stdout, done.stderr
    intended = sorted(record.intended_s for record in records_of(tmp_path))
    assert intended == pytest.approx([0.1 * index for index in range(1, len(intended) + 1)], abs=1e-5)
    assert len(intended) == 40
    assert all(record.sent_s >= record.intended_s - 0.001 for record in records_of(tmp_path))


def test_what_waits_in_a_full_server_counts_from_its_intended_time(tmp_path: Path) -> None:
    # 2 at a time, 0.32 s each: 6 requests/s at the most, and 12 are sent.
    running = start_null_server(
        tmp_path,
        0,
        {"max_num_sequences": "2", "max_queue_delay_ms": "60000", "max_chunk_delay_ms": "0"},
        first_token_ms=100.0,
        token_ms=20.0,
    )
    try:
        done = load(*of(running, "grpc", tmp_path / "out", "--arrival=constant", "--rate=12", "--duration=4s"))
    finally:
        stop_server(running)
    assert done.returncode in (0, 1), done.stderr
    records = sorted(records_of(tmp_path / "out"), key=lambda record: record.intended_s)
    answered = [record for record in records if record.code == OK and record.ttft_s is not None]
    assert len(records) == 60 and len(answered) > 30
    first, last = answered[0].ttft_s, answered[-1].ttft_s
    assert first is not None and last is not None and last > first + 1.5, "the queue grows, and so must TTFT"


@pytest.mark.alone
def test_a_trace_is_replayed(server: Server, tmp_path: Path) -> None:
    calls = [(0.0, 8, 3), (1.5, 16, 5), (1.6, 8, 7), (3.0, 24, 4)]
    lines = [json.dumps({"timestamp": 1000 * at, "input_length": i, "output_length": o}) for at, i, o in calls]
    (tmp_path / "trace.jsonl").write_text("\n".join(lines), encoding="utf-8")
    arguments = of(server, "grpc", tmp_path, "--arrival=trace", f"--trace={tmp_path / 'trace.jsonl'}")
    done = load(*arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    records = sorted(records_of(tmp_path), key=lambda record: record.intended_s)
    assert [(record.intended_s, record.output_tokens) for record in records] == [(at, o) for at, _, o in calls]
    assert [record.input_tokens for record in records] == pytest.approx([i for _, i, _ in calls], abs=5)


@pytest.mark.alone
def test_users_follow_a_shape(server: Server, tmp_path: Path) -> None:
    done = load(*of(server, "grpc", tmp_path, "--users=8", "--shape=spike:3", "--duration=9s"))
    assert done.returncode == 0, done.stderr
    records = records_of(tmp_path)

    def busy(at_s: float) -> int:
        return sum(record.sent_s <= at_s < record.end_s for record in records)

    # The middle fifth of 10 s has 24 users; a request that is under way comes to its end.
    assert (busy(3.0), busy(9.0)) == (8, 8) and busy(5.8) > 20


@pytest.mark.alone
def test_those_who_leave_are_no_errors_and_those_who_stay_notice_nothing(server: Server, tmp_path: Path) -> None:
    done = load(*of(server, "grpc", tmp_path, "--scenario=cancellation-storm", "--users=8"))
    assert done.returncode == 0, done.stderr
    records = records_of(tmp_path)
    left, stayed = ([one for one in records if one.scenario == name] for name in ("leaves", "stays"))
    assert left and stayed
    assert {one.code for one in stayed} == {OK} and {one.output_tokens for one in stayed} == {12}
    assert {one.code for one in left} <= {CANCELLED} and max(len(one.gaps_s) for one in left) < 8
    assert summary_of(tmp_path)["requests"]["cancelled"] > 0


@pytest.mark.alone
@pytest.mark.parametrize(
    "scenario",
    [
        "mixed",
        *(pytest.param(name, marks=long_form) for name in ("unary", "long-prompt", "shared-prefix", "priorities")),
    ],
)
def test_a_scenario_runs(server: Server, tmp_path: Path, scenario: str) -> None:
    done = load(*of(server, "http" if scenario == "unary" else "grpc", tmp_path, f"--scenario={scenario}"))
    assert done.returncode == 0, done.stderr
    summary = summary_of(tmp_path)
    assert summary["requests"]["succeeded"] > 0 and summary["requests"]["failed"] == 0
    assert (summary["ttft"]["count"] == 0) == (scenario == "unary")


@long_form
def test_two_llms_are_told_apart(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The second one is the first under the name of its other front.
    monkeypatch.setenv("TRIREME_LOAD_SECOND", "llmapi")
    done = load(*of(server, "grpc", tmp_path, "--scenario=two-llms", "--users=4"))
    assert set(summary_of(tmp_path)["by_model"]) == {"ensemble", "llmapi"}, done.stderr


@pytest.mark.alone
def test_a_server_with_openai_s_api_is_measured_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIREME_API_KEY", KEY)
    with openai_server() as address:
        options = ["--target=openai", f"--host={address}", "--warm-up=1s", "--duration=3s", "--users=2"]
        done = load(*options, f"--out={tmp_path / 'good'}", "--prompts=synthetic:16/12")
        (tmp_path / "busy.txt").write_text("busy", encoding="utf-8")
        refused = load(*options, f"--out={tmp_path / 'busy'}", f"--prompts={tmp_path / 'busy.txt'}")
    assert done.returncode == 0, done.stderr
    summary = summary_of(tmp_path / "good")
    assert summary["output_tokens"]["p50"] == 12 and list(summary["by_release"]) == ["r7"]
    assert summary["ttft"]["p50"] >= 1000 * FIRST_S and summary["itl"]["p50"] >= 900 * TOKEN_S
    assert refused.returncode == 1
    assert list(summary_of(tmp_path / "busy")["errors"]["by_code"]) == ["RESOURCE_EXHAUSTED"]


@pytest.mark.alone
def test_a_master_and_a_worker_of_locust_s_own_make_one_run(server: Server, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / "locustfile.py"), "StreamingChat"]
    options = [f"--host={server.addresses['grpc']}", "--warm-up=1s", "--duration=3s", "--prompts=synthetic:16/12"]
    leading = ["--master", "--headless", "--expect-workers=1", "--users=3", "--spawn-rate=3", f"--out={tmp_path}"]
    bound = ["--master-bind-host=127.0.0.1", f"--master-bind-port={port}"]
    joined = ["--worker", "--master-host=127.0.0.1", f"--master-port={port}"]
    processes = [
        subprocess.Popen([*command, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for more in ([*leading, *bound, *options], joined)
    ]
    try:
        outputs = [process.communicate(timeout=60)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert summary_of(tmp_path)["requests"]["succeeded"] > 0


def test_a_threshold_that_is_missed_ends_with_1_and_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "thresholds.toml").write_text('[max]\n"ttft.p50" = "20ms"\n', encoding="utf-8")
    done = load(*of(server, "grpc", tmp_path, "--users=2", f"--thresholds={tmp_path / 'thresholds.toml'}"))
    assert done.returncode == 1
    assert re.search(r"MISSED.*ttft\.p50", done.stdout), done.stdout


BUSY = '''
import time

from trireme_load.user import LlmUser

class Busy(LlmUser):
    """Uses up the generator's processor."""

    def turn(self) -> None:
        end = time.perf_counter() + 0.2
        while time.perf_counter() < end:
            pass
        self.ask()
'''


def test_a_generator_that_cannot_keep_up_is_not_believed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(BUSY, encoding="utf-8")
    done = load(*of(server, "grpc", tmp_path, "--users=8", f"--scenario={tmp_path / 'busy.py'}"))
    assert done.returncode == 1
    assert "INVALID: the load generator was the bottleneck" in done.stdout
    assert summary_of(tmp_path)["valid"] is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scenario=poetry"], "scenario is 'poetry'; allowed are"),
        (["--scenario=./none.py"], "./none.py: no such file or directory"),
        (["--slo=ttft"], "slo has 'ttft'"),
        (["--target=smtp"], "target is 'smtp'"),
        (["--prompts=none.jsonl"], "none.jsonl cannot be read"),
        (["--thresholds=none.toml"], "none.toml"),
        (["--arrival=poisson"], "--rate says"),
        (["--users=0"], "users is '0'; a whole number from 1 to 100000 is needed"),
        (["--processes=two"], "processes is 'two'"),
        (["--spawn-rate=-1"], "spawn-rate is '-1'"),
        (["--shape=ramp:9", "--duration=9s"], "ramp takes FROM-TO"),
        (["--host=somewhere"], "host is 'somewhere'; HOST:PORT is needed"),
        (["--host=http://127.0.0.1:8000/"], "gRPC needs HOST:PORT"),
        (["sweep", "--concurrency=4,2"], "the loads have to grow"),
        (["sweep", "--rates=4"], "--rates is for an open loop"),
        (["compare", "only-one"], "compare takes the folders of two runs"),
        (["compare", "a", "b"], "a is not the folder of a run"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path: Path, arguments: Sequence[str], words: str) -> None:
    done = load(*arguments, f"--out={tmp_path}")
    assert done.returncode == 1
    assert words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class Poet(:", "poet.py, line 1: invalid syntax"),
        ("x = 1", "there is no class in it"),
        ("", "there is no class in it"),
    ],
)
def test_a_file_that_is_no_scenario_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "poet.py").write_text(text, encoding="utf-8")
    done = load(f"--scenario={tmp_path / 'poet.py'}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 1
    assert words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_no_run_takes_the_folder_of_another(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "requests.csv").touch()
    for out, words in (("file", "is a file"), ("file/below", "is a file"), ("run", "results of another run")):
        done = load(f"--out={tmp_path / out}")
        assert done.returncode == 1
        assert words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("target", ["grpc", "http", "openai"])
def test_a_server_that_is_not_there_is_named(tmp_path: Path, target: str) -> None:
    (port,) = free_ports(1)
    done = load(f"--target={target}", f"--host=127.0.0.1:{port}", f"--out={tmp_path}")
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr and "refused" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "requests.csv").exists(), "the folder can be used again"


def test_a_model_that_is_not_there_is_named(server: Server, tmp_path: Path) -> None:
    for target in ("grpc", "http"):
        done = load(*of(server, target, tmp_path, "--model=poet"))
        assert done.returncode == 1
        assert "poet" in done.stderr and "Traceback" not in done.stderr


def test_a_server_that_dies_in_the_middle_leaves_partial_results(tmp_path: Path) -> None:
    running = timed_server(tmp_path)
    command = [str(TRIREME), "load", *of(running, "grpc", tmp_path / "out", "--duration=120s", "--users=4")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        csv = tmp_path / "out" / "requests.csv"
        wait_for(lambda: csv.exists() and len(csv.read_text().splitlines()) > 12, what="answers")
        running.process.kill()
        output, errors = process.communicate(timeout=90)
    finally:
        process.kill()
        stop_server(running)
        wait_for(lambda: not running.session(), what="the end of the server")
    assert process.returncode == 1, errors
    assert "PARTIAL" in output and "stopped answering" in output
    summary = summary_of(tmp_path / "out")
    assert summary["partial"] and not summary["valid"] and summary["requests"]["succeeded"] > 0
    assert (tmp_path / "out" / "report.html").exists()


@contextmanager
def under_way(server: Server, out: Path, *more: str) -> "Iterator[subprocess.Popen[str]]":
    """A long run that has some answers."""
    command = [str(TRIREME), "load", *of(server, "grpc", out, "--duration=120s", *more)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        csv = out / "requests.csv"
        wait_for(lambda: csv.exists() and len(csv.read_text().splitlines()) > 12, what="answers")
        yield process
    finally:
        process.kill()
        process.communicate()


def below(process: "subprocess.Popen[str]", part: str) -> psutil.Process:
    """The process that it started, or one of these did, with this in its command line."""
    found = psutil.Process(process.pid).children(recursive=True)
    return next(one for one in found if part in " ".join(one.cmdline()))


def test_the_end_of_the_process_that_reads_ends_the_run(server: Server, tmp_path: Path) -> None:
    with under_way(server, tmp_path) as process:
        below(process, "grpc_reader").kill()
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert "PARTIAL: the run ended early: the load generator's process for gRPC ended" in output
    assert summary_of(tmp_path)["requests"]["failed"] < 30, "and asks no one any more"


def test_a_load_generator_that_is_killed_says_so(server: Server, tmp_path: Path) -> None:
    with under_way(server, tmp_path) as process:
        locust = below(process, "locust")
        reader = below(process, "grpc_reader")
        locust.kill()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"the load generator was ended by SIGKILL; {tmp_path}/requests.csv holds" in errors
    wait_for(lambda: not reader.is_running(), what="the end of its process for gRPC")


def test_what_nobody_waits_for_any_more_ends(server: Server, tmp_path: Path) -> None:
    with under_way(server, tmp_path) as process:
        locust = below(process, "locust")
        process.kill()
        wait_for(lambda: not locust.is_running() or locust.status() == psutil.STATUS_ZOMBIE, what="the end of Locust")
    assert "it was stopped after" in summary_of(tmp_path)["partial"]


RAISES = """
from trireme_load.user import LlmUser

class Raises(LlmUser):
    def turn(self) -> None:
        self.ask()
        raise KeyError("no such verse")
"""


@pytest.mark.parametrize("arrival", [[], ["--arrival=constant", "--rate=4"]], ids=["closed", "open"])
def test_a_scenario_that_raises_is_not_believed(server: Server, tmp_path: Path, arrival: list[str]) -> None:
    (tmp_path / "raises.py").write_text(RAISES, encoding="utf-8")
    done = load(*of(server, "grpc", tmp_path / "out", f"--scenario={tmp_path / 'raises.py'}", *arrival))
    assert done.returncode == 1
    assert re.search("PARTIAL: the run ended early: .* raised KeyError: 'no such verse'", done.stdout), done.stdout


@pytest.mark.parametrize(("number", "processes"), [(signal.SIGINT, "1"), (signal.SIGTERM, "2")])
def test_one_that_is_interrupted_keeps_what_it_has(
    server: Server, tmp_path: Path, number: signal.Signals, processes: str
) -> None:
    with under_way(server, tmp_path, f"--processes={processes}") as process:
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in errors, errors
    assert "KeyboardInterrupt" not in output
    assert "PARTIAL" in output and "it was stopped after" in output
    assert summary_of(tmp_path)["requests"]["succeeded"] > 0


@pytest.mark.alone
def test_a_sweep_has_a_page_and_a_line_for_each_load_and_two_runs_can_be_compared(
    server: Server, tmp_path: Path
) -> None:
    arguments = of(server, "grpc", tmp_path, "--duration=2s")
    done = load("sweep", "--concurrency=1,4", *arguments)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    assert [step["load"] for step in document["steps"]] == [1, 4] and document["knee"] is None
    assert (tmp_path / "sweep.html").stat().st_size > 10_000
    folders = [str(tmp_path / f"users-{users}") for users in (1, 4)]
    compared = load("compare", *folders, f"--out={tmp_path}")
    assert compared.returncode == 0 and "TTFT p50" in compared.stdout
    assert "users differs" in compared.stdout
    assert (tmp_path / "compare.html").exists()


def fetch(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.loads(answer.read())


def test_locust_s_own_web_ui_shows_the_figures_of_an_llm(server: Server, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / "locustfile.py"), "StreamingChat"]
    command += ["--web-host=127.0.0.1", f"--web-port={port}", "--autostart", "--users=3", "--spawn-rate=3"]
    command += [f"--host={server.addresses['grpc']}", "--warm-up=0s", "--prompts=synthetic:16/12", "--duration=3s"]
    command += [f"--out={tmp_path}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    base = f"http://127.0.0.1:{port}"

    def row() -> dict[str, Any]:
        try:
            (table,) = fetch(f"{base}/stats/requests")["extended_stats"]
            found: dict[str, Any] = table["data"][0]
            return found
        except (OSError, KeyError, IndexError):
            return {}

    try:
        wait_for(lambda: row().get("ttftP50") is not None, what="a row of the table")
        assert row()["scenario"] == "StreamingChat" and row()["ttftP50"] > 150 and row()["errors"] == 0
        wait_for(lambda: any(one["itl_p50"] for one in fetch(f"{base}/llm/moments")), what="a moment of the charts")
        with urllib.request.urlopen(f"{base}/llm", timeout=5) as answer:
            page = answer.read().decode()
        assert "llm/moments" in page and "http://" not in page.replace("http://www.w3.org/2000/svg", "")
        with urllib.request.urlopen(base, timeout=5) as answer:
            assert '"LLM"' in answer.read().decode().replace("&#34;", '"').replace('\\"', '"')
        wait_for(lambda: (tmp_path / "report.html").exists(), what="the report at the end of the run")
    finally:
        process.terminate()
        process.communicate(timeout=30)
