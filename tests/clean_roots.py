"""Carries out a Dockerfile without docker: its instructions in chroots made by debootstrap, its process in namespaces.

What differs from an image that docker builds: the base is Debian bookworm with Debian's python3.11, linked to where the
official Python image has its own (/usr/local/bin), and not that image's CPython from source; layers are copies of whole
folders; packages come from where this machine's pip finds them; no limits of memory and processors are set.
What is the same: nothing of this machine's file system is there but what the Dockerfile puts there.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from dockerfiles import Dockerfile, Instruction, Stage, context_of, substitute
from support import wait_for

_SUITE = "bookworm"
#: What is in the official slim image besides a bare Debian.
_PACKAGES = "ca-certificates netbase tzdata python3.11 python3.11-venv python3-distutils libpython3.11".split()
#: Of each step. A machine that does other things, too, takes several times as long as one that does not.
_STEP_TIMEOUT_S = 600
_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
_NEEDED = ("debootstrap", "unshare", "nsenter", "chroot", "mount")

_LOOPBACK_UP = (
    # SIOCSIFFLAGS with UP, LOOPBACK and RUNNING; there need be no iproute2.
    "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh', b'lo', 0x49))"
)

#: As docker's own init: hands SIGTERM on, collects orphans, ends with the status; then says what is still there.
_INIT = """
"$@" & child=$!
trap 'kill -TERM $child 2>/dev/null' TERM
status=0
while :; do wait $child; status=$?; kill -0 $child 2>/dev/null || break; done
for path in "$ROOT"/proc/[0-9]*/cmdline; do
  [ "$path" = "$ROOT"/proc/1/cmdline ] || { line=$(tr '\\0' ' ' <$path); [ -z "$line" ] || echo "left: $line"; }
