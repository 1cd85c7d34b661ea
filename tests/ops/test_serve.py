"""The life of `trireme serve`: start, signals, refusals, and nothing left behind."""

import os
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from support import ANY_PORTS, ROOT, TRIREME, long_form, processes_named, start_server, stop_server, wait_for
from trireme_client import Client, Completion, Unavailable
from trireme_ops import processes
from trireme_ops.ports import free_ports, is_free


def assert_nothing_is_left(pid: int, session: int) -> None:
    wait_for(lambda: not processes.session_members(session), what="the end of every process of the server")
    wait_for(lambda: not list(Path("/dev/shm").glob(f"trireme_{pid}_*")), what="the end of its shared memory")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=long_form)])
def test_a_signal_drains_and_stops_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    server = start_server(tmp_path)
    assert len(server.session()) >= 5, "tritonserver, three stubs and the engine"
    if (group := Path(f"/proc/{server.addresses['triton_pid']}/autogroup")).exists():
        assert group.read_text().split()[2] == str(processes.SESSION_NICE)
    assert server.regions()
    answers: list[Completion] = []

    def ask() -> None:
        with (
            Client(server.grpc, timeout_s=60) as client,
            client.stream(prompt="Count", max_tokens=1500, end_id=-1) as stream,
        ):
            next(stream)
            under_way.set()
            for _ in stream:
                pass
            answers.append(stream.completion)

    under_way = threading.Event()
    asking = threading.Thread(target=ask)
    asking.start()
    assert under_way.wait(30)
    server.process.send_signal(number)
    with Client(server.grpc, timeout_s=10) as late:
        wait_for(lambda: not late.is_ready())
        with pytest.raises(Unavailable):
            late.generate(prompt="x")
    asking.join(60)
    output, _ = server.process.communicate(timeout=60)
    assert server.process.returncode == 0, output
    assert [answer.num_output_tokens for answer in answers] == [1500], "the stream that was under way is drained"
    assert "Stopped." in output
    assert "ask --url" in output
    assert not (tmp_path / "ready.json").exists()
    assert_nothing_is_left(server.addresses["pid"], server.addresses["triton_pid"])


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    with Client(server.grpc, timeout_s=120) as client:
        stream = client.stream(prompt="Count", max_tokens=2000, end_id=-1)
        next(stream)
        server.process.send_signal(signal.SIGINT)
        wait_for(lambda: "Draining" in os.read(server.process.stdout.fileno(), 4096).decode())  # type: ignore[union-attr]
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(20) == 0
        server.process.communicate()
    assert_nothing_is_left(server.addresses["pid"], server.addresses["triton_pid"])


def test_a_killed_serve_takes_its_server_along_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    session, pid = server.addresses["triton_pid"], server.addresses["pid"]
    with Client(server.grpc) as client:
        # Under load tritonserver does not end by itself.
        streams = [client.stream(prompt="Count", max_tokens=2000, end_id=-1) for _ in range(24)]
        for stream in streams:
            next(stream)
        server.process.kill()
        server.process.communicate()
        assert_nothing_is_left(pid, session)
    leftover = Path(f"/dev/shm/trireme_{pid}_of_a_killed_server")
    leftover.write_bytes(b"x")
    (tmp_path / "second").mkdir()
    stop_server(start_server(tmp_path / "second"))
    assert not leftover.exists()
    assert_nothing_is_left(pid, session)


