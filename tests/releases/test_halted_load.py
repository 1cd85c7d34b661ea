"""A model's process that does not run for some seconds while a release is loaded beside the one that serves."""

from pathlib import Path

from halting import HaltedLoad
from release_runs import clients, null_checkout, null_server
from support import restarts_of, stop_server


def test_a_load_that_stands_still_is_made_again_and_no_client_notices(tmp_path: Path) -> None:
    layout = null_checkout(tmp_path / "root")
    with null_server(tmp_path, layout) as (server, operator):
        with clients(server.grpc, streaming=1, unary=1) as seen, HaltedLoad(layout.root, "preprocessing@r2") as load:
            done = operator.run("promote", "r2", "--hold", "1s")
        assert load.halted is not None
        assert done.returncode == 0, done.stdout + done.stderr
        assert seen.errors == []
        assert seen.mixed == []
        assert operator.live() == "r2"
        assert restarts_of(server) == {"tritonserver": 0, "stub": 0}
        assert not Path(f"/proc/{load.halted}").exists()
        log = (tmp_path / "triton.log").read_text()
        assert "Stub process 'preprocessing@r2_0_0' is not healthy." in log
        said = stop_server(server)
    assert f"preprocessing@r2 (version 2) stood still while it was loaded: ended process {load.halted}" in said
    assert "Loading preprocessing@r2 again" in said
