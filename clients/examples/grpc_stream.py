"""Stream one answer over gRPC.

python clients/examples/grpc_stream.py [HOST:PORT]
"""

import sys

from trireme_client import Client

with (
    Client(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001") as client,
    client.stream(messages=[{"role": "user", "content": "Count from 1 to 60."}], max_tokens=300) as stream,
):
    for delta in stream:
        print(delta.text, end="", flush=True)
    answer = stream.completion
print(f"\n[{answer.finish_reason}: {answer.num_input_tokens} tokens in, {answer.num_output_tokens} out]")
