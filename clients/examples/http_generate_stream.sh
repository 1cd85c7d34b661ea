#!/bin/sh
# Stream an answer over HTTP: server-sent events, one JSON object each.
#   clients/examples/http_generate_stream.sh [http://HOST:PORT]
curl --silent --show-error --no-buffer "${1:-http://127.0.0.1:8000}/v2/models/ensemble/generate_stream" \
    --data '{"messages": "[{\"role\": \"user\", \"content\": \"Sort: 9 3 7 1\"}]", "max_tokens": 32, "stream": true}'
