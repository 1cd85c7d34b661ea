"""The process that serves: a socket, uvicorn around the application, and signals."""

import asyncio
import contextlib
import gc
import json
import signal
import socket
from collections.abc import Callable, Generator
from pathlib import Path

import uvicorn

from ..app import Gateway
from ..errors import GatewayError, ListenError
from ..log import log, set_level
from ..metrics import Metrics
from ..service import Service
from ..settings import Settings
from .guard import guarded, sweep

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
    settings: Settings, reread: Callable[[], Settings], listening: socket.socket, announce: Callable[[], None]
) -> None:
    """Serve until SIGTERM or SIGINT. SIGHUP has the settings read again."""
    import uvloop

    metrics = Metrics()

    async def main() -> None:
        service = Service(settings, metrics)
        gateway = Gateway(service, metrics, lambda: len(server.server_state.connections))

        def ending() -> None:
            gateway.draining = True

        config = uvicorn.Config(
            gateway.app,
            http=guarded(settings.limits, metrics),
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
        sweeping = asyncio.create_task(sweep(server.server_state.connections))
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: _reload(service, reread, reloading))
        # What is there now lives as long as the process.
        gc.collect()
        gc.freeze()
        try:
            await server.serve([listening])
        finally:
            sweeping.cancel()
            await service.stop()
            if service.traces is not None:
                service.traces.close()

    reloading: set[asyncio.Task[None]] = set()
    uvloop.run(main())


def _reload(service: Service, reread: Callable[[], Settings], reloading: set["asyncio.Task[None]"]) -> None:
    async def apply() -> None:
        try:
            settings = reread()
            async with service.applying:
                await service.apply(settings)
        except GatewayError as error:
            log.error("the settings stay as they were: %s", error)
            return
        set_level(settings.access_log)
        log.info("the settings were read again")

    task = asyncio.get_running_loop().create_task(apply())
    reloading.add(task)
    task.add_done_callback(reloading.discard)


def write_ready_file(path: Path, address: str, pid: int) -> None:
    """Say in a file, whole at once, that the gateway serves."""
    staging = path.with_name(f"{path.name}.{pid}")
    staging.write_text(json.dumps({"pid": pid, "http": address}), encoding="utf-8")
    staging.rename(path)
