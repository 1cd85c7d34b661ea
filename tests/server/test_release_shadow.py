"""A share of the live traffic, asked of another release as well, on a real server with three releases loaded."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raw import connected
from support import ROOT, Server, start_server, stop_server, wait_for
from trireme_client import Client, Generation
from trireme_ops.at_rest import wait_for_rest
from trireme_ops.bench.root import NullModel, copy_repositories, use_null_engine
from trireme_ops.errors import OperatorError
from trireme_ops.layout import Layout
from trireme_ops.processes import shm_prefix
from trireme_ops.releases.shadow import Shadow
from trireme_runtime.tap import tap_path
from views import LLM, HandMade, make_view

TOKENIZER = ROOT / "model_repository" / "preprocessing" / "1" / "tokenizer"

REQUESTS = 100


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """r6 is live, r7 has the same engine, and r8 one that answers otherwise."""
    folder = tmp_path_factory.mktemp("shadow")
    releases = {}
    for name, seed in (("r6", 0), ("r7", 0), ("r8", 1)):
        store = copy_repositories(Layout(ROOT), folder / name, {})
        use_null_engine(store, replace(NullModel.of_tokenizer(TOKENIZER, steps_per_s=500), seed=seed))
        releases[name] = HandMade(store)
    root = make_view(folder / "root", releases, "r6")
    running = start_server(folder, env={"TRIREME_ROOT": str(root.root)})
    yield running
    stop_server(running)
    assert not running.regions()


Started = Callable[..., Shadow]


@pytest.fixture
def shadow_of(server: Server) -> Iterator[Started]:
    """Starts a shadow of r6; it is stopped in the end."""
    started: list[Shadow] = []

    def start(release: str, **settings: Any) -> Shadow:
        options = {"fraction": 1.0, "concurrency": REQUESTS, **settings}
        shadow = Shadow(
            shm_prefix=shm_prefix(server.addresses["pid"]),
            address=server.grpc,
            llm=LLM,
            live="r6",
            release=release,
            tokenizer=TOKENIZER,
            **options,
        )
        started.append(shadow)
        return shadow.start()

    yield start
    for shadow in started:
        shadow.stop()


def until_tapped(server: Server, shadow: Shadow) -> int:
    """Ask until the tap is seen; how many requests were chosen."""
    with Client(server.grpc, timeout_s=30) as client:

        def seen() -> bool:
            client.generate(prompt="is it there?", max_tokens=1)
            return bool(shadow.report()["requests"]["compared"])

        wait_for(seen)

    def under_way_and_chosen() -> tuple[float, float]:
        requests = shadow.report()["requests"]
        return requests["under_way"], requests["chosen"]

    # The tap tells of a request a moment after its answer.
    assert wait_for_rest(under_way_and_chosen, 30, lambda: True)
    return int(shadow.report()["requests"]["chosen"])


def kinds(index: int) -> Generation:
    """Streams with and without sampling, chats and plain prompts, stop strings, answers to the end."""
    prompt = f"Grüße 你好 {index}"
    return (
        Generation(prompt=prompt, max_tokens=20),
        Generation(messages=[{"role": "user", "content": prompt}], max_tokens=12),
        Generation(prompt=prompt, max_tokens=20, temperature=0.8, seed=index),
        Generation(prompt=prompt, max_tokens=30, stop=("e",), echo=True),
        Generation(prompt=prompt, max_tokens=20, end_id=-1),
    )[index % 5]


def ask_all(server: Server, made: Callable[[int], Generation] = kinds) -> None:
    with Client(server.grpc, timeout_s=60) as client, ThreadPoolExecutor(16) as pool:

        def one(index: int) -> None:
            if index % 2:
                assert client.generate(made(index)).finish_reason
            else:
                assert list(client.stream(made(index)))

        list(pool.map(one, range(REQUESTS)))


def finished(shadow: Shadow, chosen: int) -> dict[str, Any]:
    """The report once all that was chosen is compared."""

    def all_compared() -> bool:
        requests = shadow.report()["requests"]
        return bool(requests["compared"] == requests["chosen"] == chosen)

    wait_for(all_compared, what=f"{chosen} compared: {shadow.report()}")
    report = shadow.stop()
    json.dumps(report)
    return report


def test_a_release_with_the_same_engine_gives_the_same_answers(server: Server, shadow_of: Started) -> None:
    shadow = shadow_of("r7", show_texts=True)
    before = until_tapped(server, shadow)
    ask_all(server)
    report = finished(shadow, before + REQUESTS)
    requests, answers = report["requests"], report["answers"]
    assert requests == {
        "chosen": before + REQUESTS,
        "replayed": before + REQUESTS,
        "compared": before + REQUESTS,
        "under_way": 0,
        "cancelled": 0,
        "unfinished": 0,
        "left_out": {},
        "dropped": 0,
        "busy": 0,
    }
    assert answers == {"compared": before + REQUESTS, "equal": before + REQUESTS, "different": 0}
    assert report["errors"] == {"live": {}, "shadow": {}}
    assert all(len(set(pair.split("/"))) == 1 for pair in report["finish_reasons"])
    assert report["tokens"]["live"] == report["tokens"]["shadow"]
    assert report["examples"] == []
    for name in ("ttft_s", "total_s"):
        # Of an answer that a stop string ended, the engine does not tell.
        assert before + REQUESTS * 4 // 5 <= report[name]["pairs"] <= before + REQUESTS
        for side in ("live", "shadow"):
            assert 0 < report[name][side]["p50"] <= report[name][side]["p90"] <= report[name][side]["p99"]


def test_a_release_with_another_engine_differs(server: Server, shadow_of: Started) -> None:
    shadow = shadow_of("r8", show_texts=True)
    before = until_tapped(server, shadow)
    ask_all(server, lambda index: Generation(prompt=f"secret {index}", max_tokens=20))
    report = finished(shadow, before + REQUESTS)
    assert report["answers"]["different"] >= REQUESTS
    assert len(report["examples"]) == 5
    assert all(example["live"] != example["shadow"] for example in report["examples"])


def test_a_report_has_no_texts_unless_asked_for(server: Server, shadow_of: Started) -> None:
    shadow = shadow_of("r8")
    before = until_tapped(server, shadow)
    with Client(server.grpc, timeout_s=30) as client:
        text = client.generate(prompt="a secret", max_tokens=40).text
    report = json.dumps(finished(shadow, before + 1), ensure_ascii=False)
    assert "secret" not in report
    assert text[:8] not in report


def test_what_cannot_be_compared_is_told(server: Server, shadow_of: Started) -> None:
    shadow = shadow_of("r7")
    before = until_tapped(server, shadow)
    with Client(server.grpc, timeout_s=30) as client:
        # Sampled without a seed: its latency alone is compared.
        client.generate(prompt="x", max_tokens=5, temperature=1.0)
        client.generate(prompt="x", max_tokens=5, n=2)
        stream = client.stream(prompt="x", max_tokens=5000, end_id=-1)
        next(stream)
        stream.close()
    wait_for(lambda: shadow.report()["requests"]["cancelled"])
    with connected(server.grpc) as raw:
        # Ids that are no text: "ab" is one token of its own, or is not what a prompt of it is made of.
        raw.one("tensorrt_llm", input_ids=[300, 2, 301, 77, 1], request_output_len=2)
    wait_for(lambda: shadow.report()["requests"]["left_out"].get("prompt"))
    wait_for(lambda: shadow.report()["requests"]["compared"] == before + 1)
    report = shadow.stop()
    assert report["requests"]["chosen"] == before + 4
    assert report["requests"]["left_out"] == {"several sequences": 1, "prompt": 1}
    assert report["requests"]["cancelled"] == 1
    assert report["answers"]["compared"] == before
    assert report["total_s"]["pairs"] == before + 1
    wait_for(lambda: server.metric("trireme_requests_running") == 0)


def test_errors_are_told_by_code(server: Server, shadow_of: Started) -> None:
    shadow = shadow_of("r9")
    with Client(server.grpc, timeout_s=30) as client:

        def told() -> Any:
            client.generate(prompt="x", max_tokens=2)
            return shadow.report()["errors"]["shadow"]

        wait_for(told)
    assert shadow.report()["errors"]["shadow"].keys() <= {"NOT_FOUND", "INVALID_ARGUMENT", "UNAVAILABLE"}


def test_what_the_tried_release_cannot_keep_up_with_is_not_asked(server: Server, shadow_of: Started) -> None:
    shadow = shadow_of("r7", concurrency=2)
    before = until_tapped(server, shadow)
    ask_all(server, lambda _: Generation(prompt="x", max_tokens=100))

    def all_told() -> bool:
        """What was chosen is known before each of it has come."""
        seen = shadow.report()["requests"]
        return seen["chosen"] == before + REQUESTS and not seen["under_way"] and told(seen) == seen["chosen"]

    def told(requests: dict[str, Any]) -> int:
        return int(requests["replayed"] + requests["busy"] + requests["dropped"])

    wait_for(all_told)
    requests = shadow.stop()["requests"]
    assert requests["busy"] > 0
    assert told(requests) == requests["chosen"]
    assert requests["compared"] == requests["replayed"]


def test_only_one_shadow_at_a_time_and_nothing_is_left_of_it(server: Server, shadow_of: Started) -> None:
    shadow = shadow_of("r7")
    path = tap_path(shm_prefix(server.addresses["pid"]), "tensorrt_llm@r6")
    address = Path(json.loads(path.read_text())["socket"])
    assert (path.stat().st_mode & 0o777, address.stat().st_mode & 0o777) == (0o600, 0o600)
    assert address.parent.stat().st_mode & 0o777 == 0o700
    with pytest.raises(OperatorError, match="copied already"):
        shadow_of("r8")
    assert path.exists()
    shadow.stop()
    assert not path.exists()
    assert not address.parent.exists()
    assert not any(thread.name == "shadow" for thread in threading.enumerate())
