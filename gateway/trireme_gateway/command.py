"""`trireme gateway`: OpenAI's API in front of Triton servers."""

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from .errors import GatewayError, SettingError
from .settings import Policy, Settings, read_settings

_NEEDED = (
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "redis",
    "cachetools",
    "argon2",
    "sqlalchemy",
    "structlog",
    "phonenumbers",
    "cryptography",
)


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "gateway",
        help="OpenAI's API in front of one or many servers",
        description="Answers OpenAI's API from one or many Triton servers. SIGHUP has --config read again; "
        "SIGTERM ends it when what is under way is answered.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings, see docs/gateway.md; options go before")
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", help="port to listen on (default: 8080; 0: any free one)")
    parser.add_argument(
        "--server",
        action="append",
        metavar="GRPC[,HEALTH]",
        help="host:port of a server's gRPC endpoint, and of its health port (default: 127.0.0.1:8001,127.0.0.1:8003); "
        "may be given several times",
    )
    parser.add_argument(
        "--model",
        action="append",
        metavar="ID[=LLM]",
        help="a model's name, and the ensemble behind it (default: ensemble)",
    )
    parser.add_argument("--policy", choices=[policy.value for policy in Policy], help="how a server is chosen")
    parser.add_argument("--cache", metavar="KIND", help="memory (default), none, or redis://HOST:PORT/DB")
    parser.add_argument(
        "--database", metavar="URL", help="of keys and the ledger: sqlite:////path/file or postgresql://"
    )
    parser.add_argument(
        "--insecure", action="store_true", help="listen on an address that is not this machine's own, without any keys"
    )
    parser.add_argument("--no-access-log", action="store_true", help="write no line for each request")
    parser.add_argument("--check", action="store_true", help="read the settings, say what is wrong with them, and end")
    parser.add_argument("--ready-file", type=Path, help="write address and process id here, as JSON, once ready")
    parser.set_defaults(run=run)


def _over(arguments: argparse.Namespace, config: Settings | None) -> dict[str, Any]:
    """What the options say, as keys of the settings. Raises SettingError."""
    over: dict[str, Any] = {}
    for name in ("host", "policy", "database"):
        if getattr(arguments, name) is not None:
            over[name] = getattr(arguments, name)
    if arguments.port is not None:
        if not arguments.port.isdecimal():
            raise SettingError(f"--port is {arguments.port!r}; a number from 0 to 65535 is needed")
        over["port"] = int(arguments.port)
    if arguments.insecure:
        over["insecure"] = True
    if arguments.no_access_log:
        over["access_log"] = False
    if arguments.server:
        over["server"] = [_server(number, text) for number, text in enumerate(arguments.server, 1)]
    if arguments.model:
        over["model"] = [_model(text) for text in arguments.model]
    if arguments.cache:
        over["cache"] = {**(config.cache.model_dump() if config else {}), **_cache(arguments.cache)}
    return over


def _server(number: int, text: str) -> dict[str, str]:
    grpc, _, health = text.partition(",")
    return {"name": f"server-{number}", "grpc": grpc, **({"health": health} if health else {})}


def _model(text: str) -> dict[str, str]:
    name, _, llm = text.partition("=")
    return {"id": name, "llm": llm or name}


def _cache(text: str) -> dict[str, str]:
    if text.startswith(("redis://", "rediss://", "unix://")):
        return {"kind": "redis", "url": text}
    return {"kind": text}


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal; the exit status."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"trireme gateway: {missing[0]} is not installed; type: make setup", file=sys.stderr)
        return 1
    try:
        return _serve(arguments)
    except GatewayError as error:
        print(f"trireme gateway: {error}", file=sys.stderr)
        return 1


def _serve(arguments: argparse.Namespace) -> int:
    from .accounts.database import Database, default_url
    from .log import set_up
    from .web.server import check_address, listen, serve, write_ready_file

    def read() -> Settings:
        config = read_settings(arguments.config, {}) if arguments.config is not None else None
        return read_settings(arguments.config, _over(arguments, config))

    settings = read()
    if arguments.check:
        return 0
    set_up(settings.access_log)
    database = Database(settings.database or default_url()).open()
    listening = listen(settings)
    try:
        check_address(listening, settings, database)
    except GatewayError:
        listening.close()
        raise
    host, port = listening.getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    scheme = "http" if settings.tls is None else "https"

    def announce() -> None:
        print(f"The gateway answers at {scheme}://{address}/v1", flush=True)
        if arguments.ready_file is not None:
            write_ready_file(arguments.ready_file, scheme, address, os.getpid())

    try:
        serve(settings, database, read, listening, announce)
    finally:
        listening.close()
        if arguments.ready_file is not None:
            arguments.ready_file.unlink(missing_ok=True)
    return 0
