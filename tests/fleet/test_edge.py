"""The edge in front of real servers: TLS, certificates that change, and limits by address."""

import asyncio
import http.client
import json
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from certificates import made
from fleet_runs import ANY, RunningFleet, run_fleet, started_fleet
from haproxy_runs import RunningHAProxy, proxied, started
from release_runs import null_checkout
from service_runs import program
from slow_bodies import slow_bodies
from support import Server, start_null_server, stop_server, wait_for
from trireme_client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    TriremeError,
    Unavailable,
)
from trireme_ops.layout import Layout
from trireme_ops.releases.haproxy import ServerState

CA = made("edge", is_ca=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start_null_server(tmp_path_factory.mktemp("server"), 100, {"max_queue_delay_ms": "60000"})
    yield running
    stop_server(running)


def edge(folder: Path, server: Server, **options: int) -> "Iterator[RunningHAProxy]":
    with started(folder, [proxied("a", server)], **options) as running:
        wait_for(lambda: running.api.weights("grpc")["a"].is_up, 20, "the server")
        yield running


@pytest.fixture
def rationed(server: Server, tmp_path: Path) -> Iterator[RunningHAProxy]:
    yield from edge(tmp_path, server, client_requests_per_10s=20)


@pytest.fixture
def narrow(server: Server, tmp_path: Path) -> Iterator[RunningHAProxy]:
    yield from edge(tmp_path, server, client_streams=4)


def test_too_many_requests_are_resource_exhausted(rationed: RunningHAProxy) -> None:
    with Client(rationed.grpc, timeout_s=30) as client:
        for _ in range(20):
            client.generate(prompt="x", max_tokens=1)
        with pytest.raises(ResourceExhausted, match="more than 20 requests in 10 s from your address"):
            client.generate(prompt="x", max_tokens=1)
        with pytest.raises(ResourceExhausted), client.stream(prompt="x", max_tokens=1) as stream:
            list(stream)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{rationed.http}/v2/health/live", timeout=10)
    with caught.value as refused:
        assert refused.code == 429
        assert refused.headers["retry-after"] == "10"
        assert json.load(refused) == {"error": "more than 20 requests in 10 s from your address"}


def test_too_many_streams_at_once_are_resource_exhausted_and_the_others_go_on(narrow: RunningHAProxy) -> None:
    async def asked() -> list[int | TriremeError]:
        async with AsyncClient(narrow.grpc, timeout_s=30) as client:

            async def one() -> int:
                async with client.stream(prompt="x", max_tokens=100, end_id=-1) as stream:
                    async for _ in stream:
                        pass
                    return stream.completion.num_output_tokens

            found = await asyncio.gather(*(one() for _ in range(7)), return_exceptions=True)
            return [one for one in found if isinstance(one, int | TriremeError)]

    answers = asyncio.run(asked())
    refused = [answer for answer in answers if isinstance(answer, TriremeError)]
    assert [answer for answer in answers if isinstance(answer, int)] == [100] * 4
    assert len(refused) == 3
    assert all(isinstance(one, ResourceExhausted) and "more than 4 requests at once" in one.message for one in refused)
    # They have ended: there is room again.
    assert [answer for answer in asyncio.run(asked()) if isinstance(answer, int)] == [100] * 4


def test_a_refusal_has_the_form_that_every_grpc_client_knows(rationed: RunningHAProxy) -> None:
    with grpc.insecure_channel(rationed.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        for _ in range(20):
            call(b"", timeout=10)
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_request_whose_rest_does_not_come_is_refused(server: Server, tmp_path: Path) -> None:
    def ask_grpc(address: str) -> None:
        with Client(address, timeout_s=30) as client, pytest.raises(DeadlineExceeded, match="did not come within 10 s"):
            client.generate(prompt="x", max_tokens=1)

    def ask_http(address: str) -> tuple[int, bytes]:
        host, _, port = address.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), 30) as connection:
            connection.sendall(
                b"POST /v2/models/ensemble_unary/generate HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{"
            )
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status, response.read()

    with (
        ThreadPoolExecutor() as pool,
        started(tmp_path, [proxied("a", server)]) as running,
        slow_bodies(running.grpc, 60) as late,
    ):
        wait_for(lambda: running.api.weights("grpc")["a"].is_up, 20, "the server")
        over_grpc, over_http = pool.submit(ask_grpc, late), pool.submit(ask_http, running.http)
        # Nobody waits for them.
        with Client(running.grpc, timeout_s=5) as client:
            assert client.generate(prompt="x", max_tokens=1).num_output_tokens == 1
        over_grpc.result()
        status, text = over_http.result()
        assert (status, json.loads(text)) == (408, {"error": "the request did not come within 10 s"})


