"""The process that serves: a socket, uvicorn around the application, and signals."""

import asyncio
import contextlib
import gc
import ipaddress
import json
import os
import signal
import socket
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import uvicorn

from ..accounts import audit
from ..accounts.database import Database
from ..accounts.keys import all_keys
from ..app import Gateway
from ..errors import GatewayError, ListenError, SettingError
from ..log import log, set_level
from ..metrics import Metrics
from ..service import Service
from ..settings import Settings
from .guard import guarded, sweep
from .handshake import Handshakes
from .tls import Certificates

_BACKLOG = 2048

#: How long a connection may be idle between two requests; longer than clients keep theirs, so that they end it.
_KEEP_ALIVE_S = 75


def listen(settings: Settings) -> socket.socket:
    """A socket at the settings' address. Raises ListenError naming it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise ListenError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}. Choose another --port"
        ) from None
    listening.set_inheritable(True)
    return listening


def check_address(listening: socket.socket, settings: Settings, database: Database) -> None:
    """Raise SettingError where anybody might ask without a key, unless that is meant to be so; then it is recorded."""
    host = listening.getsockname()[0]
    if ipaddress.ip_address(host.partition("%")[0]).is_loopback or settings.keys.required:
        return
    with database.read() as connection:
        has_keys = bool(all_keys(connection))
    if settings.keys.required is None and has_keys:
        return
    if not settings.insecure:
        raise SettingError(
            f"host is {settings.host}, which others can reach, and no key is needed. Make one (trireme keys create "
            "--tenant NAME), or say --insecure"
        )
    log.warning("anybody who reaches this address is answered, without a key", host=host)
    with database.write() as connection:
        audit.note(connection, "gateway.insecure", {"host": host, "pid": os.getpid()})


class _Server(uvicorn.Server):
    """uvicorn's, that says when it serves, and when it is to end."""

    def __init__(self, config: uvicorn.Config, began: Callable[[], None], ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._began = began
        self._ending = ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        self._began()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take the signals that end it; uvicorn would send them to the process again in the end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def handle_exit(self, sig: int, frame: object) -> None:
        """A signal: drain, or with the second one end at once."""
        self._ending()
        super().handle_exit(sig, frame)  # type: ignore[arg-type]


def serve(
    settings: Settings,
    database: Database,
    reread: Callable[[], Settings],
    listening: socket.socket,
    announce: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT. SIGHUP has the settings read again.

    Raises SettingError for the files of TLS, or DatabaseError.
    """
    import uvloop

    metrics = Metrics()
    http: Any = guarded(settings.limits, metrics)
    certificates = Certificates(settings.tls, metrics) if settings.tls is not None else None
    handshakes = None
    if certificates is not None:
        http = handshakes = Handshakes(lambda: certificates.context, settings.limits, metrics, http)

    async def main() -> None:
        service = Service(settings, metrics, database)
        gateway = Gateway(service, metrics, lambda: len(server.server_state.connections))

        def ending() -> None:
            gateway.draining = True

        config = uvicorn.Config(
            gateway.asgi,
            interface="asgi3",
            http=http,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        )
        server = _Server(config, announce, ending)
        await service.start()
        watching = [asyncio.create_task(sweep(server.server_state.connections))]
        if certificates is not None:
            watching.append(asyncio.create_task(certificates.watch()))
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGHUP, lambda: _reload(service, certificates, listening, database, reread, reloading)
        )
        # What is there now lives as long as the process.
        gc.collect()
        gc.freeze()
        try:
            await server.serve([listening])
        finally:
            for task in watching:
                task.cancel()
            if handshakes is not None:
                handshakes.cut_all()
            await service.stop()
            if service.traces is not None:
                service.traces.close()

    reloading: set[asyncio.Task[None]] = set()
    uvloop.run(main())


def _reload(
    service: Service,
    certificates: Certificates | None,
    listening: socket.socket,
    database: Database,
    reread: Callable[[], Settings],
    reloading: set["asyncio.Task[None]"],
) -> None:
    async def apply() -> None:
        try:
            settings = reread()
            await asyncio.to_thread(check_address, listening, settings, database)
            async with service.applying:
                await service.apply(settings)
        except GatewayError as error:
            log.error("the settings stay as they were", error=str(error))
            return
        if certificates is not None and settings.tls is not None:
            certificates.take(settings.tls)
        try:
            await asyncio.to_thread(service.accounting.note, "gateway.reload", {"pid": os.getpid()})
        except GatewayError as error:
            log.error("an act was not recorded", action="gateway.reload", error=str(error))
        set_level(settings.access_log)
        log.info("the settings were read again")

    task = asyncio.get_running_loop().create_task(apply())
    reloading.add(task)
    task.add_done_callback(reloading.discard)


def write_ready_file(path: Path, scheme: str, address: str, pid: int) -> None:
    """Say in a file, whole at once, that the gateway serves. scheme: http or https, which is the address' key."""
    staging = path.with_name(f"{path.name}.{pid}")
    staging.write_text(json.dumps({"pid": pid, scheme: address, "url": f"{scheme}://{address}/v1"}), encoding="utf-8")
    staging.rename(path)
