"""Chunks of a stream do not overtake each other, however long each takes to be detokenized."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from raw import ask, connected, read
from support import CHECKPOINT, ROOT, Server, rounds, start_server, stop_server
from trireme_runtime.manifest import read_manifest, write_manifest

SIXTY = " ".join(str(number) for number in range(1, 61))

DELAY = """
import random, time

class Delayed(TritonPythonModel):
    def execute(self, requests):
        answers = []
        for request in requests:
            time.sleep(random.choice([0, 0, 0, 0.001, 0.01]))
            answers += super().execute([request])
        return answers

TritonPythonModel = Delayed
"""


@pytest.fixture
def delayed(tmp_path: Path) -> Iterator[Server]:
    """A server whose detokenization takes random times."""
    root = tmp_path / "checkout"
    for folder in ("model_repository", "ensembles"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CHECKPOINT, root / CHECKPOINT.relative_to(ROOT))
    version = root / "model_repository" / "postprocessing" / "1"
    model = version / "model.py"
    model.write_text(model.read_text() + DELAY)
    write_manifest(version, {key: value for key, value in read_manifest(version).items() if key != "files"})
    server = start_server(tmp_path, env={"TRIREME_ROOT": str(root)})
    yield server
    stop_server(server)


def test_streams_stay_in_order_when_their_chunks_take_random_times(delayed: Server) -> None:
    with connected(delayed.grpc) as raw:
        for _ in range(rounds(1, 10)):
            calls = [
                raw.start(
                    "ensemble",
                    text_input=ask("Count from 1 to 60."),
                    max_tokens=300,
                    stream=True,
                    return_num_output_tokens=True,
                )
                for _ in range(rounds(8, 24))
            ]
            for call in calls:
                answers = list(read(call))
                assert "".join(answer["text_output"][0] for answer in answers) == SIXTY
                counts = [int(answer["num_output_tokens"][0]) for answer in answers]
                assert counts == sorted(counts)
                assert answers[-1]["finish_reason"][0] == "stop"
