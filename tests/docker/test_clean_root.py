"""The CPU server's image and the gateway's: built from nothing by the steps of their Dockerfiles, run as compose.yaml
says, and asked a question. tests/clean_roots.py says what differs from docker.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from clean_roots import Builder, Container, Image, Service, needs_root, remove, running
from dockerfiles import parse
from haproxy_runs import haproxy_binary
from support import ROOT, TRIREME, long_form, wait_for

#: Debian, about 100 packages and three chroots: 2 minutes where nothing else runs.
pytestmark = pytest.mark.timeout(1500)

_COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
_UNITS = {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "b": 1}


@dataclass
class Site:
    """Where images are built, and what they were found to take."""

    folder: Path
    builder: Builder
    images: dict[str, Image] = field(default_factory=dict)

    def image(self, name: str, target: str) -> Image:
        """The image of a stage, which is built once."""
        if target not in self.images:
            text = (ROOT / "docker" / f"{name}.Dockerfile").read_text(encoding="utf-8")
            begun = time.monotonic()
            self.images[target] = self.builder.build(parse(text), target)
            size = subprocess.run(["du", "-sm", self.images[target].root], capture_output=True, text=True, check=True)
            print(f"{target}: {size.stdout.split()[0]} MB, built in {time.monotonic() - begun:.0f} s")
        return self.images[target]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    needs_root()
    # Not pytest's own folder: that keeps what the last three runs left.
    folder = Path(tempfile.mkdtemp(prefix="trireme-clean-root-"))
    try:
        yield Site(folder, Builder(folder, ROOT))
    finally:
        remove(folder)


def as_compose_says(name: str, folder: Path, env: Mapping[str, str], files: Mapping[Path, Path]) -> Service:
    """How compose.yaml runs a service; its named volumes are folders under `folder`."""
    service: dict[str, Any] = _COMPOSE[name]
    shm = re.fullmatch(r"(\d+)([kmg]?b)", service.get("shm_size", "64mb"))
    assert shm is not None
    tmpfs = dict(entry.partition(":")[::2] for entry in service.get("tmpfs", []))
    volumes, mounted = {}, dict(files)
    for volume in service["volumes"]:
        source, target, *_ = volume.split(":")
        if source.startswith("."):
            mounted[ROOT / source] = Path(target)
        else:
            volumes[target] = folder / source
    return Service(
        read_only=service["read_only"],
        shm_bytes=int(shm[1]) * _UNITS[shm[2]],
        volumes=volumes,
        files=mounted,
        # What docker adds unless it is told otherwise.
        tmpfs={
            path: f"nosuid,nodev{'' if 'exec' in options.split(',') else ',noexec'},{options}"
            for path, options in tmpfs.items()
        },
        env=env,
    )


def log_of(container: Container) -> str:
    """What it printed, and Triton's log."""
    triton = container.image.at(".trireme/logs/triton-8000.log")
    return container.log.read_text()[-3000:] + container.execute(["tail", "-n", "40", f"/{triton}"]).stdout


@pytest.fixture(scope="module")
def hosts(site: Site) -> dict[Path, Path]:
    """The names of compose.yaml's network, all of which are this one here."""
    path = site.folder / "hosts"
    # server-2 is the same server again: it listens on every address of its own.
    path.write_text("127.0.0.1 localhost server-1 gateway\n127.0.0.2 server-2\n", encoding="utf-8")
    return {path: Path("/etc/hosts")}


@pytest.fixture(scope="module")
def server(site: Site, hosts: dict[Path, Path]) -> Iterator[Container]:
    service = as_compose_says("server-1", site.folder, {}, hosts)
    with running(site.image("server", "cpu"), service, site.folder / "server.log") as container:
        wait_for(
            lambda: container.is_healthy() or container.process.poll() is not None, 180, "the server's health check"
        )
        assert container.process.poll() is None, container.log.read_text()[-3000:]
        yield container


def test_the_server_answers_a_question(server: Container) -> None:
    asked = server.reach([str(TRIREME), "ask", "What is 37 + 58?"])
    assert (asked.stdout.strip(), asked.returncode) == ("95", 0), f"{asked.stderr}{log_of(server)}"


def test_the_engine_is_the_one_that_the_image_brought(server: Container) -> None:
    assert "Making the engine" not in server.log.read_text()


