"""`trireme ask`: one question to a running server, the answer as it comes."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import grpc

from trireme_client import Client, Message, TriremeError
from trireme_client.wire import DEFAULT_MODEL, DEFAULT_URL

from .errors import OperatorError


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand."""
    parser = commands.add_parser("ask", help="ask a running server; the answer streams over gRPC")
    parser.add_argument("question", help="what to ask; - reads it from standard input")
    default_url = os.environ.get("TRIREME_URL", DEFAULT_URL)
    parser.add_argument("--url", default=default_url, help=f"gRPC endpoint (default: $TRIREME_URL, or {DEFAULT_URL})")
    parser.add_argument("--tls", action="store_true", help="the endpoint has TLS; trust whom gRPC trusts")
    parser.add_argument("--ca", type=Path, metavar="PEM", help="the endpoint has TLS; trust who is in this file")
    parser.add_argument("--model", default=DEFAULT_MODEL, help=f"default {DEFAULT_MODEL}")
    parser.add_argument("--system", help="a system message in front of the question")
    parser.add_argument("--raw", action="store_true", help="send the question as it is, without the chat template")
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--temperature", type=float, help="0, or nothing said: greedy")
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--stop", action="append", default=[], help="a stop string; may be given several times")
    parser.set_defaults(run=run)


def _fields(arguments: argparse.Namespace) -> dict[str, Any]:
    question = sys.stdin.read() if arguments.question == "-" else arguments.question
    if not question.strip():
        raise OperatorError("the question is empty")
    if any("\ud800" <= character <= "\udfff" for character in question):
        raise OperatorError("the question is no valid UTF-8")
    fields: dict[str, Any] = {"max_tokens": arguments.max_tokens, "stop": tuple(arguments.stop)}
    for name in ("temperature", "top_k", "top_p", "seed"):
        fields[name] = getattr(arguments, name)
    if arguments.raw:
        return {"prompt": question, **fields}
    messages = [Message(role="user", content=question)]
    if arguments.system is not None:
        messages.insert(0, Message(role="system", content=arguments.system))
    return {"messages": messages, **fields}


def _credentials(arguments: argparse.Namespace) -> grpc.ChannelCredentials | None:
    if arguments.ca is not None:
        if not arguments.ca.is_file():
            raise OperatorError(f"{arguments.ca}: no such file; --ca names it")
        return grpc.ssl_channel_credentials(arguments.ca.read_bytes())
    return grpc.ssl_channel_credentials() if arguments.tls else None


def run(arguments: argparse.Namespace) -> int:
    """Print the answer piece by piece; a note on stderr where it was cut short."""
    if not arguments.url or "://" in arguments.url:
        raise OperatorError(
            f"--url is {arguments.url!r}; HOST:PORT of the gRPC endpoint is needed, such as {DEFAULT_URL}"
        )
    try:
        with (
            Client(arguments.url, arguments.model, credentials=_credentials(arguments)) as client,
            client.stream(**_fields(arguments)) as stream,
        ):
            for delta in stream:
                print(delta.text, end="", flush=True)
            print()
            if stream.completion.finish_reason == "length":
                print(f"(cut at {stream.completion.num_output_tokens} tokens)", file=sys.stderr)
    except (TriremeError, ValueError) as error:
        if arguments.ca is None and not arguments.tls and "Socket closed" in str(error):
            raise OperatorError(f"{error}. Has {arguments.url} TLS? Then: --tls, or --ca PEM") from error
        hint = f" Is a server running at {arguments.url}? Type: make serve" if "onnect" in str(error) else ""
        raise OperatorError(f"{error}.{hint}" if hint else str(error)) from error
    return 0