done
for path in "$ROOT"/dev/shm/*; do [ ! -e "$path" ] || echo "left: ${path#"$ROOT"}"; done
exit $status
"""


def needs_root() -> None:
    """Skips the test, and fails it in continuous integration, where clean roots cannot be made."""
    path = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin{os.pathsep}/sbin"
    missing = [program for program in _NEEDED if shutil.which(program, path=path) is None]
    if not missing and os.geteuid() == 0:
        return
    message = f"not installed: {', '.join(missing)}" if missing else "only root can make clean roots"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@dataclass(frozen=True)
class Image:
    """What the instructions of a stage came to."""

    root: Path
    env: Mapping[str, str] = field(default_factory=lambda: {"PATH": _PATH, "LANG": "C.UTF-8"})
    workdir: str = "/"
    user: str = "0:0"
    shell: tuple[str, ...] = ("/bin/sh", "-c")
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    healthcheck: tuple[str, ...] = ()
    stop_signal: str = "SIGTERM"

    @property
    def environment(self) -> dict[str, str]:
        """What a process of it finds."""
        return {"HOME": "/root" if self.user.startswith("0") else "/", **self.env}

    def at(self, path: str) -> Path:
        """A path of this image on this machine; relative ones begin at its working folder."""
        return self.root / os.path.normpath(os.path.join("/", self.workdir, path)).lstrip("/")  # noqa: PTH118

    def command(self, words: Sequence[str], env: Mapping[str, str] | None = None, privileged: bool = False) -> str:
        """A line for a shell outside, that runs `words` inside as the image's user."""
        uid, _, gid = self.user.partition(":")
        inside = f"cd {shlex.quote(self.workdir)} && exec {shlex.join(words)}"
        rights = [] if privileged else ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        return shlex.join(
            [
                *("chroot", str(self.root), "setpriv", f"--reuid={uid}", f"--regid={gid or uid}", "--clear-groups"),
                *rights,
                *("env", "-i", *(f"{name}={value}" for name, value in {**self.environment, **(env or {})}.items())),
                *("/bin/sh", "-c", inside),
            ]
        )


def _mirror() -> list[str]:
    """Where this machine's apt has that Debian from, if anywhere."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line.split()[2] for line in listed.stdout.splitlines() if line.startswith(f"{_SUITE} main ")]
    return found[:1]


def _base_root(folder: Path) -> Path:
    """A bare Debian with Python in `folder`, from a copy that an earlier run kept, or from Debian's mirror."""
    base = folder / "base"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trireme"
    kept = cache / f"clean-root-{_SUITE}-{len(_PACKAGES)}.tar"
    base.mkdir()
    if kept.is_file():
        subprocess.run(["tar", "-xf", kept, "-C", base], check=True)
        return base
    log = folder / "debootstrap.log"
    # In namespaces of its own: it mounts /proc there, and one that is cut off leaves it mounted.
    apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    command = [
        *apart,
        "debootstrap",
        "--variant=minbase",
        f"--include={','.join(_PACKAGES)}",
        _SUITE,
        str(base),
        *_mirror(),
    ]
    with log.open("wb") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, timeout=_STEP_TIMEOUT_S, check=False)
    assert done.returncode == 0, log.read_text()[-2000:]
    for name in ("python", "python3"):
        (base / "usr/local/bin" / name).symlink_to("/usr/bin/python3.11")
    # Kept for the next run; one that cannot be written is none.
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        cache.mkdir(parents=True, exist_ok=True)
        staging = kept.with_name(f"{kept.name}.{os.getpid()}")
        subprocess.run(["tar", "-cf", staging, "-C", base, "--exclude=./var/cache/apt/archives/*.deb", "."], check=True)
        staging.rename(kept)
    return base


def _host_pip() -> tuple[dict[str, str], list[Path]]:
    """The settings of this machine's pip as variables, and the files and folders that they name."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    env = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    paths = []
    # What variables say comes first in the list, and goes before files.
    for name, value in re.findall(r"^[\w:-]+\.([\w-]+)='(.*)'$", listed.stdout, re.MULTILINE):
        env.setdefault(f"PIP_{name.upper().replace('-', '_')}", value)
    for value in env.values():
        for word in value.split():
            path = Path(word.removeprefix("file://"))
            if path.is_absolute() and path.exists():
                # Beside an index lie the files that it points to.
                paths.append(path.parent if path.name == "simple" else path)
    return env, paths


@dataclass
class Builder:
    """Builds stages, each in a folder under `folder`, from the context `context`."""

    folder: Path
    context: Path
    _base: Path | None = None

    def build(self, dockerfile: Dockerfile, target: str) -> Image:
        """The image of a stage, and of all that it needs."""
        images = dict[str, Image]()
        for stage in dockerfile.stages:
            if stage.name in self._needed(dockerfile, target):
                images[stage.name] = self._stage(stage, images)
        return images[target]

    def _needed(self, dockerfile: Dockerfile, target: str) -> set[str]:
        stage = dockerfile.stage(target)
        others = {stage.base, *(i.flags["from"] for i in stage.instructions if "from" in i.flags)}
        known = {other for other in others if any(other == stage.name for stage in dockerfile.stages)}
        return {target}.union(*(self._needed(dockerfile, name) for name in known))

    def _stage(self, stage: Stage, images: Mapping[str, Image]) -> Image:
        if stage.base in images:
            image = images[stage.base]
        else:
            assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", stage.base), f"{stage.base} has no clean root here"
            self._base = self._base or _base_root(self.folder)
            image = Image(self._base)
        root = self.folder / f"{stage.name}-{len(list(self.folder.iterdir()))}"
        _copy_tree(image.root, root)
        image = replace(image, root=root)
        for instruction in stage.instructions:
            image = self._carry_out(image, instruction, images)
        return image

    def _carry_out(self, image: Image, instruction: Instruction, images: Mapping[str, Image]) -> Image:
        text = substitute(instruction.text, image.env)
        match instruction.keyword:
            case "ENV":
                pairs = (word.partition("=") for word in shlex.split(text))
                return replace(image, env={**image.env, **{name: value for name, _, value in pairs}})
            case "WORKDIR":
                image.at(text).mkdir(parents=True, exist_ok=True)
                return replace(image, workdir=f"/{image.at(text).relative_to(image.root)}")
            case "USER":
                return replace(image, user=text)
            case "SHELL":
                return replace(image, shell=tuple(instruction.words))
            case "STOPSIGNAL":
                return replace(image, stop_signal=text)
            case "CMD":
                return replace(image, cmd=self._words(image, instruction))
            case "ENTRYPOINT":
                return replace(image, entrypoint=self._words(image, instruction))
            case "HEALTHCHECK" if text == "NONE":
                return replace(image, healthcheck=())
            case "HEALTHCHECK":
                command = replace(instruction, text=instruction.text.removeprefix("CMD "))
                return replace(image, healthcheck=self._words(image, command))
            case "COPY":
                self._copy(image, replace(instruction, text=text), images)
            case "RUN":
                self._run(image, instruction)
            case "EXPOSE":
                pass
            case _:
                raise AssertionError(f"{instruction} is not carried out here")
        return image

    def _words(self, image: Image, instruction: Instruction) -> tuple[str, ...]:
        return tuple(instruction.exec_form or (*image.shell, instruction.text))

    def _copy(self, image: Image, instruction: Instruction, images: Mapping[str, Image]) -> None:
        assert set(instruction.flags) <= {"from"}, instruction
        *sources, target = instruction.words
        into = image.at(target)
        if "from" in instruction.flags:
            origin = images[instruction.flags["from"]]
            for source in sources:
                _copy_tree(origin.at(source), into)
            return
        files = context_of(self.context)
        for source in sources:
            name = source.removeprefix("./").rstrip("/")
            chosen = [file for file in files if name in (".", file) or file.startswith(f"{name}/")]
            assert chosen, f"line {instruction.line}: {source} is not in the context"
            for file in chosen:
                # The contents of a folder are copied, not the folder.
                rest = file if name == "." else file.removeprefix(f"{name}/") if file != name else Path(file).name
                is_folder = target.endswith(("/", ".")) or len(sources) > 1 or file != name
                there = into / rest if is_folder else into
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.context / file, there)

    def _run(self, image: Image, instruction: Instruction) -> None:
        pip_env, paths = _host_pip()
        binds = {path: path for path in paths}
        if mount := instruction.flags.get("mount"):
            options = dict(option.partition("=")[::2] for option in mount.split(","))
            assert options["type"] == "cache", instruction
            # What was downloaded before is this machine's.
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pip"
            cache.mkdir(parents=True, exist_ok=True)
            binds[cache] = Path(options["target"])
        binds[Path("/etc/resolv.conf")] = Path("/etc/resolv.conf")
        words = instruction.exec_form or [*image.shell, instruction.text]
        made = _make_mount_points(image.root, binds)
        script = [*_mount_lines(image.root, binds), f"exec {image.command(words, pip_env, privileged=True)}"]
        done = subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-euc", "\n".join(script)],
            capture_output=True,
            text=True,
            timeout=_STEP_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"line {instruction.line}: {done.stdout[-1000:]}{done.stderr[-3000:]}"
        for path in reversed(made):
            # What was only there to be mounted on is not the image's.
            path.rmdir() if path.is_dir() else path.unlink()


def _copy_tree(source: Path, target: Path) -> None:
    """The contents of a folder, or a file, with owners and modes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    is_folder = source.is_dir()
    if is_folder:
        target.mkdir(exist_ok=True)
    words = ["cp", "-a", "--reflink=auto", f"{source}/." if is_folder else str(source), str(target)]
    subprocess.run(words, check=True)


def _make_mount_points(root: Path, binds: Mapping[Path, Path]) -> list[Path]:
    """Make what is missing to mount on; the paths that were made, outer ones first."""
    made = []
    for source, target in binds.items():
        there = root / target.relative_to("/")
        missing = [path for path in (*reversed(there.parents), there) if not path.exists()]
        for path in missing:
            if path == there and not source.is_dir():
                path.touch()
            else:
                path.mkdir()
        made += missing
    return made


def _mount_lines(root: Path, binds: Mapping[Path, Path]) -> list[str]:
    """Shell lines that mount what every container has, and `binds`, in the namespace of who runs them."""
    lines = [
        shlex.join(["mount", "--bind", str(root), str(root)]),
        shlex.join(["mount", "-t", "proc", "proc", str(root / "proc")]),
        shlex.join(["mount", "--rbind", "/dev", str(root / "dev")]),
    ]
    return lines + [
        shlex.join(["mount", "--bind", str(source), str(root / target.relative_to("/"))])
        for source, target in binds.items()
    ]


@dataclass(frozen=True)
class Service:
    """How a container is run. volumes: path inside -> a folder for it, filled as docker fills a new named volume.
    files: path on this machine -> path inside, read-only. tmpfs: path -> mount options."""

    read_only: bool = True
    shm_bytes: int = 64 << 20
    volumes: Mapping[str, Path] = field(default_factory=dict)
    files: Mapping[Path, Path] = field(default_factory=dict)
    tmpfs: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Container:
    """A running one. pid: of its init, on this machine."""

    image: Image
    service: Service
    process: "subprocess.Popen[str]"
    pid: int
    log: Path

    def execute(self, words: Sequence[str], timeout_s: float = 30) -> "subprocess.CompletedProcess[str]":
        """Run a command inside, as `docker exec` does."""
        entered = ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--net"]
        return subprocess.run(
            [*entered, "bash", "-c", f"exec {self.image.command(words, self.service.env)}"],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def reach(self, words: Sequence[str], timeout_s: float = 60) -> "subprocess.CompletedProcess[str]":
        """Run a command of this machine that sees the container's network, and nothing else of it."""
        return subprocess.run(
            ["nsenter", "--target", str(self.pid), "--net", *words],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def is_healthy(self) -> bool:
        """Whether the image's HEALTHCHECK says so."""
        return self.execute(self.image.healthcheck).returncode == 0

    def stop(self, timeout_s: float) -> tuple[int, list[str]]:
        """Stop it as docker does; its status, and the processes and shared memory that it left."""
        os.kill(self.pid, signal.Signals[self.image.stop_signal])
        status = self.process.wait(timeout=timeout_s)
        return status, re.findall(r"^left: (.*)$", self.log.read_text(), re.MULTILINE)


@contextlib.contextmanager
def running(
    image: Image, service: Service, log: Path, arguments: Sequence[str] = (), beside: Container | None = None
) -> Iterator[Container]:
    """Run an image in namespaces of its own, or in the network of `beside`; killed with the context if it still runs.

    arguments: in the place of CMD.
    """
    for path, folder in service.volumes.items():
        _copy_tree(image.at(path), folder)
        shutil.copystat(image.at(path), folder)
        owner = image.at(path).stat()
        os.chown(folder, owner.st_uid, owner.st_gid)
    binds = {**{folder: Path(path) for path, folder in service.volumes.items()}, **service.files}
    _make_mount_points(image.root, binds)
    root = shlex.quote(str(image.root))
    script = [
        *_mount_lines(image.root, binds),
        # The rest of the machine's /dev/shm is nothing that a container sees.
        f"mount -t tmpfs -o size={service.shm_bytes},mode=1777,nosuid,nodev,noexec tmpfs {root}/dev/shm",
        *(f"mount -t tmpfs -o {shlex.quote(o)} tmpfs {root}{shlex.quote(path)}" for path, o in service.tmpfs.items()),
        *([f"mount -o remount,bind,ro {root}"] if service.read_only else []),
        *([shlex.join([sys.executable, "-c", _LOOPBACK_UP])] if beside is None else []),
        f"export ROOT={root}",
        f"set +eu; set -- {image.command([*image.entrypoint, *(arguments or image.cmd)], service.env)}",
        _INIT,
    ]
    words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--ipc"]
    words += ["--net"] if beside is None else []
    entered = [] if beside is None else ["nsenter", "--target", str(beside.pid), "--net"]
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [*entered, *words, "bash", "-euc", "\n".join(script)], stdout=output, stderr=subprocess.STDOUT, text=True
        )
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        pid = int(wait_for(lambda: children.read_text().split(), 10, "the container's init")[0])
        yield Container(image, service, process, pid, log)
    finally:
        # --kill-child takes all of its process namespace along, and its mounts.
        process.kill()
        process.wait(timeout=30)


def remove(folder: Path) -> None:
    """Remove what was built, but never through something that is still mounted in it."""
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    assert not [path for path in mounted if path.startswith(f"{folder}/")], mounted
    subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=True)
