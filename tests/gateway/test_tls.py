"""TLS: certificates from files, read again when they change; who shows none, or never begins, is refused."""

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import openai
import pytest

from certificates import made
from gateway_runs import Gateway, started_gateway
from support import TRIREME, wait_for
from trireme_gateway.errors import SettingError
from trireme_gateway.settings import TlsSettings
from trireme_gateway.web.tls import read_context

HEADER_TIMEOUT_S = 1.5

ROOT_CA, CLIENT_CA, OTHER_CA = (made(name, is_ca=True) for name in ("root", "clients", "other clients"))
SERVER, CLIENT, OTHER_CLIENT = made("server", ROOT_CA), made("client", CLIENT_CA), made("other", OTHER_CA)


def settings(folder: Path, client_ca: Path | None = None) -> str:
    """A gateway's file."""
    ca = f'client_ca = "{client_ca}"\n' if client_ca else ""
    return (
        f'[tls]\ncertificate = "{folder}/server.pem"\nkey = "{folder}/server.key"\n{ca}'
        f"[limits]\nheader_timeout_s = {HEADER_TIMEOUT_S}\n"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the identities of clients lie."""
    folder = tmp_path_factory.mktemp("identities")
    (folder / "root.pem").write_bytes(ROOT_CA.pem)
    CLIENT.write(folder, "client")
    OTHER_CLIENT.write(folder, "other")
    return folder


def served_from(folder: Path) -> Path:
    """A folder with a server's certificate and key, and the CA of its clients."""
    SERVER.write(folder, "server")
    (folder / "clients.pem").write_bytes(CLIENT_CA.pem)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both gateways serve from."""
    return served_from(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def plain(files: Path) -> Iterator[Gateway]:
    """A gateway that asks clients for nothing."""
    with started_gateway(files / "plain", "--server", "127.0.0.1:1", config=settings(files)) as running:
        yield running


@pytest.fixture(scope="module")
def mutual(files: Path) -> Iterator[Gateway]:
    """A gateway that wants certificates of its clients."""
    config = settings(files, files / "clients.pem")
    with started_gateway(files / "mutual", "--server", "127.0.0.1:1", config=config) as running:
        yield running


def context_of(folder: Path, client: str | None = None, newest: int = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A client's."""
    context = ssl.create_default_context(cafile=folder / "root.pem")
    context.maximum_version = ssl.TLSVersion(newest)
    if client:
        context.load_cert_chain(folder / f"{client}.pem", folder / f"{client}.key")
    return context


def connected(
    gateway: Gateway, context: ssl.SSLContext, name: str = "localhost", session: ssl.SSLSession | None = None
) -> ssl.SSLSocket:
    raw = plainly_connected(gateway)
    try:
        return context.wrap_socket(raw, server_hostname=name, session=session)
    except BaseException:
        raw.close()
        raise


def plainly_connected(gateway: Gateway) -> socket.socket:
    host, _, port = gateway.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def asked(connection: ssl.SSLSocket, path: str = "/health/live") -> bytes:
    """The body of an answer on a connection that stays open."""
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    response = http.client.HTTPResponse(connection)
    response.begin()
    assert response.status == 200
    return response.read()


def is_served(gateway: Gateway, context: ssl.SSLContext, name: str = "localhost") -> bool:
    try:
        with connected(gateway, context, name) as connection:
            return asked(connection) == b'{"status":"ok"}'
    except (OSError, http.client.HTTPException):
        return False


def serial_of(gateway: Gateway, context: ssl.SSLContext) -> str:
    with connected(gateway, context) as connection:
        found = connection.getpeercert()
        assert found is not None
        return str(found["serialNumber"])


def metric(gateway: Gateway, context: ssl.SSLContext, name: str) -> float:
    """Of one series; 0 where there is none."""
    with connected(gateway, context) as connection:
        lines = asked(connection, "/metrics").decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"trireme_gateway_{name} "))


