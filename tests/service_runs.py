"""Real Redis and PostgreSQL for tests."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import wait_for
from trireme_ops.ports import free_ports


def program(name: str, package: str, folders: str = "") -> str:
    """A program of Debian's. Where it is missing the test is skipped, and fails in continuous integration."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin{folders}")
    if found is None:
        message = f"{name} is missing. Type: sudo apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


def listens(port: int) -> bool:
    """Whether anything does."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def redis(folder: Path, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A real redis-server, without files."""
    command = [program("redis-server", "redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with subprocess.Popen([*command, "--dir", str(folder)], stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: listens(port), 10, "redis-server")
            yield process
        finally:
            process.kill()
            process.wait()


@contextmanager
def postgres() -> Iterator[str]:
    """A real PostgreSQL with an empty database; its URL."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    folders = "".join(f"{os.pathsep}{version}" for version in versions)
    initdb, server, is_ready = (program(name, "postgresql", folders) for name in ("initdb", "postgres", "pg_isready"))
    (port,) = free_ports(1)
    # It does not run as root, and not in a folder that is root's alone.
    user = pwd.getpwnam("postgres") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="trireme-postgres-") as name:
        folder = Path(name)
        shutil.chown(folder, user.pw_uid, user.pw_gid)
        data, log = folder / "data", (folder / "log").open("wb")
        make = [initdb, "--pgdata", str(data), "--auth", "trust", "--username", "trireme", "--no-sync"]
        subprocess.run(make, check=True, stdout=log, stderr=log, cwd=folder, **identity)  # type: ignore[call-overload]
        command = [server, "-D", str(data), "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", str(folder)]
        command += ["-c", "fsync=off"]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **identity)  # type: ignore[call-overload]
        try:
            # It listens while it still starts up, and refuses.
            ask = [is_ready, "--quiet", "--host", "127.0.0.1", "--port", str(port)]
            wait_for(lambda: subprocess.run(ask, check=False).returncode == 0, 20, "PostgreSQL")
            yield f"postgresql://trireme@127.0.0.1:{port}/postgres"
        finally:
            # At once, whoever is connected.
            process.send_signal(signal.SIGINT)
            process.wait(timeout=20)
            log.close()
