"""What streams and requests leave behind in memory."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from raw import connected, infer_request
from support import Server, rounds, start_null_server, stop_server, wait_for

IDLE_STREAMS = 256

#: Of the requests of one stream, how many are under way at once.
UNDER_WAY = 4


@pytest.fixture(scope="module")
def null_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An engine without limit, and a queue for whatever comes."""
    settings = {"max_queue_size": "65536", "max_queue_tokens": "100000000", "max_queue_delay_ms": "3600000"}
    running = start_null_server(tmp_path_factory.mktemp("null"), 0, settings)
    yield running
    stop_server(running)


def resident_kib(server: Server) -> int:
    """Of all processes, pages that they share divided among them."""
    total = 0
    for pid in server.session():
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def ask(server: Server, count: int) -> None:
    """So many requests, on 8 streams, each with a few of them under way."""

    def run(share: int) -> None:
        room = threading.Semaphore(UNDER_WAY)

        def requests() -> Iterator[object]:
            for index in range(share):
                room.acquire()
                yield infer_request("ensemble", text_input=f"{index} x", max_tokens=8, end_id=-1, stream=True)

        with connected(server.grpc) as raw:
            ended = 0
            for answer in raw.stub.ModelStreamInfer(requests(), timeout=600):
                assert not answer.error_message, answer.error_message
                if any(tensor.name == "finish_reason" for tensor in answer.infer_response.outputs):
                    ended += 1
                    room.release()
            assert ended == share

    threads = [threading.Thread(target=run, args=(count // 8,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_idle_streams_cost_little(null_server: Server) -> None:
    ask(null_server, 800)
    before = resident_kib(null_server)
    idle = threading.Event()
    with connected(null_server.grpc) as raw:

        def nothing() -> Iterator[object]:
            idle.wait()
            yield from ()

        calls = [raw.stub.ModelStreamInfer(nothing()) for _ in range(IDLE_STREAMS)]
        # The server has them all when it answers on one that came later.
        ask(null_server, 8)
        cost_kib = resident_kib(null_server) - before
        idle.set()
        assert [list(call) for call in calls] == [[]] * IDLE_STREAMS
    print(f"{IDLE_STREAMS} idle streams cost {cost_kib} KiB")
    assert cost_kib < 64 * 1024


def test_requests_leave_nothing(null_server: Server) -> None:
    # The allocators' pools grow to their size first.
    ask(null_server, rounds(2000, 4000))
    before = resident_kib(null_server)
    ask(null_server, rounds(2000, 10_000))
    wait_for(lambda: null_server.metric("trireme_requests_running") == 0)
    after = resident_kib(null_server)
    print(f"{before} KiB before, {after} KiB after")
    assert after < 1.05 * before
