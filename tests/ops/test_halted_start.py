"""A model's process that does not run for some seconds while the server starts, as on a machine that is too busy."""

from pathlib import Path

from halting import HaltedLoad
from support import restarts_of, start_null_server, stop_server
from trireme_client import Client


def test_a_start_that_stands_still_is_made_again(tmp_path: Path) -> None:
    with HaltedLoad(tmp_path / "root", "preprocessing") as load:
        server = start_null_server(tmp_path, 50)
    try:
        assert load.halted is not None
        with Client(server.grpc) as client:
            assert client.generate(prompt="x", max_tokens=4, end_id=-1).num_output_tokens == 4
        assert restarts_of(server) == {"tritonserver": 0, "stub": 0}
    finally:
        output = stop_server(server)
    told, _, after = output.partition("Starting it again ...")
    assert "tritonserver stands still while models are loaded" in told
    assert f"preprocessing is loaded: process {load.halted}, " in told
    assert "Ready after" in after
    assert not server.regions()
