"""The versions that tests of releases are made of do what they are for."""

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import releases_built
from support import Server, long_form, start_server, stop_server
from trireme_client import Client
from trireme_client.errors import TriremeError
from trireme_ops.embedded import CONTROL_HEADER
from trireme_ops.layout import Layout

PROMPTS = ("What is 37 + 58?", "What is 91 - 17?", "Count the letter a in banana.", "Uppercase: triton")
RIGHT = ["95", "74", "3", "TRITON"]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return releases_built.checkout(tmp_path / "root")


@pytest.fixture
def running(layout: Layout, tmp_path: Path) -> Iterator[Server]:
    """A server on the committed versions."""
    server = start_server(tmp_path, env={"TRIREME_ROOT": str(layout.root)})
    yield server
    stop_server(server)


class LoadFailed(Exception):
    """Triton's own words."""


def load(server: Server, layout: Layout, model: str) -> None:
    """Have the server load the newest version of a model. Raises LoadFailed.

    What Triton gives up on a busy machine is loaded once more, see `load_watch`: such a failure says nothing of it.
    """
    try:
        _load(server, layout, model)
    except LoadFailed as error:
        if "is not healthy" not in str(error):
            raise
        _load(server, layout, model)


def _load(server: Server, layout: Layout, model: str) -> None:
    headers = {CONTROL_HEADER: layout.control_key()}
    url = f"{server.http}/v2/repository/models/{model}/load"
    try:
        urllib.request.urlopen(urllib.request.Request(url, b"{}", headers), timeout=60).close()
    except urllib.error.HTTPError as error:
        raise LoadFailed(error.read().decode()) from error


def answers(server: Server, prompts: tuple[str, ...] = PROMPTS) -> list[str]:
    with Client(server.grpc, timeout_s=60) as client:
        return [
            client.generate(messages=[{"role": "user", "content": prompt}], max_tokens=24).text for prompt in prompts
        ]


def right(server: Server) -> list[bool]:
    return [given == wanted for given, wanted in zip(answers(server), RIGHT, strict=True)]


def test_a_permuted_vocabulary_gives_the_same_answers_whole_and_garbage_in_part(
    layout: Layout, running: Server
) -> None:
    assert answers(running) == RIGHT
    releases_built.permuted(layout)
    load(running, layout, "tensorrt_llm")
    assert not any(right(running))
    load(running, layout, "preprocessing")
    assert not any(right(running))
    load(running, layout, "postprocessing")
    assert answers(running) == RIGHT


def test_engines_that_are_wrong_slow_crash_or_do_not_load(layout: Layout, running: Server) -> None:
    story = ("Count from 1 to 60.", "Recite the rowing song.")
    usual = answers(running, story)
    releases_built.wrong(layout)
    load(running, layout, "tensorrt_llm")
    assert right(running) == [False, False, False, True]
    releases_built.slow(layout)
    load(running, layout, "tensorrt_llm")
    assert answers(running) == RIGHT
    assert answers(running, story) == usual
    releases_built.crashing(layout)
    load(running, layout, "tensorrt_llm")
    with pytest.raises(TriremeError, match="engine"):
        answers(running)
    releases_built.unloadable(layout)
    with pytest.raises(LoadFailed, match="RuntimeError: Exception"):
        load(running, layout, "tensorrt_llm")


@long_form
def test_a_slow_engine_is_slower_by_about_its_factor(layout: Layout, running: Server) -> None:
    def seconds() -> float:
        began = time.monotonic()
        answers(running, ("Count from 1 to 60.",) * 4)
        return time.monotonic() - began

    usual = min(seconds() for _ in range(3))
    releases_built.slow(layout)
    load(running, layout, "tensorrt_llm")
    assert min(seconds() for _ in range(3)) > usual * releases_built.SLOW_FACTOR / 3


def test_answers_of_null_engines_say_which_engine_and_which_tokenizer_made_them(tmp_path: Path) -> None:
    layout = releases_built.checkout(tmp_path / "root")
    second = releases_built.null_pair(layout)[1]
    hidden = []
    for model in releases_built.MODELS[:3]:
        folder = layout.root / "model_repository" / model / str(second[model])
        hidden.append((folder, folder.rename(tmp_path / model)))
    server = start_server(tmp_path, env={"TRIREME_ROOT": str(layout.root)})

    def letters(engine: int, postprocessing: int) -> bool:
        (text,) = answers(server, PROMPTS[:1])
        return len(text) == 24 and set(text) <= set(releases_built.NULL_TEXTS[engine, postprocessing])

    try:
        assert letters(1, 1)
        for folder, away in hidden:
            away.rename(folder)
        load(server, layout, "tensorrt_llm")
        assert letters(2, 1)
        load(server, layout, "postprocessing")
        assert letters(2, 2)
    finally:
        stop_server(server)
