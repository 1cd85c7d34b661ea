"""Releases put live and taken back on a real server, under the eyes of clients."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from release_runs import TEXTS, Operator, clients, null_checkout, null_server
from support import Server, long_form, processes_named, wait_for
from trireme_client import Client, Generation, InvalidArgument
from trireme_ops.layout import Layout

QUICK = ("--hold", "1s", "--drain-timeout", "30s")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return null_checkout(tmp_path_factory.mktemp("releases") / "root")


@pytest.fixture(scope="module")
def running(layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Operator]]:
    with null_server(tmp_path_factory.mktemp("server"), layout) as started:
        yield started
    assert not started[0].regions()


@pytest.fixture
def server(running: tuple[Server, Operator]) -> Server:
    return running[0]


@pytest.fixture
def operator(running: tuple[Server, Operator]) -> Iterator[Operator]:
    """An operator of the server, on which r1 is live before each test."""
    found = running[1]
    if found.live() != "r1":
        done = found.run("promote", "r1", "--hold", "0s")
        assert done.returncode == 0, done.stdout + done.stderr
    yield found


def test_a_release_goes_live_and_back_and_no_client_notices(server: Server, operator: Operator) -> None:
    with clients(server.grpc) as seen, Client(server.grpc) as client:
        # What was refused must not keep a model from being unloaded.
        for refused in (Generation(prompt="", max_tokens=4), Generation(prompt="x", max_tokens=4, top_p=7.0)):
            with pytest.raises(InvalidArgument):
                client.generate(refused)
        with client.stream(prompt="anything", max_tokens=1500) as stream:
            began = next(iter(stream)).text
            promoted = operator.run("promote", "r2", *QUICK)
            rest = "".join(delta.text for delta in stream)
        assert operator.live() == "r2"
        # Nothing of the old release is left.
        assert not [path.name for path in server.regions() if "@r1." in path.name]
        assert [path.name for path in server.regions() if "@r2." in path.name]
        wait_for(lambda: not processes_named(server, "@r1"), 30, "the end of the old release's processes")
        went_back = operator.run("rollback")
        assert operator.live() == "r1"
    assert promoted.returncode == 0, promoted.stdout + promoted.stderr
    assert went_back.returncode == 0, went_back.stdout + went_back.stderr
    assert seen.errors == []
    assert seen.mixed == []
    assert seen.answered_by("r1") > 10
    assert seen.answered_by("r2") > 10
    log = (server.ready_file.parent / "triton.log").read_text(errors="replace")
    assert log.count("successfully loaded 'tensorrt_llm@r2'") == 1
    # What began on the old release ended on it.
    assert len(began + rest) == 1500
    assert TEXTS["r1"].fullmatch(began + rest)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("wrong", "score 0.000 is below 0.95"),
        ("unloadable", "cannot be loaded"),
        pytest.param("hanging", "score 0.000 is below 0.95", marks=long_form),
        pytest.param("slow", "TTFT", marks=long_form),
    ],
)
def test_a_release_that_is_not_good_enough_serves_no_client(
    server: Server, operator: Operator, name: str, why: str
) -> None:
    with clients(server.grpc) as seen:
        done = operator.run("promote", name, *QUICK)
    assert done.returncode == 1
    assert why in done.stderr
    assert "rolled back" in done.stderr
    assert seen.errors == []
    # Even of the wrong one, whose texts are another's, none was seen.
    assert len(seen.texts) == seen.answered_by("r1") > 0
    (status,) = operator.status()
    assert status["serving"]
    assert status["drift"] == []
    assert status["llms"][0]["loaded"] == ["r1"]


def test_every_step_stands_in_the_audit_log(layout: Layout) -> None:
    lines = [json.loads(line) for line in (layout.state / "releases" / "audit.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line.get("release") == "wrong"]
    assert {"preflight", "load", "probe", "free"} <= {line["step"] for line in steps}
    assert all(line["at"] and line["operator"] and line["pid"] for line in steps)
    (failed,) = [line for line in steps if line["result"] == "failed"][-1:]
    assert "score" in failed["text"]
    shown = Operator(layout, []).run("log", "--last", "400")
    assert shown.returncode == 0
    assert "promote wrong" in shown.stdout


def test_a_release_whose_models_do_not_fit_is_not_even_loaded(layout: Layout, operator: Operator) -> None:
    create = operator.run
    operator_alone = Operator(layout, [])
    made = operator_alone.run("create", "--name", "unfit", "--from", "r1", "--set", "tensorrt_llm=2", "--anyway")
    assert made.returncode == 0, made.stderr
    done = create("promote", "unfit", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert "tokenizer" in done.stderr
    assert "load" not in {event["step"] for event in events}


def test_ctrl_c_takes_a_release_back_and_a_second_operator_is_told_who_the_first_is(
    server: Server, operator: Operator
) -> None:
    with clients(server.grpc) as seen:
        promotion = operator.start("promote", "r2", "--hold", "60s")
        promotion.wait_for("load", "begin")
        refused = operator.run("promote", "wrong")
        (status,) = operator.status()
        promotion.wait_for("watch", "begin")
        wait_for(lambda: seen.answered_by("r2") > 0, 20, "an answer of r2")
        assert promotion.end(signal.SIGINT) == 1
    assert refused.returncode == 1
    assert f"(process {promotion.process.pid} on " in refused.stderr
    assert "promote r2" in refused.stderr
    assert f"(process {promotion.process.pid})" in status["operator"]
    assert seen.errors == []
    assert seen.mixed == []
    assert operator.live() == "r1"
    assert promotion.events[-1]["result"] == "rolled back"
    assert promotion.events[-1]["why"] == "interrupted by the operator"


def test_what_is_live_already_is_left_alone(operator: Operator) -> None:
    done = operator.run("promote", "r1")
    assert done.returncode == 0
    assert "is live already" in done.stdout


def test_an_old_release_that_is_kept_is_back_at_once(operator: Operator) -> None:
    promoted = operator.run("promote", "r2", "--hold", "0s", "--keep-old", "--json")
    assert promoted.returncode == 0
    (loaded_s,) = [
        event["figures"]["seconds"]
        for event in map(json.loads, promoted.stdout.splitlines())
        if (event.get("step"), event.get("kind")) == ("load", "done")
    ]
    (status,) = operator.status()
    assert sorted(status["llms"][0]["loaded"]) == ["r1", "r2"]
    back = operator.run("rollback", "--json")
    events = [json.loads(line) for line in back.stdout.splitlines()]
    (took,) = [event["figures"]["seconds"] for event in events if event.get("step") == "rollback"]
    assert operator.live() == "r1"
    assert took < loaded_s / 2, "nothing had to be loaded"


def test_a_file_says_what_is_live_and_saying_it_twice_changes_nothing(
    layout: Layout, operator: Operator, tmp_path: Path
) -> None:
    file = tmp_path / "llm.toml"
    smoke = tmp_path / "smoke.jsonl"
    smoke.write_text(json.dumps({"prompt": "q", "expect": TEXTS["r2"].pattern, "match": "regex", "max_tokens": 4}))
    file.write_text(
        'name = "declared"\n[versions]\npreprocessing = 2\ntensorrt_llm = 2\npostprocessing = 2\n'
        '[promote]\nhold_s = 0\n[smoke]\nfile = "smoke.jsonl"\n'
    )
    first = operator.run("apply", str(file))
    assert first.returncode == 0, first.stdout + first.stderr
    assert operator.live() == "declared"
    before = (layout.root / "releases" / "declared.json").read_bytes()
    again = operator.run("apply", str(file))
    assert again.returncode == 0
    assert "is live already" in again.stdout
    assert (layout.root / "releases" / "declared.json").read_bytes() == before
    file.write_text(file.read_text().replace("tensorrt_llm = 2", "tensorrt_llm = 1"))
    refused = operator.run("apply", str(file))
    assert refused.returncode == 1
    assert "releases never change" in refused.stderr


def test_traffic_is_copied_to_a_release_on_trial(server: Server, operator: Operator) -> None:
    with clients(server.grpc, streaming=2, unary=2) as seen:
        done = operator.run("shadow", "r2", "--fraction", "0.5", "--duration", "4s", "--json")
    report = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    assert report["requests"]["compared"] > 3
    assert report["answers"]["different"] == report["answers"]["compared"] > 0
    assert len(seen.texts) == seen.answered_by("r1")
    assert seen.errors == []
    assert operator.live() == "r1"
    assert operator.status()[0]["drift"] == []


@long_form
def test_a_server_that_is_started_again_serves_what_was_live(layout: Layout, tmp_path: Path) -> None:
    for attempt, live in (("first", "r1"), ("second", "r2")):
        (tmp_path / attempt).mkdir()
        with null_server(tmp_path / attempt, layout, "restarted") as (_, operator):
            assert operator.live() == live
            operator.run("promote", "r2", "--hold", "0s")
            assert operator.live() == "r2"
    shutil.rmtree(layout.state / "servers" / "restarted")
