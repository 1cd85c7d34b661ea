"""A server to measure, and what its processes use."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trireme_runtime.proc import activity

from .. import ports
from ..embedded import ADDRESS, Ports
from ..layout import Layout
from ..processes import session_members
from ..server import EmbeddedServer


@contextmanager
def serving(layout: Layout) -> Iterator[EmbeddedServer]:
    """A server on `layout`, ready, until the end."""
    server = EmbeddedServer(layout, Ports(*ports.free_ports(4)), layout.root / "triton.log", drain_timeout_s=2)
    server.start()
    try:
        server.wait_until_ready(120, lambda: False)
        yield server
    finally:
        server.stop()


def grpc_address(server: EmbeddedServer) -> str:
    """host:port."""
    return f"{ADDRESS}:{server.ports.grpc}"


def process_names(server: EmbeddedServer) -> dict[int, str]:
    """What each process of the server is: tritonserver, the name of a model, or that of an engine's process."""
    names = {}
    for pid in session_members(server.process.pid):
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        module = next((a.rpartition(".")[2] for a in arguments if a.startswith("trireme_runtime.engines")), "")
        model = next((Path(a).parents[1].name for a in arguments if a.endswith("/model.py")), "")
        names[pid] = module or model or Path(arguments[0]).name
    return names


def cpu_s(server: EmbeddedServer) -> dict[str, float]:
    """Processor time that each part of the server used so far, in s."""
    used: dict[str, float] = {}
    for pid, name in process_names(server).items():
        seen = activity(pid)
        if seen is not None:
            used[name] = used.get(name, 0.0) + seen.used_s
    return used


def resident_bytes(server: EmbeddedServer) -> dict[str, int]:
    """Memory of each part of the server, shared pages divided among those that share them."""
    sizes: dict[str, int] = {}
    for pid, name in process_names(server).items():
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        size = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        sizes[name] = sizes.get(name, 0) + size
    return sizes
