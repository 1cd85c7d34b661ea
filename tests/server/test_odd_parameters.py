"""Random combinations of legal, odd and extreme parameters: each is answered or refused, and the server goes on."""

import random
from collections import Counter
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

from support import Server, rounds, wait_for
from trireme_client import Client

POOLS: dict[str, tuple[Any, list[float]]] = {
    "temperature": (np.float32, [0, 1e-30, 1e-4, 0.5, 1, 5, 1e9, 3e38]),
    "top_p": (np.float32, [0, 1e-9, 0.5, 1]),
    "top_k": (np.int32, [0, 1, 2, 511, 512, 10**9]),
    "seed": (np.uint64, [0, 1, 2**63, 2**64 - 1]),
    "repetition_penalty": (np.float32, [1e-6, 0.5, 1, 1.5, 1e30]),
    "presence_penalty": (np.float32, [-2, 0, 2]),
    "frequency_penalty": (np.float32, [-2, 0, 2]),
    "min_tokens": (np.int32, [0, 1, 5, 3000]),
    "end_id": (np.int32, [-7, -1, 0, 2, 511, 2**31 - 1]),
    "ignore_eos": (np.bool_, [0, 1]),
    "stream": (np.bool_, [0, 1]),
    "exclude_input_in_output": (np.bool_, [0, 1]),
}
DTYPES = {np.float32: "FP32", np.int32: "INT32", np.uint64: "UINT64", np.bool_: "BOOL"}
PROMPTS = (b"x", b"<|user|>Count from 1 to 60.<|assistant|>", b"y" * 2040, "你好 👋".encode() * 20)


def random_request(rng: random.Random) -> Any:
    request = service_pb2.ModelInferRequest(model_name="ensemble")

    def add(name: str, dtype: str, count: int, raw: bytes) -> None:
        request.inputs.add(name=name, datatype=dtype, shape=[1, count])
        request.raw_input_contents.append(raw)

    def add_texts(name: str, texts: list[bytes]) -> None:
        add(name, "BYTES", len(texts), serialize_byte_tensor(np.array([texts], dtype=object)).item())

    add_texts("text_input", [rng.choice(PROMPTS)])
    add("max_tokens", "INT32", 1, np.array([[rng.choice([1, 2, 20])]], np.int32).tobytes())
    for name, (kind, values) in POOLS.items():
        if rng.random() < 0.35:
            add(name, DTYPES[kind], 1, np.array([[rng.choice(values)]]).astype(kind).tobytes())
    if rng.random() < 0.3:
        words = [b"", b"a", b"1 2", b" " * 50, "你".encode()]
        add_texts("stop_words", [rng.choice(words) for _ in range(rng.randint(1, 5))])
    return request


@pytest.mark.alone
def test_every_request_is_answered_or_refused_and_the_server_goes_on(server: Server) -> None:
    rng = random.Random(5)
    outcomes: Counter[str] = Counter()
    with grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for _ in range(rounds(8, 100)):
            calls = [stub.ModelStreamInfer(iter([random_request(rng)]), timeout=120) for _ in range(24)]
            for call in calls:
                responses = list(call)
                message = "".join(response.error_message for response in responses)
                assert not message or "[INVALID_ARGUMENT] " in message, message
                outcomes["refused" if message else "answered"] += 1
    assert outcomes["answered"] > 50
    assert outcomes["refused"] > 20
    with Client(server.grpc, timeout_s=30) as client:
        assert client.generate(prompt="<|user|>Reverse: abc<|assistant|>", max_tokens=8).text == "cba"
    wait_for(lambda: server.metric("trireme_requests_running") == 0)