def test_http_clients_are_told_in_json_where_no_server_is(server: Server, tmp_path: Path) -> None:
    with started(tmp_path, [proxied("a", server)]) as running:
        running.api.set_state("http", "a", ServerState.MAINT)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{running.http}/v2/health/live", timeout=10)
        with caught.value as refused:
            assert (refused.code, json.load(refused)) == (503, {"error": "no server answers"})


def test_a_session_that_no_header_can_hold_is_refused(server: Server) -> None:
    with Client(server.grpc, timeout_s=30) as client:
        for session in ("", "a\nb", "é", "x" * 201):
            with pytest.raises(InvalidArgument, match="session is"):
                client.generate(prompt="x", max_tokens=1, session=session)


def write_pem(path: Path, days: int = 10) -> str:
    """A new certificate and its key, in one file; its serial number."""
    identity = made("localhost", CA, days=days)
    path.write_bytes(identity.pem + identity.key_pem())
    return identity.serial


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningFleet, Path]]:
    folder = tmp_path_factory.mktemp("tls")
    layout = null_checkout(folder / "root")
    pem = folder / "edge.pem"
    write_pem(pem)
    (folder / "ca.pem").write_bytes(CA.pem)
    program("prometheus-blackbox-exporter", "prometheus-blackbox-exporter")
    (folder / "own.toml").write_text("drain_s = 5\n")
    options = ["--replicas", "1", "--release", "r1", "--tls-certificate", str(pem)]
    with started_fleet(layout, *options, "--gateway-config", str(folder / "own.toml")) as fleet:
        yield fleet, folder


