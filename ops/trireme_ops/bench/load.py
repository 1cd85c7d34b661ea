"""The load generator, a process of its own: streams in a closed loop, counted as cheaply as Python can.

    python -m trireme_ops.bench.load < LOAD_AS_JSON > RESULT_AS_JSON

Messages are not parsed as they come: they are counted and timed, and of each answer the last one is parsed. The tokens
of answers that were under way at the ends of the measured time follow from the number of their messages.
"""

import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor

_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"

#: What only the last message of an answer of `ensemble` holds, and how a message with an error begins: with the first
#: field of ModelStreamInferResponse.
_LAST, _ERROR = b"finish_reason", b"\n"


#: How many gRPC streams the requests of an open loop go out on, in turns.
OPEN_STREAMS = 32


@dataclass(frozen=True)
class Load:
    """`concurrency` streams, each of which asks `model` for `max_tokens` again and again.

    Measured for `seconds` after `warm_up_s`. prompt: the text; a number is put in front, so that no two are equal.
    stream: whether pieces are wanted as they come. outputs: those that are asked for, all where none is named. With
    rate_per_s, an open loop of so many requests; with pause_s, a stream waits so long before it asks again. With
    keep_streams, each gRPC stream serves one request of `ensemble` after the other, as those of `tritonclient` do; else
    each request has one of its own.
    """

    address: str
    model: str
    concurrency: int
    max_tokens: int
    seconds: float
    warm_up_s: float = 1.0
    rate_per_s: float = 0.0
    pause_s: float = 0.0
    keep_streams: bool = False
    stream: bool = True
    prompt: str = "Tell me something."
    outputs: tuple[str, ...] = ()


@dataclass
class Result:
    """What was measured. Times in ms: to the first message of an answer, and between two messages of one."""

    seconds: float
    tokens: float
    messages: int
    requests: int
    generator_cpu_s: float
    refused: int = 0
    ttft_ms: list[float] = field(default_factory=list)
    refusal_ms: list[float] = field(default_factory=list)
    gaps_ms: list[float] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        """Streamed tokens."""
        return self.tokens / self.seconds


def quantile(values: list[float], share: float) -> float:
    """The value that `share` of the values do not exceed; NaN of none."""
    return float(np.quantile(values, share)) if values else float("nan")


def prompt_of(load: Load, number: int) -> str:
    """The prompt of the request with this number."""
    return f"{number} {load.prompt}"


def request_of(load: Load, number: int) -> bytes:
    """A serialized request."""
    request = service_pb2.ModelInferRequest(model_name=load.model)
    text = np.array([[prompt_of(load, number).encode()]], dtype=object)
    for name, dtype, raw in (
        ("text_input", "BYTES", serialize_byte_tensor(text).item()),
        ("max_tokens", "INT32", np.int32(load.max_tokens).tobytes()),
        ("end_id", "INT32", np.int32(-1).tobytes()),
        ("stream", "BOOL", bytes([load.stream])),
    ):
        request.inputs.add(name=name, datatype=dtype, shape=[1, 1])
        request.raw_input_contents.append(raw)
    for name in load.outputs:
        request.outputs.add(name=name)
    return bytes(request.SerializeToString())


def tokens_in(message: bytes, messages: int) -> int:
    """How many tokens an answer has, by its last message; without counts each message holds one."""
    response = service_pb2.ModelStreamInferResponse.FromString(message)
    if response.error_message:
        raise RuntimeError(response.error_message)
    for tensor, raw in zip(response.infer_response.outputs, response.infer_response.raw_output_contents, strict=True):
        if tensor.name == "num_output_tokens":
            return int.from_bytes(raw, "little")
    return messages


class _Stream:
    """One of the streams: what came of the answer that is under way."""

    def __init__(self) -> None:
        self.message = b""
        self.messages = 0


class _Meter:
    """Counts while `measuring`."""

    def __init__(self) -> None:
        self.measuring = False
        self.messages = 0
        self.requests = 0
        self.messages_of_answers: list[int] = []
        self.ttft_s: list[float] = []
        self.gaps_s: list[float] = []


async def _ask(call: Any, kept: Any, request: bytes, stream: _Stream, meter: _Meter) -> None:
    """One request, on the gRPC stream `kept` or one of its own."""
    began = last = time.perf_counter()
    responses = kept or call()
    await responses.write(request)
    if kept is None:
        await responses.done_writing()
    stream.messages, stream.message = 0, b""
    while kept is None or not (_LAST in stream.message or stream.message.startswith(_ERROR)):
        message = await responses.read()
        if message is grpc.aio.EOF:  # type: ignore[attr-defined]
            break
        now = time.perf_counter()
        stream.message = message
        stream.messages += 1
        if meter.measuring:
            meter.messages += 1
            if stream.messages == 1:
                meter.ttft_s.append(now - began)
            else:
                meter.gaps_s.append(now - last)
        last = now


