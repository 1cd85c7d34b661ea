"""Ports on the loopback address."""

import socket

from .embedded import ADDRESS


def is_free(port: int, address: str = ADDRESS) -> bool:
    """Whether a server could listen on `port` of an address of this machine now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except (OSError, OverflowError):
            return False
    return True


def is_local(address: str) -> bool:
    """Whether this machine has the address."""
    return is_free(0, address)


def free_ports(count: int) -> list[int]:
    """`count` different ports that the system has to give."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((ADDRESS, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