def ended_by(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    data = b""
    try:
        while more := connection.recv(1 << 16):
            data += more
    except ConnectionResetError:
        pass
    return data


def wrong_files(folder: Path) -> list[tuple[str, str]]:
    other = made("server", ROOT_CA)
    (folder / "other.key").write_bytes(other.key_pem())
    (folder / "locked.key").write_bytes(other.key_pem(b"secret"))
    (folder / "empty.pem").write_bytes(b"")
    (folder / "half.pem").write_bytes(SERVER.pem[:200])
    return [
        ("certificate missing.pem", "tls.certificate is '{}': it cannot be read: No such file or directory"),
        ("certificate empty.pem", "tls.certificate is '{}': there is no certificate in PEM"),
        ("certificate half.pem", "tls.certificate is '{}': there is no certificate in PEM"),
        ("key missing.key", "tls.key is '{}': it cannot be read: No such file or directory"),
        ("key server.pem", "tls.key is '{}': there is no private key in PEM"),
        ("key locked.key", "tls.key is '{}': it has a password; one without is needed"),
        ("key other.key", "tls.key is '{}': it does not belong to the certificate"),
        ("client_ca missing.pem", "tls.client_ca is '{}': it cannot be read"),
        ("client_ca empty.pem", "tls.client_ca is '{}': there is no certificate in PEM"),
        ("client_ca server.key", "tls.client_ca is '{}': there is no certificate in PEM"),
    ]


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    files = served_from(tmp_path)
    good = TlsSettings(certificate=files / "server.pem", key=files / "server.key", client_ca=files / "clients.pem")
    assert read_context(good)[0].minimum_version == ssl.TLSVersion.TLSv1_2
    for case, message in wrong_files(files):
        key, _, name = case.partition(" ")
        with pytest.raises(SettingError) as caught:
            read_context(good.model_copy(update={key: files / name}))
        assert message.format(files / name) in str(caught.value)


def test_a_gateway_does_not_start_with_a_key_of_another(tmp_path: Path) -> None:
    files = served_from(tmp_path)
    (files / "server.key").write_bytes(made("x").key_pem())
    (files / "gateway.toml").write_text(settings(files))
    command = [str(TRIREME), "gateway", "--port", "0", "--config", str(files / "gateway.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.startswith(f"trireme gateway: tls.key is '{files / 'server.key'}': it does not belong")
    assert done.stderr.count("\n") == 1


def test_openais_client_speaks_https(plain: Gateway, folder: Path) -> None:
    """And what it announces is https."""
    assert plain.url == f"https://{plain.address}/v1"
    assert f"The gateway answers at {plain.url}" in plain.log
    assert is_served(plain, context_of(folder))
    assert is_served(plain, context_of(folder, newest=ssl.TLSVersion.TLSv1_2), "127.0.0.1")
    with openai.DefaultHttpxClient(verify=context_of(folder)) as transport:
        client = openai.OpenAI(base_url=plain.url, api_key="none", http_client=transport, max_retries=0)
        assert [model.id for model in client.models.list()] == ["ensemble"]


def test_the_end_does_not_wait_for_clients_to_agree(tmp_path: Path, folder: Path) -> None:
    """TLS wants both sides to say that it is over; one that keeps its connection for later says nothing."""
    config = settings(served_from(tmp_path))
    with (
        started_gateway(tmp_path / "gateway", "--server", "127.0.0.1:1", config=config) as running,
        connected(running, context_of(folder)) as idle,
    ):
        asked(idle)
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(30)
        assert time.monotonic() - began < 5


def test_a_new_certificate_is_served_and_open_connections_go_on(plain: Gateway, files: Path, folder: Path) -> None:
    trusting = context_of(folder)
    assert serial_of(plain, trusting) == SERVER.serial
    with connected(plain, trusting) as before:
        asked(before)
        # Written in place.
        new = made("server", ROOT_CA, days=20)
        new.write(files, "server")
        wait_for(lambda: serial_of(plain, trusting) == new.serial, 5, "the new certificate")
        expires = new.certificate.not_valid_after_utc.timestamp()
        assert metric(plain, trusting, "certificate_expires_seconds") == expires
        assert asked(before) == b'{"status":"ok"}'
        # As Kubernetes does: a link to a folder is replaced.
        for number in (1, 2):
            (files / f"data{number}").mkdir()
            new = made("server", ROOT_CA)
            new.write(files / f"data{number}", "server")
            (files / "next").symlink_to(f"data{number}")
            (files / "next").rename(files / "data")
            if number == 1:
                for name in ("server.key", "server.pem"):
                    (files / "link").symlink_to(f"data/{name}")
                    (files / "link").rename(files / name)
            wait_for(lambda serial=new.serial: serial_of(plain, trusting) == serial, 5, "the certificate linked to")
        # By a signal, at once.
        new = made("server", ROOT_CA)
        new.write(files / "data2", "server")
        plain.process.send_signal(signal.SIGHUP)
        wait_for(lambda: serial_of(plain, trusting) == new.serial, 5, "the certificate after the signal")
        assert asked(before) == b'{"status":"ok"}'


def test_half_a_change_is_not_taken(plain: Gateway, files: Path, folder: Path) -> None:
    trusting, new = context_of(folder), made("server", ROOT_CA)
    old = serial_of(plain, trusting)
    (files / "server.pem").write_bytes(new.pem)
    wait_for(lambda: "the certificate stays as it was" in plain.log, 5, "the error")
    assert f"tls.key is '{files / 'server.key'}': it does not belong" in plain.log
    assert serial_of(plain, trusting) == old
    (files / "server.pem").write_bytes(new.pem[:300])
    wait_for(lambda: "there is no certificate in PEM" in plain.log, 5, "the error")
    assert serial_of(plain, trusting) == old
    new.write(files, "server")
    wait_for(lambda: serial_of(plain, trusting) == new.serial, 5, "both halves")
    assert plain.log.count("does not belong") == plain.log.count("there is no certificate") == 1
    made("server", ROOT_CA, days=-1).write(files, "server")
    wait_for(lambda: "the certificate has expired" in plain.log, 5, "the warning")
    SERVER.write(files, "server")
    wait_for(lambda: is_served(plain, trusting), 5, "one that is valid")


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_clients_of_a_ca_that_is_taken_away_are_refused(
    mutual: Gateway, files: Path, folder: Path, newest: int
) -> None:
    """With the name of the server and without, and those who come with a session."""
    known, other = context_of(folder, "client", newest), context_of(folder, "other", newest)
    (files / "clients.pem").write_bytes(CLIENT_CA.pem)
    wait_for(lambda: is_served(mutual, known) and not is_served(mutual, other), 5, "the first CA")
    with connected(mutual, known) as before:
        asked(before)
        session = before.session
        with connected(mutual, known, session=session) as again:
            asked(again)
            assert again.session_reused
        for name in ("localhost", "127.0.0.1"):
            assert is_served(mutual, known, name)
            assert not is_served(mutual, other, name)
            assert not is_served(mutual, context_of(folder, newest=newest), name)
        (files / "clients.pem").write_bytes(CLIENT_CA.pem + OTHER_CA.pem)
        wait_for(lambda: is_served(mutual, other), 5, "a second CA")
        assert is_served(mutual, known)
        (files / "clients.pem").write_bytes(OTHER_CA.pem)
        wait_for(lambda: not is_served(mutual, known), 5, "the end of the first CA")
        for name in ("localhost", "127.0.0.1"):
            assert is_served(mutual, other, name)
            assert not is_served(mutual, known, name)
        with pytest.raises((OSError, http.client.HTTPException)), connected(mutual, known, session=session) as again:
            asked(again)
        assert asked(before) == b'{"status":"ok"}'


def test_a_client_without_a_certificate_is_told_so(mutual: Gateway, folder: Path) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"), connected(mutual, context_of(folder)) as late:
        asked(late)


def test_what_is_no_handshake_is_refused(plain: Gateway, folder: Path) -> None:
    trusting = context_of(folder)
    with closing(plainly_connected(plain)) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = ended_by(connection)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"] == "this port speaks HTTPS"
    for garbage in (os.urandom(5000), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600), b"\x16\x03"):
        with closing(plainly_connected(plain)) as connection:
            connection.sendall(garbage)
            ended_by(connection)
    with closing(plainly_connected(plain)):
        pass
    assert is_served(plain, trusting)
    assert metric(plain, trusting, 'connections_cut_total{reason="no_handshake"}') >= 3


def test_handshakes_that_never_begin_are_cut_and_starve_nobody(plain: Gateway, folder: Path) -> None:
    """More of them than may be under way: the oldest give way."""
    trusting = context_of(folder)
    with ExitStack() as stack:
        began = time.monotonic()
        stalled = [stack.enter_context(closing(plainly_connected(plain))) for _ in range(1100)]
        assert is_served(plain, trusting)
        assert ended_by(stalled[0]) == b""
        assert ended_by(stalled[-1]) == b""
        assert time.monotonic() - began < HEADER_TIMEOUT_S + 3
    wait_for(
        lambda: metric(plain, trusting, 'connections_cut_total{reason="late_handshake"}') >= 1100, 5, "all of the cuts"
    )
    # A request's headers are due behind a handshake, too.
    with connected(plain, trusting) as connection:
        assert ended_by(connection).startswith(b"HTTP/1.1 408 ")