def serial_of(address: str, ca: Path) -> str:
    """Of the certificate that a new connection is shown."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(ca))
    with (
        socket.create_connection((host, int(port)), 10) as plain,
        context.wrap_socket(plain, server_hostname=host) as tls,
    ):
        shown = tls.getpeercert()
        assert shown is not None
        return str(shown["serialNumber"])


def test_every_way_in_has_tls(secure: tuple[RunningFleet, Path]) -> None:
    fleet, folder = secure
    edge, ca = fleet.plan.edge, folder / "ca.pem"
    with Client(edge.grpc, timeout_s=30, credentials=grpc.ssl_channel_credentials(ca.read_bytes())) as client:
        assert client.generate(prompt="x", max_tokens=3).num_output_tokens == 3
    context = ssl.create_default_context(cafile=str(ca))
    for url in (f"https://{edge.http}/v2/health/ready", f"https://{edge.openai}/v1/models"):
        with urllib.request.urlopen(url, timeout=10, context=context) as answer:
            assert answer.status == 200
    with Client(edge.grpc, timeout_s=5) as plain, pytest.raises(TriremeError):
        plain.generate(prompt="x", max_tokens=1)
    # What a gateway measures is not for its clients.
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"https://{edge.openai}/metrics", timeout=10, context=context)
    caught.value.close()
    assert caught.value.code == 404


def test_a_new_certificate_is_served_and_no_stream_is_cut(secure: tuple[RunningFleet, Path]) -> None:
    fleet, folder = secure
    edge, ca = fleet.plan.edge, folder / "ca.pem"
    credentials = grpc.ssl_channel_credentials(ca.read_bytes())
    with (
        Client(edge.grpc, timeout_s=60, credentials=credentials) as client,
        client.stream(prompt="x", max_tokens=600) as stream,
    ):
        next(stream)
        serial = write_pem(folder / "edge.pem")
        fleet.run("reload")
        wait_for(lambda: serial_of(edge.grpc, ca) == serial, 20, "the new certificate")
        assert stream.completion.finish_reason is None
        list(stream)
        assert stream.completion.num_output_tokens == 600
    assert "certificate  until" in fleet.run("status").stdout


def test_prometheus_knows_when_the_certificate_ends(secure: tuple[RunningFleet, Path]) -> None:
    fleet, _folder = secure
    query = "probe_ssl_earliest_cert_expiry - time()"

    def days() -> float:
        url = f"http://{fleet.plan.prometheus}/api/v1/query?query={urllib.parse.quote(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found = json.load(answer)["data"]["result"]
        return float(found[0]["value"][1]) / 86400 if found else 0.0

    assert 9 < wait_for(days, 30, "the certificate's end") < 10


def test_a_certificate_that_cannot_be_served_changes_nothing(secure: tuple[RunningFleet, Path]) -> None:
    fleet, folder = secure
    pem, ca = folder / "edge.pem", folder / "ca.pem"
    before, serial = pem.read_bytes(), serial_of(fleet.plan.edge.grpc, ca)
    try:
        for content, wording in (
            (b"none", "holds no certificate"),
            (made("localhost", CA).pem, "holds no key"),
            (before.partition(b"-----BEGIN PRIVATE")[0] + made("localhost", CA).key_pem(), "the key is another one's"),
        ):
            pem.write_bytes(content)
            done = fleet.run("reload", check=False)
            assert done.returncode == 1 and wording in done.stderr, done
    finally:
        pem.write_bytes(before)
    assert serial_of(fleet.plan.edge.grpc, ca) == serial


def test_settings_of_the_gateway_that_are_wrong_are_refused_and_those_before_stay(
    secure: tuple[RunningFleet, Path],
) -> None:
    fleet, folder = secure
    own, written = folder / "own.toml", fleet.plan.folder / "gateway.toml"
    before = written.read_text()
    for content, wording in (
        ("[bogus]\nx = 1\n", f"{own}: the key bogus is unknown"),
        ("x = \n", str(own)),
        ('[[server]]\nname = "a"\n', "the fleet names its servers itself; leave it out"),
        ("[tls]\n", "the edge has TLS"),
    ):
        own.write_text(content)
        done = fleet.run("reload", check=False)
        assert done.returncode == 1 and wording in done.stderr, done
        assert written.read_text() == before
    own.write_text("drain_s = 5\naccess_log = false\n")
    fleet.run("reload")
    assert "access_log = false" in written.read_text()


def test_the_only_server_is_drained_by_force_and_clients_are_told(secure: tuple[RunningFleet, Path]) -> None:
    fleet, folder = secure
    done = fleet.run("drain", "server-1", check=False)
    assert done.returncode == 1 and "server-1 is the only server that takes requests" in done.stderr
    fleet.run("drain", "--force", "server-1")
    try:
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))

        def error() -> str:
            url = f"https://{fleet.plan.edge.openai}/v1/models"
            try:
                with urllib.request.urlopen(url, timeout=10, context=context):
                    return ""
            except urllib.error.HTTPError as refused:
                with refused:
                    assert refused.code == 503
                    return str(json.load(refused)["error"]["message"])

        # The gateway says that it has no server, or HAProxy that it has no gateway.
        wait_for(error, 20, "the refusal")
        credentials = grpc.ssl_channel_credentials(CA.pem)
        client = Client(fleet.plan.edge.grpc, timeout_s=10, credentials=credentials)
        with client, pytest.raises(Unavailable):
            client.generate(prompt="x", max_tokens=1)
    finally:
        # It takes nothing: it may be restarted.
        fleet.run("restart", "server-1")
    assert fleet.states() == {"server-1": "ready"}


@pytest.mark.parametrize(
    ("options", "wording"),
    [
        (("--tls-certificate", "/tmp"), "/tmp: no file; --tls-certificate names it"),
        (("--address", "203.0.113.5", "--insecure"), "203.0.113.5 is no address of this machine"),
        (("--tls-certificate", "none.pem"), "none.pem: no such file; --tls-certificate names it"),
        (("--address", "0.0.0.0"), "lets other machines in, and no key is asked for"),
        (("--replicas", "0"), "1 to 64 servers can be"),
        (("--gateways", "0", "--first-port", "65530"), "65535 is the highest there is"),
        (("--release", "none"), "none"),
    ],
)
def test_what_cannot_be_started_is_said_before_anything_is(
    tmp_path_factory: pytest.TempPathFactory, small: Layout, options: tuple[str, ...], wording: str
) -> None:
    done = run_fleet(small, "up", *ANY, *options, check=False)
    assert done.returncode in (1, 2)
    assert wording in done.stderr
    assert not (small.state / "fleet" / "supervisord.pid").exists()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return null_checkout(tmp_path_factory.mktemp("small") / "root")


def test_a_port_that_is_taken_is_named(small: Layout, server: Server) -> None:
    port = server.grpc.rpartition(":")[2]
    done = run_fleet(small, "up", *ANY, "--grpc-port", port, check=False)
    assert done.returncode == 1
    assert f"port {port} is in use; another one: --grpc-port PORT" in done.stderr
