"""One answer over HTTP with nothing but the standard library.

python clients/examples/http_generate.py [http://HOST:PORT]
"""

import json
import sys
import urllib.request

base = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
body = {
    "messages": json.dumps([{"role": "user", "content": "Reverse: stream"}]),
    "max_tokens": 32,
}
request = urllib.request.Request(f"{base}/v2/models/ensemble/generate", data=json.dumps(body).encode())
with urllib.request.urlopen(request) as response:
    answer = json.load(response)
print(answer["text_output"])
