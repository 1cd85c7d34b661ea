"""One real server for the whole run, and clients of it."""

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

from gateway_runs import Gateway, server_options, started_gateway
from raw import Raw, connected
from support import CHECKPOINT, Server, rounds, start_server, stop_server
from trireme_client import Client
from trireme_runtime.tokenizing import load_tokenizer

# Machines are noisy: no example fails for being slow.
hypothesis.settings.register_profile("trireme", deadline=None, max_examples=rounds(100, 3000))
hypothesis.settings.load_profile("trireme")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that most tests share."""
    running = start_server(tmp_path_factory.mktemp("server"))
    yield running
    stop_server(running)
    assert not running.session()
    assert not running.regions()


@pytest.fixture(scope="session")
def gateway(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway in front of it."""
    with started_gateway(tmp_path_factory.mktemp("gateway"), *server_options(server)) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A client of the shared server."""
    with Client(server.grpc, timeout_s=60) as connected:
        yield connected


@pytest.fixture
def raw(server: Server) -> Iterator[Raw]:
    """The shared server, called with the contract's tensors."""
    with connected(server.grpc) as connection:
        yield connection


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The reference tokenizer."""
    return load_tokenizer(CHECKPOINT)
