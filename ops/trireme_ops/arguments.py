"""Arguments that several subcommands share."""

import argparse
import ipaddress

from .embedded import ADDRESS, Ports


def port(text: str) -> int:
    """A port number, 0 for one that the system chooses. Raises ArgumentTypeError naming the value."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; allowed is 0 to 65535")
    return int(text)


def add_port_arguments(parser: argparse.ArgumentParser) -> None:
    """--http-port, --grpc-port, --metrics-port and --health-port."""
    for name, default in (("http", 8000), ("grpc", 8001), ("metrics", 8002), ("health", 8003)):
        parser.add_argument(
            f"--{name}-port", type=port, default=default, metavar="PORT", help=f"default {default}; 0: any free one"
        )


def ports_of(arguments: argparse.Namespace) -> Ports:
    """The ports as given, zeros included, and the address if there is an option for it."""
    numbers = arguments.http_port, arguments.grpc_port, arguments.metrics_port, arguments.health_port
    return Ports(*numbers, address=getattr(arguments, "address", ADDRESS))


def address(text: str) -> str:
    """An IPv4 address to listen on. Raises ArgumentTypeError naming the value."""
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no IPv4 address; 0.0.0.0 is every one of this host") from None


def seconds(text: str) -> float:
    """How long to measure. Raises argparse.ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.5 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are 0.5 to 3600 seconds")
    return value


def standstill(text: str) -> float:
    """For how long something may stand still, in seconds; inf for ever. Raises argparse.ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value >= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are seconds from 1, and inf")
    return value


def count(text: str) -> int:
    """A whole number from 1. Raises argparse.ArgumentTypeError."""
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 1 to 100000 is needed")
    return int(text)
