"""Loopback only, and no control API without the key."""

import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from support import ROOT, Server

KEY_FILE = ROOT / ".trireme" / "control.key"

HTTP_CALLS = (
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/ensemble/load"),
    ("POST", "/v2/repository/models/ensemble/unload"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("POST", "/v2/systemsharedmemory/region/r/register"),
    ("GET", "/v2/cudasharedmemory/status"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/trace/setting"),
    ("GET", "/v2/logging"),
    ("POST", "/v2/logging"),
)

#: Call -> its request; each is the method's name with "Request" behind it.
GRPC_CALLS = (
    ("RepositoryIndex", {}),
    ("RepositoryModelLoad", {"model_name": "ensemble"}),
    ("RepositoryModelUnload", {"model_name": "ensemble"}),
    ("SystemSharedMemoryStatus", {}),
    ("SystemSharedMemoryRegister", {"name": "r"}),
    ("SystemSharedMemoryUnregister", {}),
    ("CudaSharedMemoryStatus", {}),
    ("CudaSharedMemoryRegister", {"name": "r"}),
    ("CudaSharedMemoryUnregister", {}),
    ("TraceSetting", {}),
    ("LogSettings", {}),
)


@pytest.fixture(scope="module")
def stub(server: Server) -> Iterator[Any]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.mark.parametrize(("method", "path"), HTTP_CALLS)
def test_http_control_apis_need_the_key(server: Server, method: str, path: str) -> None:
    request = urllib.request.Request(f"{server.http}{path}", method=method, data=b"{}" if method == "POST" else None)
    with pytest.raises(urllib.error.HTTPError) as caught, urllib.request.urlopen(request, timeout=10):
        pass
    caught.value.close()
    assert caught.value.code == 403


@pytest.mark.parametrize(("name", "fields"), GRPC_CALLS)
def test_grpc_control_apis_need_the_key(stub: Any, name: str, fields: dict[str, str]) -> None:
    request = getattr(pb, f"{name}Request")(**fields)
    for metadata in ((), (("triton-grpc-protocol-trireme-control", "wrong"),)):
        with pytest.raises(grpc.RpcError) as caught:
            getattr(stub, name)(request, metadata=metadata, timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "restricted" in caught.value.details()


def test_the_key_opens_both(server: Server, stub: Any) -> None:
    key = KEY_FILE.read_text().strip()
    index = stub.RepositoryIndex(pb.RepositoryIndexRequest(), metadata=(("triton-grpc-protocol-trireme-control", key),))
    assert {"ensemble", "preprocessing", "tensorrt_llm", "postprocessing"} <= {model.name for model in index.models}
    request = urllib.request.Request(
        f"{server.http}/v2/repository/index", method="POST", headers={"trireme-control": key}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def test_only_its_owner_can_read_the_key() -> None:
    assert stat.S_IMODE(KEY_FILE.stat().st_mode) == 0o600


def test_every_socket_listens_on_loopback(server: Server) -> None:
    inodes = {
        link.readlink().name
        for pid in server.session()
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if str(link.readlink()).startswith("socket:")
    }
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                listening.append(fields[1].split(":")[0])
    assert len(listening) >= 3
    loopback, loopback_mapped_to_ipv6 = "0100007F", "0000000000000000FFFF00000100007F"
    assert set(listening) <= {loopback, loopback_mapped_to_ipv6}