def test_the_server_is_not_root_cannot_become_it_and_writes_to_its_volumes_only(server: Container) -> None:
    status = server.execute(["cat", "/proc/self/status"]).stdout
    assert re.search(r"^Uid:\t10001\t10001\t10001\t10001$", status, re.MULTILINE)
    assert re.search(r"^CapBnd:\t0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    assert "Read-only file system" in server.execute(["touch", "/opt/trireme/x"]).stderr
    assert server.execute(["touch", "/opt/trireme/.trireme/x", "/tmp/x"]).returncode == 0


def test_its_key_is_for_itself_alone(server: Container) -> None:
    key = server.execute(["stat", "-c", "%a %u", "/opt/trireme/.trireme/control.key"]).stdout
    assert key.split() == ["600", "10001"]


def test_shared_memory_is_enough(server: Container) -> None:
    """docs/containers.md has the figure; there is four times as much."""
    used, size = server.execute(["df", "-B1", "--output=used,size", "/dev/shm"]).stdout.split()[2:]
    print(f"/dev/shm: {int(used) / (1 << 20):.1f} MiB")
    assert 4 * int(used) < int(size)


@pytest.fixture(scope="module")
def gateway(site: Site, server: Container, hosts: dict[Path, Path]) -> Iterator[Container]:
    env = {"TRIREME_DATABASE": "sqlite:////var/lib/trireme/gateway.db"}
    service = as_compose_says("gateway", site.folder, env, hosts)
    image = site.image("gateway", "gateway")
    with running(image, service, site.folder / "gateway.log", beside=server) as container:
        wait_for(
            lambda: container.is_healthy() or container.process.poll() is not None, 60, "the gateway's health check"
        )
        assert container.process.poll() is None, container.log.read_text()[-3000:]
        yield container


@pytest.fixture(scope="module")
def key(gateway: Container) -> str:
    """A key of the gateway's."""
    made = gateway.execute(["trireme", "keys", "create", "--tenant", "acme"])
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def ask_openai(container: Container, url: str, *options: str) -> str | None:
    """What is answered to a sum; None where that is no answer, such as by a gateway that does not know the key yet."""
    body = json.dumps({"model": "ensemble", "messages": [{"role": "user", "content": "What is 37 + 58?"}]})
    answer = container.reach(["curl", "-s", f"{url}/v1/chat/completions", *options, "-d", body]).stdout
    return str(json.loads(answer)["choices"][0]["message"]["content"]) if '"choices"' in answer else None


def test_the_gateway_answers_a_question_to_who_has_a_key(gateway: Container, key: str) -> None:
    """With compose's configuration, but without Redis."""
    url = "http://127.0.0.1:8080"
    assert ask_openai(gateway, url) is None
    assert wait_for(lambda: ask_openai(gateway, url, "-H", f"Authorization: Bearer {key}"), 20, "an answer") == "95"


@pytest.fixture(scope="module")
def edge(site: Site, gateway: Container, hosts: dict[Path, Path]) -> Iterator[Path]:
    """This machine's HAProxy with compose's configuration, in the containers' network; the certificate it shows."""
    binary = haproxy_binary()
    certificate, secret = site.folder / "edge.crt", site.folder / "edge.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(secret), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    (hosts_file,) = hosts
    script = [
        f"mount --bind {hosts_file} /etc/hosts",
        "mount -t tmpfs tmpfs /run",
        "mkdir /run/haproxy /run/secrets",
        f"cat {certificate} {secret} > /run/secrets/edge.pem",
        f"exec {binary} -db -f {ROOT / 'docker' / 'compose' / 'haproxy.cfg'}",
    ]
    command = [
        "nsenter",
        "--target",
        str(gateway.pid),
        "--net",
        "unshare",
        "--mount",
        "bash",
        "-euc",
        "\n".join(script),
    ]
    with (site.folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield certificate
    finally:
        process.terminate()
        process.wait(timeout=10)


def test_the_way_in_leads_to_the_gateway_and_to_the_servers(gateway: Container, edge: Path, key: str) -> None:
    options = ("--cacert", str(edge), "-H", f"Authorization: Bearer {key}")
    assert wait_for(lambda: ask_openai(gateway, "https://localhost:8443", *options), 20, "an answer") == "95"
    ask = [str(TRIREME), "ask", "--url", "localhost:9001", "--ca", str(edge), "Repeat: hello"]
    assert gateway.reach(ask).stdout.strip() == "hello"
    metrics = gateway.reach(["curl", "-s", "http://127.0.0.1:8405/metrics"]).stdout
    assert 'haproxy_server_status{proxy="grpc",server="server-2",state="UP"} 1' in metrics


def test_the_gateway_ends_when_it_is_told_to(gateway: Container) -> None:
    assert gateway.stop(40) == (0, []), gateway.log.read_text()[-3000:]


@long_form
def test_the_load_generator_leaves_a_report(site: Site, server: Container, hosts: dict[Path, Path]) -> None:
    service = as_compose_says("load", site.folder, {}, hosts)
    arguments = [*_COMPOSE["load"]["command"], "--duration", "5", "--warm-up", "1"]
    with running(site.image("loadtest", "loadtest"), service, site.folder / "load.log", arguments, server) as container:
        assert container.process.wait(timeout=120) == 0, container.log.read_text()[-3000:]
    assert (site.folder / "load-results" / "last" / "report.html").is_file()


def test_the_server_drains_and_leaves_nothing(server: Container) -> None:
    begun = time.monotonic()
    assert server.stop(90) == (0, []), server.log.read_text()[-3000:]
    assert time.monotonic() - begun < 60
    assert "Stopped." in server.log.read_text()
    assert sys.executable not in server.log.read_text()
