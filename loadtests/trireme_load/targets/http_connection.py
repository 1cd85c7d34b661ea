"""One HTTP connection that posts JSON and reads JSON or server-sent events."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError
from geventhttpclient.url import URL

from trireme_client import TriremeError, Unavailable

#: How long a connection may take.
_CONNECT_S = 10.0


class HttpConnection:
    """Kept open between requests. base: such as http://127.0.0.1:8000. timeout_s: between two reads."""

    def __init__(self, base: str, timeout_s: float, headers: Mapping[str, str] | None = None) -> None:
        self._base = base
        url = URL(base if "://" in base else f"http://{base}")
        self._client = HTTPClient.from_url(
            url,
            concurrency=1,
            connection_timeout=_CONNECT_S,
            network_timeout=timeout_s,
            headers={"Content-Type": "application/json", **(headers or {})},
        )
        self._path = url.path.rstrip("/")

    def post(self, path: str, body: Any) -> Any:
        """The response to a JSON body, its head read. Raises Unavailable if there is none."""
        return self.send("POST", path, json.dumps(body).encode())

    def send(self, method: str, path: str, body: bytes = b"") -> Any:
        """The response to any request, its head read. Raises Unavailable if there is none."""
        try:
            return self._client.request(method, self._path + path, body=body)
        except (OSError, HTTPConnectionClosed, HTTPParseError) as error:
            raise Unavailable(f"{self._base} does not answer: {error}") from None

    def read(self, response: Any) -> bytes:
        """The whole body. Raises Unavailable if it breaks off."""
        try:
            return bytes(response.read())
        except (OSError, HTTPConnectionClosed, HTTPParseError) as error:
            raise Unavailable(f"{self._base} broke off: {error}") from None
        finally:
            response.release()

    def events(self, response: Any) -> Iterator[bytes]:
        """The data of each server-sent event, as it comes. Raises Unavailable if the stream breaks off."""
        try:
            while line := response.readline(b"\n"):
                if line.startswith(b"data:"):
                    yield line[5:].strip()
        except (OSError, HTTPConnectionClosed, HTTPParseError) as error:
            raise Unavailable(f"{self._base} broke off: {error}") from None
        finally:
            response.release()

    def close(self) -> None:
        """Close it, what is under way included."""
        self._client.close()


def decoded(data: bytes) -> Any:
    """JSON that a server sent. Raises TriremeError for what is none."""
    try:
        return json.loads(data)
    except ValueError:
        raise TriremeError(f"the server sent no JSON: {data[:200]!r}") from None
