"""What a real server says of its releases and its disk, for Prometheus."""

import shutil

import pytest

from support import ROOT, Server, metric_of
from trireme_ops.layout import Layout
from trireme_ops.releases.control import Address, Control
from trireme_ops.releases.host import ACTS


def metric(server: Server, name: str, **labels: str) -> float:
    return metric_of(f"{server.health}/metrics", name, **labels)


def test_what_is_live_and_what_is_being_done(server: Server) -> None:
    assert metric(server, "trireme_release_live", llm="ensemble", release="") == 1
    assert metric(server, "trireme_server_draining") == 0
    for act in ACTS:
        assert metric(server, "trireme_release_act_started_timestamp_seconds", act=act) == 0


def test_an_operator_at_work_is_seen(server: Server) -> None:
    control = Control(Address.parse(str(server.addresses["health"])), Layout(ROOT).control_key())
    assert metric(server, "trireme_release_lock_held") == 0
    control.lock("looking")
    try:
        assert metric(server, "trireme_release_lock_held") == 1
    finally:
        control.unlock()
    assert metric(server, "trireme_release_lock_held") == 0


def test_the_disk_that_logs_are_on(server: Server) -> None:
    disk = shutil.disk_usage(ROOT)
    assert metric(server, "trireme_disk_size_bytes") == disk.total
    assert metric(server, "trireme_disk_free_bytes") == pytest.approx(disk.free, rel=0.2)


def test_a_damaged_file_of_a_promotion_leaves_the_other_metrics(server: Server) -> None:
    path = Layout(ROOT).state / "servers" / f"any-{server.process.pid}" / "promotion.json"
    path.write_text("{", encoding="utf-8")
    try:
        assert metric(server, "trireme_server_ready") == 1
        assert metric(server, "trireme_release_live") == 0
    finally:
        path.unlink()
    assert metric(server, "trireme_release_live", llm="ensemble") == 1
