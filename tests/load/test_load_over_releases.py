"""Load tests while the release that serves is changed."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from release_runs import Operator, null_checkout, null_server
from support import TRIREME, Server, long_form, wait_for
from trireme_load.record import OK, Record, read_csv


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Operator]]:
    layout = null_checkout(tmp_path_factory.mktemp("releases") / "root")
    with null_server(tmp_path_factory.mktemp("server"), layout) as started:
        yield started


@pytest.mark.alone
@pytest.mark.parametrize(
    ("target", "before", "after"), [("grpc", "r1", "r2"), pytest.param("http", "r2", "r1", marks=long_form)]
)
def test_a_report_tells_the_releases_apart(
    running: tuple[Server, Operator], tmp_path: Path, target: str, before: str, after: str
) -> None:
    server, operator = running
    if operator.live() != before:
        assert operator.run("promote", before, "--hold", "0s").returncode == 0
    command = [str(TRIREME), "load", "--target", target, "--host", str(server.addresses[target]), "--users", "4"]
    command += ["--out", str(tmp_path), "--warm-up", "0s", "--prompts", "synthetic:16/20", "--duration", "20s"]
    under_load = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        requests = tmp_path / "requests.csv"
        wait_for(lambda: requests.exists() and requests.read_text().count("\n") > 10, 30, "requests")
        assert operator.run("promote", after, "--hold", "0s").returncode == 0
        assert under_load.poll() is None, "the change has to come in the middle"
        assert under_load.wait(timeout=60) == 0
    finally:
        under_load.kill()
        under_load.wait()
    records = records_of(tmp_path)
    assert {one.code for one in records} == {OK}
    releases = [one.release for one in sorted(records, key=lambda one: one.sent_s)]
    first = releases.index(after)
    assert set(releases[:first]) == {before} and set(releases[first:]) == {after}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    # The public name is switched at once: there is no time in which both answer.
    assert f"after {after} came" in page and f"change from {before}" not in page


def records_of(folder: Path) -> list[Record]:
    return list(read_csv(folder / "requests.csv"))
