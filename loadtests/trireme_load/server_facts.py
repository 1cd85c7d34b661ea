"""What is known of the server and of the machine on which a run took place."""

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from trireme_client import TriremeError

from .errors import UnreachableError
from .settings import Settings
from .targets.http_connection import HttpConnection, decoded

_TIMEOUT_S = 5.0


def server_facts(settings: Settings) -> dict[str, Any]:
    """Name, version and models of a server. Raises UnreachableError naming the address and what it said."""
    try:
        return _FACTS[settings.target](settings)
    except (TriremeError, KeyError, TypeError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise UnreachableError(f"no server of the target {settings.target} at {settings.address}: {reason}") from None


def _of_grpc(settings: Settings) -> dict[str, Any]:
    with grpc.insecure_channel(settings.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            server = stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=_TIMEOUT_S)
            model = stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=settings.model), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            raise UnreachableError(
                f"{settings.address} cannot be measured over gRPC: {error.details() or error.code()}"
            ) from None
    return {"name": server.name, "version": server.version, "versions": sorted(model.versions)}


def _of_http(settings: Settings) -> dict[str, Any]:
    server = _get(settings, "GET", "/v2")
    model = _get(settings, "GET", f"/v2/models/{settings.model}")
    if "error" in model:
        raise UnreachableError(f"{settings.address} cannot be measured over HTTP: {model['error']}")
    return {"name": server["name"], "version": server["version"], "versions": sorted(model.get("versions", ()))}


def _of_openai(settings: Settings) -> dict[str, Any]:
    models = sorted(one["id"] for one in _get(settings, "GET", "/v1/models")["data"])
    if settings.model not in models:
        raise UnreachableError(
            f"{settings.address} has no model {settings.model!r}; it has {', '.join(models) or 'none'}"
        )
    return {"name": "OpenAI API", "models": models}


def _get(settings: Settings, method: str, path: str) -> Any:
    connection = HttpConnection(settings.address, _TIMEOUT_S)
    try:
        return decoded(connection.read(connection.send(method, path)))
    finally:
        connection.close()


_FACTS: dict[str, Callable[[Settings], dict[str, Any]]] = {"grpc": _of_grpc, "http": _of_http, "openai": _of_openai}


def machine_facts() -> dict[str, Any]:
    """Processor, memory, and the versions of what generates the load."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in ("trireme", "locust", "gevent", "grpcio", "geventhttpclient")},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


class _Steps(Protocol):
    """Reads the graph behind an LLM's public name."""

    def models(self) -> list[str]:
        """The names of its steps' models."""

    def close(self) -> None:
        """Close the connection."""


class _GrpcSteps:
    def __init__(self, settings: Settings) -> None:
        self._model = settings.model
        self._channel = grpc.insecure_channel(settings.address)

    def models(self) -> list[str]:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        config = stub.ModelConfig(service_pb2.ModelConfigRequest(name=self._model), timeout=_TIMEOUT_S).config
        return [step.model_name for step in config.ensemble_scheduling.step]

    def close(self) -> None:
        self._channel.close()


class _HttpSteps:
    def __init__(self, settings: Settings) -> None:
        self._path = f"/v2/models/{settings.model}/config"
        self._connection = HttpConnection(settings.address, _TIMEOUT_S)

    def models(self) -> list[str]:
        config = decoded(self._connection.read(self._connection.send("GET", self._path)))
        return [step["model_name"] for step in config["ensemble_scheduling"]["step"]]

    def close(self) -> None:
        self._connection.close()


_STEPS: dict[str, Callable[[Settings], _Steps]] = {"grpc": _GrpcSteps, "http": _HttpSteps}


class ReleaseWatch:
    """Which release is behind an LLM's public name, over time: its graph says so, whose steps are named after it."""

    def __init__(self, settings: Settings) -> None:
        self._steps: _Steps | None = _STEPS[settings.target](settings) if settings.target in _STEPS else None
        #: (s since the epoch, release), each when it was first seen.
        self.seen: list[tuple[float, str]] = []

    def look(self) -> None:
        """Look once; what cannot be seen is not recorded."""
        if self._steps is None:
            return
        try:
            models = self._steps.models()
        except (TriremeError, grpc.RpcError, KeyError, TypeError):
            return
        steps = {model.partition("@")[2] for model in models}
        release = steps.pop() if len(steps) == 1 else ""
        if release and (not self.seen or self.seen[-1][1] != release):
            self.seen.append((time.time(), release))

    def at(self, epoch_s: float, otherwise: str) -> str:
        """What was live at a time; a version that the server named where no release was seen."""
        found = otherwise if not self.seen else self.seen[0][1]
        for since, release in self.seen[1:]:
            if since <= epoch_s:
                found = release
        return found

    def close(self) -> None:
        """Look no more."""
        if self._steps is not None:
            self._steps.close()
