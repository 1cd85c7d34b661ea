"""Which servers a release goes to: a fleet file, or one server.

max_unavailable = 1                      # how many servers may be without traffic at once; default 1

[haproxy]                                # where a balancer's weights shift the traffic
socket = "/run/haproxy/admin.sock"       # or HOST:PORT
backends = ["grpc", "http"]              # those that hold the servers; default both

[[server]]
name = "gpu-1"
control = "127.0.0.1:8003"               # its supervisor's endpoint
key_file = "keys/gpu-1"                  # default: .trireme/control.key of this checkout
haproxy = "s1"                           # what HAProxy calls it; default: its name
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator

from ..errors import OperatorError
from ..layout import Layout
from .haproxy import HAProxy
from .toml_file import Table, problems, read_toml

#: Of a server, and what HAProxy takes for one.
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class FleetServer(Table):
    """One server. control: HOST:PORT of its supervisor's endpoint; haproxy: what HAProxy calls it."""

    name: _Name
    control: str
    key_file: Path | None = None
    haproxy: _Name | None = None

    @field_validator("control")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or "/" in value or not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise ValueError(f"{value!r} is no HOST:PORT of a supervisor's endpoint, such as 127.0.0.1:8003")
        return value

    @property
    def haproxy_name(self) -> str:
        """What HAProxy calls it."""
        return self.haproxy or self.name

    def key(self) -> str:
        """Its control key. Raises OperatorError for a file that cannot be read, is empty, or is open to others."""
        if self.key_file is None:
            return Layout.find().control_key()
        try:
            if self.key_file.stat().st_mode & 0o077:
                raise OperatorError(f"{self.key_file} can be read by others. Type: chmod 600 {self.key_file}")
            key = self.key_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OperatorError(f"the control key of {self.name} cannot be read: {error}") from None
        if not key:
            raise OperatorError(f"the control key of {self.name} is empty: {self.key_file}")
        return key


class HAProxyTable(Table):
    """The HAProxy in front of the servers: its admin socket, and those backends that hold them."""

    socket: Annotated[str, Field(min_length=1)]
    backends: Annotated[tuple[_Name, ...], Field(min_length=1)] = ("grpc", "http")

    @field_validator("backends")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _distinct(value)

    def client(self) -> HAProxy:
        """A client of it."""
        return HAProxy(self.socket)


class Fleet(Table):
    """The servers that share a release. max_unavailable: how many of them may be without traffic at once."""

    servers: Annotated[tuple[FleetServer, ...], Field(alias="server", min_length=1)]
    max_unavailable: Annotated[int, Field(strict=True, ge=1)] = 1
    haproxy: HAProxyTable | None = None

    @model_validator(mode="after")
    def _servers_agree(self) -> "Fleet":
        for key in ("name", "control", "haproxy_name"):
            try:
                _distinct(tuple(getattr(server, key) for server in self.servers))
            except ValueError as error:
                raise ValueError(f"server: {key.replace('haproxy_name', 'haproxy')}: {error}") from None
        if self.haproxy is None:
            for server in self.servers:
                if server.haproxy is not None:
                    raise ValueError(f"server {server.name}: haproxy has no use without the table haproxy")
        if 1 < len(self.servers) <= self.max_unavailable:
            raise ValueError(
                f"max_unavailable is {self.max_unavailable}; of {len(self.servers)} servers one at least has to serve"
            )
        return self

    @classmethod
    def of_one(cls, control: str, key_file: Path | None = None, name: str = "local") -> "Fleet":
        """A single server. Raises OperatorError for a `control` that is no HOST:PORT."""
        try:
            return cls.model_validate({"server": [{"name": name, "control": control, "key_file": key_file}]})
        except ValidationError as error:
            raise OperatorError(problems(error)) from None

    def server(self, name: str) -> FleetServer:
        """The server of this name. Raises OperatorError naming those that there are."""
        for server in self.servers:
            if server.name == name:
                return server
        raise OperatorError(f"the fleet has no server {name!r}; it has {', '.join(s.name for s in self.servers)}")


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value!r} is given twice")
    return values


def read_fleet(path: Path) -> Fleet:
    """Read a fleet file; relative paths in it start at its folder. Raises OperatorError naming file, key and value."""
    values = read_toml(path)
    _make_absolute(values, path.resolve().parent)
    try:
        return Fleet.model_validate(values)
    except ValidationError as error:
        raise OperatorError(f"{path}: {problems(error)}") from None


def _make_absolute(values: dict[str, Any], folder: Path) -> None:
    servers = values.get("server")
    for server in servers if isinstance(servers, list) else []:
        if isinstance(server, dict) and isinstance(server.get("key_file"), str) and server["key_file"]:
            server["key_file"] = folder / Path(server["key_file"]).expanduser()
    haproxy = values.get("haproxy")
    if isinstance(haproxy, dict) and isinstance(haproxy.get("socket"), str) and "/" in haproxy["socket"]:
        haproxy["socket"] = str(folder / Path(haproxy["socket"]).expanduser())
