"""Fleet files, and what is wrong with them."""

from pathlib import Path

import pytest

from trireme_ops.errors import OperatorError
from trireme_ops.releases.fleet import Fleet, read_fleet

WHOLE = """
max_unavailable = 2
[haproxy]
socket = "run/admin.sock"
backends = ["grpc"]
[[server]]
name = "gpu-1"
control = "10.0.0.1:8003"
key_file = "keys/gpu-1"
haproxy = "s1"
[[server]]
name = "gpu-2"
control = "10.0.0.2:8003"
[[server]]
name = "gpu-3"
control = "gpu-3.example:8003"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "fleet.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_whole_file(tmp_path: Path) -> None:
    fleet = read_fleet(written(tmp_path, WHOLE))
    assert fleet.max_unavailable == 2
    assert [server.name for server in fleet.servers] == ["gpu-1", "gpu-2", "gpu-3"]
    assert [server.haproxy_name for server in fleet.servers] == ["s1", "gpu-2", "gpu-3"]
    assert fleet.server("gpu-1").key_file == tmp_path / "keys" / "gpu-1"
    assert fleet.haproxy is not None
    assert fleet.haproxy.backends == ("grpc",)
    assert fleet.haproxy.client().address == str(tmp_path / "run" / "admin.sock")


def test_the_least_that_is_needed(tmp_path: Path) -> None:
    fleet = read_fleet(written(tmp_path, '[[server]]\nname = "a"\ncontrol = "127.0.0.1:8003"\n'))
    assert (fleet.max_unavailable, fleet.haproxy) == (1, None)
    assert fleet == Fleet.of_one("127.0.0.1:8003", name="a")


@pytest.mark.parametrize(
    ("old", "new", "wording"),
    [
        ("max_unavailable = 2", "max_unavailable = 0", "max_unavailable is 0"),
        ("max_unavailable = 2", "max_unavailable = 3", "max_unavailable is 3; of 3 servers one at least has to serve"),
        ("max_unavailable = 2", "max_unavailabel = 2", "the key max_unavailabel is unknown"),
        ('"10.0.0.2:8003"', '"10.0.0.2"', "server.2.control: '10.0.0.2' is no HOST:PORT"),
        ('"10.0.0.2:8003"', '"http://10.0.0.2:8003"', "server.2.control: 'http://10.0.0.2:8003' is no HOST:PORT"),
        ('"10.0.0.2:8003"', '"10.0.0.1:8003"', "server: control: '10.0.0.1:8003' is given twice"),
        ('"gpu-2"', '"gpu-1"', "server: name: 'gpu-1' is given twice"),
        ('"gpu-2"', '"s1"', "server: haproxy: 's1' is given twice"),
        ('"gpu-2"', '"gpu 2"', "server.2.name is 'gpu 2'"),
        ('name = "gpu-2"', "", "server.2.name is missing"),
        ("key_file", "keyfile", "the key server.1.keyfile is unknown"),
        ('["grpc"]', "[]", "haproxy.backends is "),
        ('["grpc"]', '["grpc", "grpc"]', "haproxy.backends: 'grpc' is given twice"),
        ('socket = "run/admin.sock"', "", "haproxy.socket is missing"),
        ("[haproxy]", "[[haproxy]]", "haproxy is "),
        ("max_unavailable = 2", "max_unavailable = ", "cannot be read"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path: Path, old: str, new: str, wording: str) -> None:
    path = written(tmp_path, WHOLE.replace(old, new))
    with pytest.raises(OperatorError) as caught:
        read_fleet(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert wording in str(caught.value)


def test_no_servers(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="server is missing"):
        read_fleet(written(tmp_path, "max_unavailable = 1\n"))


def test_a_name_for_haproxy_needs_haproxy(tmp_path: Path) -> None:
    text = '[[server]]\nname = "a"\ncontrol = "127.0.0.1:8003"\nhaproxy = "s1"\n'
    with pytest.raises(OperatorError, match="server a: haproxy has no use without the table haproxy"):
        read_fleet(written(tmp_path, text))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"none\.toml: cannot be read: No such file"):
        read_fleet(tmp_path / "none.toml")


def test_one_server_at_no_address() -> None:
    with pytest.raises(OperatorError, match="'here' is no HOST:PORT"):
        Fleet.of_one("here")


def test_a_server_that_the_fleet_does_not_have() -> None:
    with pytest.raises(OperatorError, match="no server 'b'; it has local"):
        Fleet.of_one("127.0.0.1:8003").server("b")


def test_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    (server,) = Fleet.of_one("127.0.0.1:8003", key_file=path).servers
    with pytest.raises(OperatorError, match="the control key of local cannot be read"):
        server.key()
    path.touch(mode=0o600)
    with pytest.raises(OperatorError, match="is empty"):
        server.key()
    path.write_text("secret\n")
    assert server.key() == "secret"
    path.chmod(0o644)
    with pytest.raises(OperatorError, match="chmod 600"):
        server.key()
    (tmp_path / "model_repository").mkdir()
    monkeypatch.setenv("TRIREME_ROOT", str(tmp_path))
    (default,) = Fleet.of_one("127.0.0.1:8003").servers
    assert default.key() == (tmp_path / ".trireme" / "control.key").read_text().strip()
