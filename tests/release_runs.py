"""A server with null engines, releases for it, and the `trireme release` command as operators run it."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from releases_built import CONTEXT_TOKENS, MODELS, NULL_TEXTS, checkout, null_pair
from support import TRIREME, Server, start_server, stop_server, wait_for
from trireme_build.publish import Candidate, publish
from trireme_client import Client, Generation, TriremeError
from trireme_ops.layout import Layout
from trireme_ops.releases.release import create, propose
from trireme_runtime.checkout import version_folders

#: What each of the two releases answers in.
TEXTS = {"r1": re.compile(f"[{NULL_TEXTS[1, 1]}]+"), "r2": re.compile(f"[{NULL_TEXTS[2, 2]}]+")}

#: Steps/s of the engines: 100 tokens take a second.
STEPS_PER_S = 100.0


def smoke_of(release: str, count: int = 8) -> tuple[dict[str, Any], ...]:
    """What a release has to answer."""
    return tuple(
        {"prompt": f"question {number}", "expect": TEXTS[release].pattern, "match": "regex", "max_tokens": 4}
        for number in range(count)
    )


def null_checkout(folder: Path, settings: Mapping[str, str] | None = None) -> Layout:
    """A checkout with the releases r1 and r2, and some that cannot go live.

    wrong: r2's versions, which are expected to answer as r1 does. unloadable: its engine's folder is no engine's.
    slow: r1's answers, at a tenth of its steps/s. hanging: its engine stops at the first request.
    settings: parameters of `tensorrt_llm`.
    """
    layout = checkout(folder, {"engine_hang_timeout_ms": "2500", **(settings or {})})
    first, second = null_pair(layout, STEPS_PER_S)
    versions = {"r1": first, "r2": second, "wrong": second}
    engine = layout.root / "model_repository" / "tensorrt_llm" / "1" / "engine"
    for name, changes in (("slow", {"steps_per_s": 8.0}), ("hanging", {"hang_after_steps": 0})):
        versions[name] = {**first, "tensorrt_llm": _publish(layout, name, engine, changes)}
    versions["unloadable"] = {**first, "tensorrt_llm": _publish(layout, "unloadable", engine, {"steps_per_s": "fast"})}
    for name, pinned in versions.items():
        smoke = smoke_of("r2" if name == "r2" else "r1")
        changes = {model: str(number) for model, number in pinned.items()}
        create(layout, propose(layout, name, changes=changes, smoke=smoke))
    return layout


def _publish(layout: Layout, name: str, engine: Path, changes: dict[str, Any]) -> int:
    """A version of the first null engine with another configuration."""
    folder = layout.root / name
    shutil.copytree(engine, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
    first = layout.root / "model_repository" / "tensorrt_llm" / "1"
    origin = {"recipe": f"test {name}", "engine": "null", "build": {"digest": name}}
    checkpoint = layout.root / "build" / "checkpoints" / "trireme-reference"
    candidate = Candidate(layout.root, "tensorrt_llm", "null", folder, checkpoint, CONTEXT_TOKENS, origin, True)
    assert version_folders(first.parent)
    return int(publish(candidate).folder.name)


@dataclass
class Operator:
    """Runs `trireme release` against one server, or a fleet."""

    layout: Layout
    target: Sequence[str]

    @property
    def environment(self) -> dict[str, str]:
        """Of its commands."""
        return {**os.environ, "TRIREME_ROOT": str(self.layout.root)}

    def run(self, act: str, *arguments: str, timeout_s: float = 120) -> "subprocess.CompletedProcess[str]":
        """Run to its end."""
        command = [str(TRIREME), "release", act, *arguments, *self.target]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def start(self, act: str, *arguments: str) -> "RunningAct":
        """Start; what it tells is read as it comes."""
        command = [str(TRIREME), "release", act, *arguments, *self.target, "--json"]
        process = subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        return RunningAct(process)

    def status(self, *arguments: str) -> list[dict[str, Any]]:
        """What is live, as programs read it."""
        done = self.run("status", "--json", *arguments)
        assert done.stdout, done.stderr
        found = json.loads(done.stdout)
        assert isinstance(found, list)
        return found

    def live(self) -> str:
        """The release that is live on the only server."""
        (server,) = self.status()
        (llm,) = server["llms"]
        return str(llm["live"])


@dataclass
class RunningAct:
    """A command that is under way, and the events that it told."""

    process: "subprocess.Popen[str]"
    events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def wait_for(self, step: str, kind: str, timeout_s: float = 90) -> None:
        """Until it has told of this."""

        def told() -> bool:
            if any(event.get("step") == step and event["kind"] == kind for event in self.events):
                return True
            assert self.process.poll() is None, (self.process.stderr.read() if self.process.stderr else "", self.events)
            return False

        wait_for(told, timeout_s, f"{kind} of {step}")

    def end(self, number: int = signal.SIGKILL) -> int:
        """Send it a signal, and wait for its end."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self, timeout_s: float = 120) -> int:
        """Its exit status."""
        status = self.process.wait(timeout=timeout_s)
        self._reader.join(timeout=10)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return status


@contextmanager
def null_server(
    folder: Path, layout: Layout, name: str = "test", ports: Mapping[str, str] | None = None
) -> Iterator[tuple[Server, Operator]]:
    """A server with r1 live if it never had another, and its operator. ports: by kind; any where none is named."""
    named = [word for kind, port in (ports or {}).items() for word in (f"--{kind}-port", port)]
    server = start_server(folder, "--release", "r1", "--name", name, *named, env={"TRIREME_ROOT": str(layout.root)})
    try:
        yield server, Operator(layout, ["--server", server.addresses["health"]])
    finally:
        stop_server(server)


@dataclass
class Seen:
    """What clients got while something was done: texts by kind, and errors."""

    texts: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def mixed(self) -> list[str]:
        """Answers that no release gives."""
        return [text for text in self.texts if not any(one.fullmatch(text) for one in TEXTS.values())]

    def answered_by(self, release: str) -> int:
        """How many came whole from a release."""
        return sum(1 for text in self.texts if TEXTS[release].fullmatch(text))


@contextmanager
def clients(address: str, streaming: int = 4, unary: int = 4, max_tokens: int = 30) -> Iterator[Seen]:
    """Ask all the time, from threads."""
    seen, ended = Seen(), threading.Event()

    def ask(streams: bool) -> None:
        with Client(address, timeout_s=60) as client:
            while not ended.is_set():
                generation = Generation(prompt="anything", max_tokens=max_tokens)
                try:
                    if streams:
                        with client.stream(generation) as stream:
                            seen.texts.append("".join(delta.text for delta in stream))
                    else:
                        seen.texts.append(client.generate(generation).text)
                except TriremeError as error:
                    seen.errors.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=ask, args=(number < streaming,)) for number in range(streaming + unary)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        ended.set()
        for thread in threads:
            thread.join(timeout=90)


__all__ = ["MODELS", "TEXTS", "Operator", "RunningAct", "Seen", "clients", "null_checkout", "null_server", "smoke_of"]
