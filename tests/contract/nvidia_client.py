"""A client of NVIDIA's inflight_batcher_llm family, written from its tensor names alone.

    python nvidia_client.py HOST:PORT

Streams, stops at words, asks for several sequences and their log-probs, and cancels by request id. Ends with status 0
and the line "ok" if every answer is as the clients of that family expect it.
"""

import queue
import sys

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

PROMPT = "<|user|>Count from 1 to 60.<|assistant|>"
NUMBERS = " ".join(str(number) for number in range(1, 61))


def tensor(name, values):
    array = np.array(values)
    result = grpcclient.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    result.set_data_from_numpy(array)
    return result


def texts(*values):
    return np.array([[value.encode() for value in values]], dtype=object)


def number(value, dtype):
    return np.array([[value]], dtype=dtype)


def common_inputs(max_tokens, stream):
    """What the family's end-to-end client always sends."""
    return [
        tensor("text_input", texts(PROMPT)),
        tensor("max_tokens", number(max_tokens, np.int32)),
        tensor("bad_words", texts("")),
        tensor("stop_words", texts("")),
        tensor("stream", number(stream, bool)),
        tensor("beam_width", number(1, np.int32)),
        tensor("temperature", number(1.0, np.float32)),
        tensor("repetition_penalty", number(1.0, np.float32)),
        tensor("top_k", number(1, np.int32)),
        tensor("top_p", number(0.0, np.float32)),
        tensor("length_penalty", number(1.0, np.float32)),
        tensor("seed", number(0, np.uint64)),
        tensor("end_id", number(2, np.int32)),
        tensor("pad_id", number(2, np.int32)),
    ]


def replaced(inputs, **values):
    kept = [entry for entry in inputs if entry.name() not in values]
    return kept + [tensor(name, value) for name, value in values.items()]


class Session:
    """One bidirectional stream; answers in the order in which they come."""

    def __init__(self, url):
        self.answers = queue.Queue()
        self.client = grpcclient.InferenceServerClient(url)
        self.client.start_stream(callback=lambda result, error: self.answers.put((result, error)))

    def send(self, inputs, request_id, model="ensemble"):
        self.client.async_stream_infer(model, inputs, request_id=request_id, enable_empty_final_response=True)

    def next(self):
        result, error = self.answers.get(timeout=60)
        if error is not None:
            raise error
        return result, result.get_response().parameters["triton_final_response"].bool_param

    def all(self):
        results = []
        final = False
        while not final:
            result, final = self.next()
            if result.as_numpy("text_output") is not None or result.as_numpy("output_ids") is not None:
                results.append(result)
        return results

    def close(self):
        self.client.stop_stream()
        self.client.close()


def text_of(result):
    return result.as_numpy("text_output").reshape(-1)[0].decode()


def check(condition, what):
    if not condition:
        raise SystemExit(f"not as expected: {what}")


def main(url):
    session = Session(url)

    session.send(common_inputs(300, False), "1")
    results = session.all()
    check(len(results) == 1, "without streaming there is one response with tokens")
    check(text_of(results[0]) == NUMBERS, "the whole text")
    check(results[0].as_numpy("text_output").shape == (1, 1), "the shape of text_output")

    session.send(common_inputs(300, True), "2")
    results = session.all()
    check(len(results) > 5, "many responses while streaming")
    check("".join(map(text_of, results)) == NUMBERS, "deltas that join to the whole text")

    session.send(replaced(common_inputs(300, True), stop_words=texts("xyz", " 11", "12")), "3")
    check("".join(map(text_of, session.all())) == "1 2 3 4 5 6 7 8 9 10", "the text up to the stop word")

    session.send(replaced(common_inputs(300, False), bad_words=texts("5")), "4")
    check("5" not in text_of(session.all()[0]), "no bad word")

    several = {
        "num_return_sequences": number(3, np.int32),
        "return_log_probs": number(True, bool),
        "top_k": number(0, np.int32),
        "temperature": number(3.0, np.float32),
    }
    session.send(replaced(common_inputs(20, True), **several), "5")
    sequences = ["", "", ""]
    counts = [0, 0, 0]
    for result in session.all():
        index = result.as_numpy("sequence_index")[0, 0]
        sequences[index] += text_of(result)
        counts[index] += result.as_numpy("output_log_probs").shape[-1]
        check(result.as_numpy("batch_index")[0, 0] == 0, "batch_index")
        check(result.as_numpy("cum_log_probs").shape == (1, 1), "the shape of cum_log_probs")
    check(all(sequences), "a text for each sequence")
    check(all(count <= 20 for count in counts), "log-probs for the tokens of each sequence")

    session.send(replaced(common_inputs(20, False), return_log_probs=number(True, bool)), "6")
    (result,) = session.all()
    log_probs = result.as_numpy("output_log_probs")
    check(log_probs.shape == (1, 1, 20), "the shape of output_log_probs")
    check(abs(log_probs.sum() - result.as_numpy("cum_log_probs")[0, 0]) < 1e-3, "cum_log_probs is their sum")

    session.send(replaced(common_inputs(12, False), beam_width=number(3, np.int32)), "7")
    check(session.all()[0].as_numpy("text_output").shape == (1, 3), "a text for each beam")

    echo = replaced(common_inputs(300, False), exclude_input_in_output=number(False, bool))
    session.send(echo, "8")
    check(text_of(session.all()[0]).endswith(NUMBERS), "the prompt in front")

    # Cancellation: the same request id with stop = true, to the engine model.
    session.send(replaced(common_inputs(2000, True), end_id=number(-1, np.int32)), "cancelled")
    session.next()
    stopper = Session(url)
    stopper.send([tensor("stop", number(True, bool))], "cancelled", model="tensorrt_llm")
    check(stopper.all() == [], "an empty response to stop")
    stopper.close()
    check(len(session.all()) < 1500, "an end before max_tokens")

    session.send(replaced(common_inputs(8, False), temperature=number(-1.0, np.float32)), "9")
    try:
        session.next()
    except InferenceServerException as error:
        check("temperature" in str(error), "an error that names the tensor")
    else:
        raise SystemExit("not as expected: an error for a negative temperature")
    session.close()
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1])
