"""A network on which the rest of a request comes some time after its head."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

PREFACE_BYTES = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
FRAME_HEAD_BYTES = 9
HEADERS_FRAME = 1  # RFC 9113, section 6.2


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ConnectionResetError
        data += piece
    return data


def _pass_on_frames(client: socket.socket, server: socket.socket, behind_s: float) -> None:
    """What the client sends, with a pause behind the head of each request."""
    with suppress(OSError), closing(server):
        server.sendall(_exactly(client, PREFACE_BYTES))
        while True:
            head = _exactly(client, FRAME_HEAD_BYTES)
            server.sendall(head + _exactly(client, int.from_bytes(head[:3], "big")))
            if head[3] == HEADERS_FRAME:
                time.sleep(behind_s)


def _pass_on(server: socket.socket, client: socket.socket) -> None:
    with suppress(OSError), closing(client):
        while data := server.recv(65536):
            client.sendall(data)


@contextmanager
def slow_bodies(address: str, behind_s: float) -> Iterator[str]:
    """HOST:PORT that leads to a gRPC server at `address`; request bodies come `behind_s` seconds after their heads."""
    host, _, port = address.rpartition(":")

    def accept(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((host, int(port)))
                for connection in (client, server):
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for target, args in ((_pass_on_frames, (client, server, behind_s)), (_pass_on, (server, client))):
                    threading.Thread(target=target, args=args, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            # Closing alone would leave the thread in accept().
            listener.shutdown(socket.SHUT_RDWR)
