"""Versions that are not what their manifest says, or not signed, are refused before they are loaded."""

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from keys import key_pair
from support import ANY_PORTS, CHECKPOINT, ROOT, TRIREME, Server, start_server, stop_server, wait_for
from trireme_build.engine_folder import ensure_engine
from trireme_build.publish import Candidate, make_writable, publish
from trireme_client import Client
from trireme_ops.bench.root import copy_repositories
from trireme_ops.embedded import CONTROL_HEADER
from trireme_ops.layout import Layout
from trireme_runtime.manifest import write_manifest
from trireme_runtime.versions import KEY_VARIABLE


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A copy of the repositories with its checkpoint."""
    copied = copy_repositories(Layout(ROOT), tmp_path / "root", {})
    shutil.copytree(CHECKPOINT, copied.root / "build" / "checkpoints" / CHECKPOINT.name)
    return copied


def publish_reference(layout: Layout, digest: str, key: Path | None = None) -> Path:
    """The engine of version 1, published as a further version."""
    first = layout.root / "model_repository" / "tensorrt_llm" / "1"
    ensure_engine(first, layout.root)
    engine = layout.root / "engine"
    shutil.copytree(first / "engine", engine, ignore=shutil.ignore_patterns("manifest.json"))
    origin = {"recipe": "test", "engine": "openvino", "build": {"digest": digest}}
    version = publish(Candidate(layout.root, "tensorrt_llm", "openvino", engine, CHECKPOINT, 2048, origin), key).folder
    shutil.rmtree(engine)
    return version


def tamper(version: Path) -> None:
    make_writable(version)
    with (version / "engine" / "openvino_model.bin").open("r+b") as file:
        file.seek(1000)
        file.write(b"\x7f")


def serve(layout: Layout, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """A start that is expected to fail."""
    command = [str(TRIREME), "serve", *ANY_PORTS, *map(str, arguments)]
    env = {"TRIREME_ROOT": str(layout.root), "PATH": "/usr/bin:/bin", "HOME": str(layout.root)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)


@pytest.fixture
def running(layout: Layout, tmp_path: Path) -> Iterator[Server]:
    """A server on the copy."""
    server = start_server(tmp_path, env={"TRIREME_ROOT": str(layout.root)})
    yield server
    stop_server(server)


def load(server: Server, layout: Layout, model: str) -> tuple[int, str]:
    """Ask the server to load a model again: status and body."""
    headers = {CONTROL_HEADER: layout.control_key()}
    url = f"{server.http}/v2/repository/models/{model}/load"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, b"{}", headers), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def answer(server: Server) -> str:
    with Client(server.grpc, timeout_s=30) as client:
        return client.generate(messages=[{"role": "user", "content": "What is 37 + 58?"}], max_tokens=8).text


def test_serve_refuses_a_tampered_version_and_names_the_file(layout: Layout) -> None:
    tamper(publish_reference(layout, "d"))
    done = serve(layout)
    assert done.returncode == 1
    assert "tensorrt_llm/2/engine/openvino_model.bin: sha256 is" in done.stderr
    assert "rm -rf model_repository/tensorrt_llm/2, and publish it again" in done.stderr


def test_an_older_version_that_nobody_serves_keeps_nothing_from_starting(layout: Layout, tmp_path: Path) -> None:
    publish_reference(layout, "a")
    tamper(layout.root / "model_repository" / "tensorrt_llm" / "1")
    server = start_server(tmp_path, env={"TRIREME_ROOT": str(layout.root)})
    try:
        assert answer(server) == "95"
    finally:
        stop_server(server)


def test_a_running_server_refuses_a_tampered_version_and_goes_on_with_the_old_one(
    layout: Layout, running: Server
) -> None:
    good = publish_reference(layout, "good")
    tamper(good)
    status, body = load(running, layout, "tensorrt_llm")
    assert status == 400
    assert "openvino_model.bin: sha256 is" in body
    assert answer(running) == "95"
    wait_for(lambda: running.metric("trireme_generated_tokens_total", version="1"), what="version 1 counting tokens")
    shutil.rmtree(good)
    publish_reference(layout, "better")
    assert load(running, layout, "tensorrt_llm")[0] == 200
    assert answer(running) == "95"
    wait_for(lambda: running.metric("trireme_generated_tokens_total", version="2"), what="version 2 counting tokens")


def test_a_version_for_another_engine_is_refused(layout: Layout, running: Server) -> None:
    version = publish_reference(layout, "d")
    make_writable(version)
    manifest = json.loads((version / "manifest.json").read_text())
    write_manifest(version, {**manifest, "engine": "tensorrt_llm"})
    status, body = load(running, layout, "tensorrt_llm")
    assert status == 400
    assert "version 2 was built for the engine 'tensorrt_llm', and config.pbtxt says 'openvino'" in body
    assert answer(running) == "95"


def test_only_what_is_signed_is_served_where_a_key_is_named(layout: Layout, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path)
    unsigned = serve(layout, "--version-key", public)
    assert unsigned.returncode == 1
    assert "is not signed; signature.json is missing" in unsigned.stderr
    publish_reference(layout, "d", private)
    others = [path for path in layout.served_versions if path.parent.name != "tensorrt_llm"]
    subprocess.run([TRIREME, "sign", "--key", private, *others], check=True, capture_output=True, timeout=60)
    server = start_server(tmp_path, "--version-key", str(public), env={"TRIREME_ROOT": str(layout.root)})
    try:
        assert answer(server) == "95"
        intruder = publish_reference(layout, "intruder")
        status, body = load(server, layout, "tensorrt_llm")
        assert status == 400
        assert f"{intruder}: is not signed" in body
        assert answer(server) == "95"
    finally:
        stop_server(server)


def test_a_key_that_is_not_there_is_named(layout: Layout) -> None:
    done = serve(layout, "--version-key", "/nowhere/key.pub")
    assert done.returncode == 1
    assert "/nowhere/key.pub: no such file; --version-key names it" in done.stderr
    assert KEY_VARIABLE == "TRIREME_VERSION_KEY"
