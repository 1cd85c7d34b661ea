"""Stream an answer with plain tritonclient: nothing of Trireme is imported, only the contract's tensors are sent.

python clients/examples/tritonclient_stream.py [HOST:PORT]
"""

import queue
import sys

import numpy as np
import tritonclient.grpc as grpcclient


def tensor(name: str, values: list, dtype: str) -> grpcclient.InferInput:
    array = np.array([values], dtype={"BYTES": object, "INT32": np.int32, "BOOL": bool}[dtype])
    infer_input = grpcclient.InferInput(name, array.shape, dtype)
    infer_input.set_data_from_numpy(array)
    return infer_input


inputs = [
    tensor("text_input", [b"<|user|>What is 37 + 58?<|assistant|>"], "BYTES"),
    tensor("max_tokens", [16], "INT32"),
    tensor("stream", [True], "BOOL"),
]
responses: queue.Queue = queue.Queue()
with grpcclient.InferenceServerClient(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001") as client:
    client.start_stream(callback=lambda result, error: responses.put((result, error)))
    client.async_stream_infer("ensemble", inputs, request_id="1", enable_empty_final_response=True)
    while True:
        result, error = responses.get(timeout=60)
        if error is not None:
            raise error
        text = result.as_numpy("text_output")
        if text is not None:
            print(text.flat[0].decode(), end="", flush=True)
        if result.get_response().parameters["triton_final_response"].bool_param:
            break
    client.stop_stream()
print()