@pytest.mark.parametrize("stubs", [pytest.param(1, marks=long_form), 3])
def test_serve_killed_while_it_starts_leaves_nothing(tmp_path: Path, stubs: int) -> None:
    command = [str(TRIREME), "serve", *ANY_PORTS, "--log", str(tmp_path / "triton.log")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:

        def session() -> int | None:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            return next(
                (int(pid) for pid in children if "tritonserver" in Path(f"/proc/{pid}/cmdline").read_text()), None
            )

        found = wait_for(session)
        wait_for(lambda: len(processes.session_members(found)) > stubs)
        process.kill()
    assert_nothing_is_left(process.pid, found)


def test_a_killed_engine_ends_its_streams_and_is_started_again(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    try:
        with Client(server.grpc, timeout_s=60) as client:
            stream = client.stream(prompt="Count", max_tokens=2000, end_id=-1)
            next(stream)
            (engine,) = processes_named(server, "openvino_child")
            os.kill(engine, signal.SIGKILL)
            with pytest.raises(Unavailable, match="the engine was lost"):
                for _ in stream:
                    pass

            def answer() -> str:
                try:
                    return client.generate(prompt="<|user|>Reverse: abc<|assistant|>", max_tokens=8).text
                except Unavailable:
                    return ""

            assert wait_for(answer) == "cba"
    finally:
        stop_server(server)
    assert_nothing_is_left(server.addresses["pid"], server.addresses["triton_pid"])


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="the scheduler does not group by session")
def test_a_server_s_session_comes_after_the_clients_of_its_machine(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        process = processes.start_session(["sleep", "60"], os.environ, log)
    own, its = Path("/proc/self/autogroup"), Path(f"/proc/{process.pid}/autogroup")
    try:
        assert its.read_text().split()[1:] == ["nice", "0"], "while it starts, it is one among others"
        # The group of a process that never was in a session of its own is the root's, of which the file says nothing.
        assert its.read_text().split()[0] not in own.read_text().split()
        processes.yield_to_clients(process.pid)
        assert its.read_text().split()[1:] == ["nice", str(processes.SESSION_NICE)]
    finally:
        process.kill()
        process.wait()
    assert processes.SESSION_NICE > 0


@long_form
def test_two_servers_run_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = start_server(tmp_path / "a"), start_server(tmp_path / "b")
    try:
        for server in (first, second):
            with Client(server.grpc, timeout_s=60) as client:
                assert client.generate(prompt="<|user|>Reverse: abc<|assistant|>", max_tokens=8).text == "cba"
    finally:
        stop_server(first)
        with Client(second.grpc, timeout_s=60) as client:
            assert client.is_ready()
        stop_server(second)


def test_a_dead_tritonserver_is_reported_with_its_log(tmp_path: Path) -> None:
    server = start_server(tmp_path, "--no-restart")
    os.kill(server.addresses["triton_pid"], signal.SIGKILL)
    output, _ = server.process.communicate(timeout=60)
    assert server.process.returncode == 1
    assert "crashed (SIGKILL) by itself" in output
    assert_nothing_is_left(server.addresses["pid"], server.addresses["triton_pid"])


def run_serve(*arguments: str, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    command = [str(TRIREME), "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **(env or {})})


def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_serve("--http-port", "0", "--metrics-port", "0", "--grpc-port", str(port))
    assert done.returncode == 1
    assert f"{port} is in use" in done.stderr
    assert "make serve ARGS='--grpc-port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("value", ["70000", "-1", "http"])
def test_a_port_that_is_none_is_refused_by_name(value: str) -> None:
    done = run_serve(f"--http-port={value}")
    assert done.returncode == 2
    assert repr(value) in done.stderr


@pytest.mark.parametrize("value", ["0.5", "nan", "-1", "soon"])
def test_a_standstill_that_is_none_is_refused_by_name(value: str) -> None:
    done = run_serve(f"--load-standstill={value}")
    assert done.returncode == 2
    assert f"--load-standstill: {value!r}: allowed are seconds from 1, and inf" in done.stderr


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    done = run_serve("--profile", "gpu")
    assert done.returncode == 2
    assert "'gpu'" in done.stderr
    assert "cpu" in done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the repositories that a test may damage."""
    for name in ("model_repository", "ensembles", "build/checkpoints"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_a_tampered_version_is_not_served(checkout: Path) -> None:
    model = checkout / "model_repository" / "postprocessing" / "1" / "model.py"
    model.write_text(model.read_text() + "\n")
    done = run_serve(*ANY_PORTS, env={"TRIREME_ROOT": str(checkout)})
    assert done.returncode == 1
    assert "postprocessing/1/model.py: sha256" in done.stderr
    assert "git checkout -- model_repository/postprocessing/1" in done.stderr


def test_a_tampered_engine_is_not_served_and_is_made_again_when_removed(checkout: Path) -> None:
    version = checkout / "model_repository" / "tensorrt_llm" / "1"
    shutil.rmtree(version / "engine", ignore_errors=True)
    env = {"TRIREME_ROOT": str(checkout)}
    stop_server(start_server(checkout, env=env))
    weights = version / "engine" / "openvino_model.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    done = run_serve(*ANY_PORTS, env=env)
    assert done.returncode == 1
    assert "openvino_model.bin: sha256" in done.stderr
    assert "rm -r model_repository/tensorrt_llm/1/engine" in done.stderr
    shutil.rmtree(version / "engine")
    server = start_server(checkout, env=env)
    assert "Making the engine" in stop_server(server)


def test_a_model_that_fails_to_load_is_reported_from_the_log(checkout: Path) -> None:
    config = checkout / "model_repository" / "tensorrt_llm" / "config.pbtxt"
    config.write_text(config.read_text().replace('string_value: "openvino"', 'string_value: "warp"'))
    done = run_serve(*ANY_PORTS, env={"TRIREME_ROOT": str(checkout)})
    assert done.returncode == 1
    assert "engine has the value 'warp'" in done.stderr
    assert "the whole log:" in done.stderr


def test_a_path_that_triton_cannot_use_is_refused(checkout: Path) -> None:
    spaced = checkout / "with space"
    spaced.mkdir()
    for name in ("model_repository", "ensembles", "build"):
        (checkout / name).rename(spaced / name)
    done = run_serve(*ANY_PORTS, env={"TRIREME_ROOT": str(spaced)})
    assert done.returncode == 1
    assert "with space' holds a character" in done.stderr


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("rm -r ensembles/*", "ensembles holds no model"),
        ("rm -r model_repository/preprocessing", "step 'preprocessing' is no model"),
        ("rm -r model_repository/preprocessing/1", "holds no numbered version folder"),
        ("rm model_repository/tensorrt_llm/config.pbtxt", "config.pbtxt: missing"),
        ("echo nonsense >> model_repository/tensorrt_llm/config.pbtxt", "tensorrt_llm/config.pbtxt: "),
        ("mkdir -p .trireme; install -m 600 /dev/null .trireme/control.key", "control.key is empty"),
        ("mkdir -p .trireme; echo x > .trireme/control.key; chmod 644 .trireme/control.key", "can be read by others"),
    ],
)
def test_a_broken_checkout_is_refused_with_what_to_type(checkout: Path, damage: str, words: str) -> None:
    subprocess.run(["bash", "-c", damage], cwd=checkout, check=True)
    done = run_serve(*ANY_PORTS, env={"TRIREME_ROOT": str(checkout)})
    assert done.returncode == 1
    assert words in done.stderr
    assert "-> " in done.stderr
    assert "Starting" not in done.stdout


def test_a_folder_without_a_repository_is_named(tmp_path: Path) -> None:
    done = run_serve(env={"TRIREME_ROOT": str(tmp_path)})
    assert done.returncode == 1
    assert f"{tmp_path} holds no model_repository/" in done.stderr


def test_free_ports_are_different_and_free() -> None:
    ports = free_ports(8)
    assert len(set(ports)) == 8
    assert all(is_free(port) for port in ports)


def test_two_servers_of_one_checkout_cannot_have_one_name(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    server = start_server(tmp_path / "one", "--name", "twin")
    try:
        done = subprocess.run(
            [TRIREME, "serve", *ANY_PORTS, "--name", "twin"], capture_output=True, text=True, timeout=60
        )
    finally:
        stop_server(server)
    assert done.returncode == 1
    assert "a server called 'twin' runs in this checkout; give this one another --name" in done.stderr
    shutil.rmtree(ROOT / ".trireme" / "servers" / "twin")
