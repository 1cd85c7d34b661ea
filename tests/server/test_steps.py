"""Each model called by itself, with the contract's tensors."""

import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from support import Server, wait_for


def tensors(**values: Any) -> list[Any]:
    inputs = []
    for name, value in values.items():
        array = np.asarray(value)
        infer_input = grpcclient.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        infer_input.set_data_from_numpy(array)
        inputs.append(infer_input)
    return inputs


def texts(*values: str) -> Any:
    return np.array([[value.encode() for value in values]], dtype=object)


def ints(*values: int) -> Any:
    return np.array([values], dtype=np.int32)


@pytest.fixture
def triton(server: Server) -> Iterator[Any]:
    with grpcclient.InferenceServerClient(server.grpc) as connected:
        yield connected


class Streams:
    """Requests to the decoupled engine model over one gRPC stream, answers by request id."""

    def __init__(self, triton: Any) -> None:
        self._triton = triton
        self.answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        triton.start_stream(callback=lambda result, error: self.answers.put((result, error)))

    def send(self, request_id: str, **values: Any) -> None:
        self._triton.async_stream_infer(
            "tensorrt_llm", tensors(**values), request_id=request_id, enable_empty_final_response=True
        )

    def next(self) -> Any:
        result, error = self.answers.get(timeout=30)
        if error is not None:
            raise error
        return result


@pytest.fixture
def streams(triton: Any) -> Iterator[Streams]:
    opened = Streams(triton)
    yield opened
    triton.stop_stream(cancel_requests=True)


@pytest.fixture
def prompt(tokenizer: Any) -> Any:
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Count from 1 to 60."}], add_generation_prompt=True
    )
    return ints(*ids)


def test_preprocessing_tokenizes(triton: Any, tokenizer: Any) -> None:
    result = triton.infer("preprocessing", tensors(QUERY=texts("What is 1 + 1?")))
    expected = tokenizer.encode("What is 1 + 1?")
    assert result.as_numpy("INPUT_ID").tolist() == [expected]
    assert result.as_numpy("REQUEST_INPUT_LEN").tolist() == [[len(expected)]]


def test_postprocessing_detokenizes_whole_sequences(triton: Any, tokenizer: Any) -> None:
    ids = tokenizer.encode("你好 👋 Grüße", add_special_tokens=False)
    batch = np.array([[[*ids, 0, 0], [*ids[:3], *[0] * (len(ids) - 1)]]], dtype=np.int32)
    result = triton.infer("postprocessing", tensors(TOKENS_BATCH=batch, SEQUENCE_LENGTH=ints(len(ids), 3)))
    assert [text.decode() for text in result.as_numpy("OUTPUT")[0]] == ["你好 👋 Grüße", tokenizer.decode(ids[:3])]


@pytest.mark.parametrize("bad", [-1, 512])
def test_postprocessing_refuses_ids_outside_the_vocabulary(triton: Any, bad: int) -> None:
    with pytest.raises(InferenceServerException, match=rf"\[INVALID_ARGUMENT\] TOKENS_BATCH: id {bad}"):
        triton.infer("postprocessing", tensors(TOKENS_BATCH=ints(7, bad)[np.newaxis], SEQUENCE_LENGTH=ints(2)))


def test_the_engine_model_takes_ids_and_gives_ids(streams: Streams, prompt: Any, tokenizer: Any) -> None:
    streams.send("ids", input_ids=prompt, input_lengths=ints(prompt.size), request_output_len=ints(9))
    result = streams.next()
    ids = result.as_numpy("output_ids")
    assert ids.shape == (1, 1, 9)
    assert result.as_numpy("sequence_length").tolist() == [[9]]
    assert tokenizer.decode(ids[0, 0]) == "1 2 3 4 5"
    assert result.as_numpy("finish_reason")[0, 0] == b"length"


def test_stop_ends_the_request_of_the_same_id(streams: Streams, server: Server, prompt: Any) -> None:
    endless = {"request_output_len": ints(2000), "end_id": ints(-1), "streaming": np.array([[True]])}
    streams.send("mine", input_ids=prompt, **endless)
    streams.next()
    streams.send("mine", stop=np.array([[True]]))
    wait_for(lambda: server.metric("trireme_requests_running") == 0)
    reasons = []
    while not reasons or reasons[-1] != b"cancelled":
        reason = streams.next().as_numpy("finish_reason")
        if reason is not None:
            reasons.append(reason[0, 0])
    assert set(reasons[:-1]) <= {b""}


def test_stop_for_an_id_that_is_not_running_says_so(streams: Streams) -> None:
    streams.send("nobody", stop=np.array([[True]]))
    with pytest.raises(InferenceServerException, match=r"^\[NOT_FOUND\] stop: no request with the id 'nobody'"):
        streams.next()


def test_stop_is_refused_where_two_requests_have_the_id(server: Server, prompt: Any) -> None:
    endless = {"request_output_len": ints(2000), "end_id": ints(-1), "streaming": np.array([[True]])}
    with (
        grpcclient.InferenceServerClient(server.grpc) as first,
        grpcclient.InferenceServerClient(server.grpc) as second,
        grpcclient.InferenceServerClient(server.grpc) as third,
    ):
        users = [Streams(first), Streams(second)]
        for user in users:
            user.send("twice", input_ids=prompt, **endless)
            user.next()
        operator = Streams(third)
        operator.send("twice", stop=np.array([[True]]))
        with pytest.raises(InferenceServerException, match="2 requests with the id 'twice'"):
            operator.next()
        for connected in (first, second, third):
            connected.stop_stream(cancel_requests=True)
        wait_for(lambda: server.metric("trireme_requests_running") == 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_ids": ints(1, 600)}, "600"),
        ({"input_ids": ints(1, -1)}, "-1"),
        ({"input_lengths": ints(3)}, "input_lengths is 3"),
        ({"input_ids": np.ones((2, 4), np.int32), "request_output_len": np.ones((2, 1), np.int32)}, r"shape is \[2, "),
    ],
)
def test_bad_ids_are_refused(streams: Streams, changes: dict[str, Any], words: str) -> None:
    streams.send("bad", **{"input_ids": ints(1, 7), "request_output_len": ints(4), **changes})
    with pytest.raises(InferenceServerException, match=words):
        streams.next()