async def run(load: Load) -> Result:
    """Put the load on. Raises RuntimeError where an answer is an error."""
    meter = _Meter()
    streams = [_Stream() for _ in range(load.concurrency)]
    async with grpc.aio.insecure_channel(load.address) as channel:
        call: Any = channel.stream_stream(_METHOD, None, None)

        async def worker(index: int) -> None:
            number = index
            kept = call() if load.keep_streams else None
            while True:
                await _ask(call, kept, request_of(load, number), streams[index], meter)
                if tokens_in(streams[index].message, streams[index].messages) != load.max_tokens:
                    raise RuntimeError(f"an answer has not {load.max_tokens} tokens")
                number += load.concurrency
                meter.requests += meter.measuring
                meter.messages_of_answers.append(streams[index].messages)
                streams[index].messages = 0
                if load.pause_s:
                    await asyncio.sleep(load.pause_s)

        def under_way() -> int:
            return sum(stream.messages for stream in streams)

        workers = [asyncio.create_task(worker(index)) for index in range(load.concurrency)]
        window = await measured(workers, meter, under_way, load.warm_up_s, load.seconds)
    # Of answers that are under way, only the messages are known.
    answers = meter.messages_of_answers or [load.max_tokens]
    per_message = load.max_tokens * len(answers) / sum(answers)
    tokens = meter.requests * load.max_tokens + per_message * window.growth
    return Result(
        seconds=window.seconds,
        tokens=tokens,
        messages=meter.messages,
        requests=meter.requests,
        generator_cpu_s=window.cpu_s,
        ttft_ms=[1000 * value for value in meter.ttft_s],
        gaps_ms=[1000 * value for value in meter.gaps_s],
    )


@dataclass(frozen=True)
class Window:
    """The measured time, in s; processor time of this process meanwhile; and by how much what was under way grew."""

    seconds: float
    cpu_s: float
    growth: int


class Measuring(Protocol):
    """Counts while `measuring`."""

    measuring: bool


async def measured(
    workers: "list[asyncio.Task[None]]",
    meter: Measuring,
    under_way: Callable[[], int],
    warm_up_s: float,
    seconds: float,
) -> Window:
    """Let workers run, measure after they are warm, and end them. Raises what one of them raised."""
    await _for(warm_up_s, workers)
    before, cpu_before, began = under_way(), cpu_s(), time.perf_counter()
    meter.measuring = True
    await _for(seconds, workers)
    meter.measuring = False
    window = Window(time.perf_counter() - began, cpu_s() - cpu_before, under_way() - before)
    for task in workers:
        task.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    return window


class _Open:
    """An open loop's requests, told apart by their ids on the streams that they share."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self.result = Result(load.seconds, 0, 0, 0, 0.0)
        self.began = time.perf_counter()
        self.sent: dict[str, float] = {}
        self._first: set[str] = set()
        self.ended = asyncio.Condition()

    async def read(self, responses: Any) -> None:
        """Take in what comes on a stream, until it is cancelled. Raises RuntimeError for an error but a refusal."""
        while (message := await responses.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
            now = time.perf_counter()
            response = service_pb2.ModelStreamInferResponse.FromString(message)
            key = response.infer_response.id
            refused = "RESOURCE_EXHAUSTED" in response.error_message
            if response.error_message and not refused:
                raise RuntimeError(response.error_message)
            if key not in self._first:
                self._first.add(key)
                self._count(self.sent[key], now, refused)
            if refused or _LAST in message:
                async with self.ended:
                    self._first.discard(key)
                    del self.sent[key]
                    self.ended.notify()

    def _count(self, sent: float, now: float, refused: bool) -> None:
        start = self.began + self._load.warm_up_s
        if not start <= sent < start + self._load.seconds:
            return
        if refused:
            self.result.refused += 1
            self.result.refusal_ms.append(1000 * (now - sent))
        else:
            self.result.requests += 1
            self.result.tokens += self._load.max_tokens
            self.result.ttft_ms.append(1000 * (now - sent))


async def run_open(load: Load) -> Result:
    """Put the load on at a rate, however many answers are under way. Refusals are counted."""
    async with grpc.aio.insecure_channel(load.address) as channel:
        call: Any = channel.stream_stream(_METHOD, None, None)
        streams: list[Any] = [call() for _ in range(OPEN_STREAMS)]
        bodies = [request_of(load, number) for number in range(256)]
        loop, cpu_before = _Open(load), cpu_s()
        readers = [asyncio.create_task(loop.read(stream)) for stream in streams]
        for number in range(int(load.rate_per_s * (load.warm_up_s + load.seconds))):
            await asyncio.sleep(max(0.0, loop.began + number / load.rate_per_s - time.perf_counter()))
            key = str(number)
            loop.sent[key] = time.perf_counter()
            # Messages of protobuf can be joined: what is set in the second one is added to the first.
            body = bodies[number % len(bodies)] + service_pb2.ModelInferRequest(id=key).SerializeToString()
            await streams[number % len(streams)].write(body)
            for reader in readers:
                if reader.done():
                    reader.result()
        async with loop.ended:
            await asyncio.wait_for(loop.ended.wait_for(lambda: not loop.sent), timeout=120)
        loop.result.generator_cpu_s = cpu_s() - cpu_before
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    return loop.result


async def _for(seconds: float, workers: "list[asyncio.Task[None]]") -> None:
    """Wait; raises what a worker raised."""
    done, _ = await asyncio.wait(workers, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()


def cpu_s() -> float:
    """Processor time of this process, in s."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    load = Load(**json.load(sys.stdin))
    json.dump(asdict(asyncio.run(run_open(load) if load.rate_per_s else run(load))), sys.stdout)


if __name__ == "__main__":
    main()
