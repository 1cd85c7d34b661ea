"""compose.yaml: valid, shut, complete for each profile, and of files that are here."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dockerfiles import parse
from haproxy_runs import haproxy_binary
from support import ROOT
from trireme_gateway.settings import read_settings
from trireme_ops.fleet.haproxy_compose import SERVERS, render_for_compose

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LASTING = [name for name, service in SERVICES.items() if "tools" not in service["profiles"]]
EVERY = pytest.mark.parametrize("name", SERVICES)
#: Not in the repository: whoever runs it makes them, by docs/containers.md.
MADE = ("./docker/compose/secrets/edge.pem", "./docker/compose/secrets/metrics_key")


def of_profile(profile: str) -> dict[str, dict[str, Any]]:
    return {name: service for name, service in SERVICES.items() if profile in service["profiles"]}


def dockerfile_stage(service: dict[str, Any]) -> Any:
    """The last stage of what a service is built from; None for an image of others."""
    if "build" not in service:
        return None
    dockerfile = parse((ROOT / service["build"]["dockerfile"]).read_text(encoding="utf-8"))
    return dockerfile.stage(service["build"].get("target") or dockerfile.stages[-1].name)


def test_it_is_what_compose_takes() -> None:
    program = Path(sys.executable).parent / "check-jsonschema"
    command = [program, "--builtin-schema", "vendor.compose-spec", ROOT / "compose.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_a_profile_is_two_servers_and_all_that_is_around_them(profile: str) -> None:
    services = of_profile(profile)
    servers = [service for service in services.values() if service["image"] == f"trireme/server:{profile}"]
    assert sorted(alias for s in servers for alias in s["networks"]["servers"]["aliases"]) == list(SERVERS)
    assert {"gateway", "haproxy", "redis", "postgres", "prometheus", "grafana", "blackbox"} <= set(services)
    assert len(services) == len(servers) + 7


def test_tools_are_in_no_profile_that_lasts() -> None:
    assert set(of_profile("tools")) == {"build", "load"}
    assert set(of_profile("cpu")) | set(of_profile("gpu")) == set(LASTING)


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_who_is_waited_for_is_in_the_profile_or_need_not_be(profile: str) -> None:
    services = of_profile(profile)
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_healthy"
            assert other in services or how.get("required") is False, (name, other)
    # HAProxy does not start where it cannot resolve a server's name.
    waited = services["haproxy"]["depends_on"]
    assert {name for name in services if name.startswith("server-")} <= set(waited)


@EVERY
def test_a_service_has_few_rights_and_bounds(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert re.fullmatch(r"[1-9]\d*:\d+", service["user"])
    assert "privileged" not in service and "cap_add" not in service
    limits = service["deploy"]["resources"]["limits"]
    assert {"memory", "pids"} <= set(limits)
    # A server with a GPU is not the one to be short of processors.
    assert "cpus" in limits or name.startswith("server-gpu")
    assert service["logging"]["options"]["max-size"]


@EVERY
def test_a_service_runs_as_the_user_of_its_image(name: str) -> None:
    stage = dockerfile_stage(SERVICES[name])
    if stage is not None:
        assert [i.text for i in stage.instructions if i.keyword == "USER"] == [SERVICES[name]["user"]]


@pytest.mark.parametrize("name", LASTING)
def test_whether_a_service_works_can_be_asked(name: str) -> None:
    service = SERVICES[name]
    stage = dockerfile_stage(service)
    if stage is None:
        assert service["healthcheck"]["test"][0] == "CMD"
    else:
        assert [i for i in stage.instructions if i.keyword == "HEALTHCHECK" and i.text != "NONE"]


@EVERY
def test_images_of_others_are_pinned_to_a_version(name: str) -> None:
    if "build" not in SERVICES[name]:
        pinned = r"[a-z0-9./-]+:v?\d+\.\d+(\.\d+)?(-[a-z0-9]+)?(@sha256:[0-9a-f]{64})?"
        assert re.fullmatch(pinned, SERVICES[name]["image"])


@EVERY
def test_ports_are_published_on_the_loopback_address_only(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)


def test_servers_and_data_are_in_networks_without_a_way_out() -> None:
    assert COMPOSE["networks"]["servers"]["internal"] is True
    assert COMPOSE["networks"]["data"]["internal"] is True
    for name, service in SERVICES.items():
        if name.startswith(("server-", "gateway", "redis", "postgres")):
            assert "edge" not in service["networks"]
            assert "ports" not in service


@EVERY
def test_what_is_mounted_is_here(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
        if source.startswith("."):
            assert volume.endswith(":ro"), volume
            assert (ROOT / source).exists(), source
        else:
            assert source in COMPOSE["volumes"]


def test_secrets_are_files_that_git_does_not_take() -> None:
    assert [secret["file"] for secret in COMPOSE["secrets"].values()] == list(MADE)
    for path in (*MADE, "./.env"):
        ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False, timeout=30)
        assert ignored.returncode == 0, path


def test_nothing_secret_is_written_down() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|TOKEN|KEY|DATABASE", variable):
                assert re.search(r"\$\{[A-Z_]+:\?[^}]+\}", value), f"{name}: {variable}"
                assert not re.search(r"://[^$:]*:[^$]+@", value)


def seconds(text: str) -> int:
    match = re.fullmatch(r"(\d+)s", text)
    assert match, text
    return int(match[1])


def test_a_server_is_given_the_time_that_draining_takes() -> None:
    from trireme_ops import server

    for name, service in SERVICES.items():
        if name.startswith("server-"):
            # Three of the balancers' delay, thirty of --drain-timeout, and what Triton takes to unload and to end.
            needed = 3 + 30 + server._UNLOAD_TIMEOUT_S + server._EXIT_TIMEOUT_S
            assert seconds(service["stop_grace_period"]) > needed, name


def test_a_gateway_is_given_the_time_that_draining_takes() -> None:
    assert seconds(SERVICES["gateway"]["stop_grace_period"]) > gateway_settings().drain_s


@pytest.mark.parametrize("name", [name for name in SERVICES if name.startswith("server-")])
def test_the_state_of_a_server_is_a_volume_of_its_own_where_its_image_has_a_folder_for_it(name: str) -> None:
    (state,) = (v for v in SERVICES[name]["volumes"] if isinstance(v, str) and v.endswith("/.trireme"))
    assert state.startswith(f"{name}-state:")
    folder = state.partition(":")[2]
    runs = [i.text for i in dockerfile_stage(SERVICES[name]).instructions if i.keyword == "RUN"]
    assert runs == [f"install -d -o 10001 -g 10001 -m 0700 {folder}"]


def gateway_settings() -> Any:
    return read_settings(ROOT / "docker" / "compose" / "gateway.toml", {})


def test_the_gateway_asks_for_keys_and_asks_both_servers() -> None:
    settings = gateway_settings()
    assert settings.keys.required is True
    assert [server.grpc for server in settings.server] == [f"{name}:8001" for name in SERVERS]
    assert [server.health for server in settings.server] == [f"{name}:8003" for name in SERVERS]


def test_haproxys_configuration_is_what_its_template_gives() -> None:
    committed = (ROOT / "docker" / "compose" / "haproxy.cfg").read_text(encoding="utf-8")
    assert committed == render_for_compose()


def test_haproxy_takes_its_configuration(tmp_path: Path) -> None:
    """With this machine's names: those of the containers are not known here."""
    pem = tmp_path / "edge.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", "/CN=localhost", "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "crt")),
        ],
        check=True,
        capture_output=True,
    )
    pem.write_bytes((tmp_path / "crt").read_bytes() + (tmp_path / "key").read_bytes())
    text = render_for_compose().replace("/run/secrets/edge.pem", str(pem)).replace("/run/haproxy", str(tmp_path))
    text = re.sub(r"(server (?:server-\d|gateway) )[a-z0-9-]+:", r"\g<1>127.0.0.1:", text)
    config = tmp_path / "haproxy.cfg"
    config.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [haproxy_binary(), "-c", "-f", config], capture_output=True, text=True, check=False, timeout=30, env=os.environ
    )
    assert done.returncode == 0, done.stderr


def test_published_ports_are_those_that_haproxy_listens_on() -> None:
    listened = set(re.findall(r"^    bind \*:(\d+)", render_for_compose(), re.MULTILINE))
    published = {port.rsplit(":", 1)[1] for port in SERVICES["haproxy"]["ports"]}
    assert published == listened - {"8405"}
