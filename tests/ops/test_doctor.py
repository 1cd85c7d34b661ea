import json
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest

import releases_built
from support import ANY_PORTS, ROOT, TRIREME
from trireme_build.publish import make_writable
from trireme_ops import checks, embedded
from trireme_ops.checks import Finding, Status
from trireme_ops.doctor import render
from trireme_ops.errors import OperatorError
from trireme_ops.layout import Layout


def test_this_machine_is_fit_to_serve() -> None:
    done = subprocess.run([str(TRIREME), "doctor", *ANY_PORTS, "--json"], capture_output=True, text=True, timeout=60)
    findings = json.loads(done.stdout)
    assert done.returncode == 0, findings
    assert {"python", "libpython", "tritonserver", "/dev/shm", "disk", "cpu", "gpu", "http port", "tensorrt_llm/1"} <= {
        finding["check"] for finding in findings
    }


def test_a_missing_shared_libpython_is_one_line_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    real = sysconfig.get_config_var
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: "/nowhere" if name == "LIBDIR" else real(name))
    finding = checks.shared_libpython()
    assert finding.status is Status.FAIL
    assert finding.detail.startswith("/nowhere/libpython3")
    assert "\n" not in finding.detail
    assert finding.fix


def test_too_little_shared_memory_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MIN_SHM_BYTES", 1 << 60)
    finding = checks.shared_memory()
    assert finding.status is Status.FAIL
    assert "--shm-size" in finding.fix


def test_too_little_disk_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MIN_DISK_BYTES", 1 << 60)
    assert checks.disk(Layout(ROOT)).status is Status.FAIL


@pytest.mark.parametrize("version", ["2.0.0", "2.3.1"])
def test_numpy_2_fails(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(checks, "version", lambda _: version)
    assert checks.numpy_version().status is Status.FAIL


def test_an_empty_repository_fails(tmp_path: Path) -> None:
    (tmp_path / "model_repository").mkdir()
    (finding,) = checks.manifests(Layout(tmp_path))
    assert finding.status is Status.FAIL


def test_abandoned_shared_memory_is_noted_with_what_to_type() -> None:
    region = Path("/dev/shm/trireme_4194304_test")
    region.write_bytes(b"")
    try:
        finding = checks.leftovers()
        assert finding.status is Status.NOTE
        assert str(region) in finding.fix
    finally:
        region.unlink()


def test_a_port_of_zero_is_always_free() -> None:
    assert all(finding.status is Status.OK for finding in checks.free_ports(embedded.Ports(0, 0, 0, 0)))


def test_newest_versions_with_different_tokenizers_fail_and_are_named(tmp_path: Path) -> None:
    layout = releases_built.checkout(tmp_path / "root")
    (finding,) = checks.same_tokenizers(layout)
    assert (finding.status, finding.detail) == (
        Status.OK,
        "one in preprocessing/1, tensorrt_llm/1, postprocessing/1",
    )
    versions = releases_built.permuted(layout)
    assert [finding.status for finding in checks.same_tokenizers(layout)] == [Status.OK]
    make_writable(layout.root / "model_repository" / "tensorrt_llm")
    shutil.rmtree(layout.root / "model_repository" / "tensorrt_llm" / str(versions["tensorrt_llm"]))
    (finding,) = checks.same_tokenizers(layout)
    assert finding.status is Status.FAIL
    assert "preprocessing/2, postprocessing/2 | tensorrt_llm/1; mixed, they answer garbage" in finding.detail
    assert "trireme release create" in finding.fix
    pinned = replace(layout, pinned=releases_built.first(layout))
    assert [finding.status for finding in checks.same_tokenizers(pinned)] == [Status.OK]


def test_every_problem_shows_what_to_type() -> None:
    text = render([Finding("disk", Status.FAIL, "0 MiB free", "free some space"), Finding("cpu", Status.OK, "2 cores")])
    assert text.splitlines() == [
        "FAIL  disk  0 MiB free",
        "            -> free some space",
        "ok    cpu   2 cores",
    ]


def test_a_control_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert layout.control_key() == layout.control_key()
    (tmp_path / ".trireme" / "control.key").chmod(0o644)
    with pytest.raises(OperatorError, match="chmod 600"):
        layout.control_key()
    assert checks.control_key(layout).status is Status.FAIL


def test_an_empty_control_key_lets_nobody_in(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.control_key()
    (tmp_path / ".trireme" / "control.key").write_text("\n")
    with pytest.raises(OperatorError, match=r"control\.key is empty.* rm "):
        layout.control_key()
    assert checks.control_key(layout).status is Status.FAIL


def test_servers_that_start_at_once_have_one_control_key(tmp_path: Path) -> None:
    together = Barrier(8)

    def key_of(layout: Layout) -> str:
        together.wait()
        return layout.control_key()

    with ThreadPoolExecutor(8) as threads:
        for number in range(50):
            (tmp_path / str(number)).mkdir()
            keys = set(threads.map(key_of, [Layout(tmp_path / str(number))] * 8))
            assert len(keys) == 1
            assert [path.name for path in (tmp_path / str(number) / ".trireme").iterdir()] == ["control.key"]


def test_servers_that_start_at_once_have_one_backend(tmp_path: Path) -> None:
    together = Barrier(4)

    def folder_of(state: Path) -> Path:
        together.wait()
        return embedded.backend_directory(state)

    with ThreadPoolExecutor(4) as threads:
        for number in range(5):
            (folder,) = set(threads.map(folder_of, [tmp_path / str(number)] * 4))
            assert sorted(path.name for path in folder.parent.iterdir()) == ["lock", folder.name]
            assert (folder / "python" / "triton_python_backend_stub").is_file()
