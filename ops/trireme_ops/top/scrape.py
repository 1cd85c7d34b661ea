"""Asks servers what they do: HTTP with one deadline for the whole answer, and Prometheus' text format."""

import contextlib
import http.client
import json
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..embedded import CONTROL_HEADER
from ..errors import OperatorError
from ..releases.watch import Sample

#: The longest answer that is read, in bytes.
_MAX_BODY = 16 << 20

#: What is of interest at Triton's metrics port: Trireme's, what waits in Triton, and its GPUs.
TRITON = ("trireme_", "nv_inference_pending_request_count", "nv_gpu_")


class NoAnswer(Exception):
    """Why an endpoint did not answer, or not with what was asked for; in a few words."""


class Locked(NoAnswer):
    """It answers, to those with a key."""


@dataclass(frozen=True)
class Endpoint:
    """Where something answers. is_tls: over HTTPS, with a certificate that this machine trusts."""

    host: str
    port: int
    is_tls: bool = False

    @classmethod
    def parse(cls, what: str, text: str) -> "Endpoint":
        """Read HOST:PORT, or a URL with nothing but these. Raises OperatorError naming `what` and the value."""
        url = urlsplit(text if "://" in text else f"//{text}")
        try:
            host, port = url.hostname, url.port
        except ValueError:
            host, port = None, None
        if port is None and url.scheme in ("http", "https"):
            port = 443 if url.scheme == "https" else 80
        if not host or not port or url.scheme not in ("", "http", "https") or url.path not in ("", "/", "/v1"):
            raise OperatorError(f"{what} is {text!r}; HOST:PORT is needed, with a port of 1 to 65535")
        return cls(host, port, url.scheme == "https")

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def fetch(endpoint: Endpoint, path: str, timeout_s: float, headers: dict[str, str] | None = None) -> bytes:
    """The body of an answer of status 200 that is whole within `timeout_s`. Raises NoAnswer."""
    deadline = time.monotonic() + timeout_s
    if endpoint.is_tls:
        context = ssl.create_default_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            endpoint.host, endpoint.port, timeout=timeout_s, context=context
        )
    else:
        connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=timeout_s)
    answered = contextlib.ExitStack()
    try:
        connection.request("GET", path, headers={"Connection": "close", **(headers or {})})
        # The timeout is that of each read: one that sends a byte now and then would hold its reader for ever.
        raw = connection.sock
        response = answered.enter_context(contextlib.closing(connection.getresponse()))
        if response.status in (401, 403):
            raise Locked("it wants a key")
        if response.status != 200:
            raise NoAnswer(f"HTTP {response.status}")
        body = bytearray()
        while piece := response.read1(65_536):
            body += piece
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise NoAnswer(f"no whole answer within {timeout_s:g} s")
            if len(body) > _MAX_BODY:
                raise NoAnswer(f"an answer of more than {_MAX_BODY} bytes")
            if not response.isclosed():
                raw.settimeout(left_s)
        return bytes(body)
    except TimeoutError:
        raise NoAnswer(f"no answer within {timeout_s:g} s") from None
    except http.client.HTTPException as error:
        raise NoAnswer(f"no HTTP answer ({type(error).__name__})") from None
    except OSError as error:
        raise NoAnswer((error.strerror or str(error)).lower()) from None
    finally:
        answered.close()
        connection.close()


def metrics(
    endpoint: Endpoint, prefixes: tuple[str, ...], timeout_s: float, headers: dict[str, str] | None = None
) -> Sample:
    """What an endpoint counts, of the metrics that begin with `prefixes`. Raises NoAnswer."""
    text = fetch(endpoint, "/metrics", timeout_s, headers).decode("utf-8", "replace")
    try:
        sample = Sample.parse(text, prefixes)
    except OperatorError as error:
        raise NoAnswer(str(error)) from None
    if not sample.values:
        raise NoAnswer(f"its answer has no metric {prefixes[0]}*")
    return sample


def releases(health: Endpoint, key: str, timeout_s: float) -> dict[str, Any]:
    """What a supervisor says is live, by LLM. Raises NoAnswer, or Locked for a wrong key."""
    body = fetch(health, "/v2/trireme/releases", timeout_s, {CONTROL_HEADER: key})
    try:
        llms = json.loads(body)["llms"]
        return {str(name): served["live"] for name, served in llms.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NoAnswer("its releases are not understood") from None


def read_key(what: str, path: Path) -> str:
    """A key from a file. Raises OperatorError naming it."""
    try:
        key = path.expanduser().read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"{what}: {path} cannot be read: {error}") from None
    if not key.isprintable() or not key or " " in key:
        raise OperatorError(f"{what}: {path} holds no key in one line")
    return key
