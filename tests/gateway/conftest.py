"""A gateway in front of the server that most tests share."""

from collections.abc import Iterator

import pytest

from gateway_runs import Gateway, server_options, started_gateway
from support import Server


@pytest.fixture(scope="session")
def gateway(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The gateway that most tests share."""
    with started_gateway(tmp_path_factory.mktemp("gateway"), *server_options(server)) as running:
        yield running
