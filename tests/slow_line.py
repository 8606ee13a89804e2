"""A line to a real server on which its answers take their time."""

import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress

CHUNK = 65536


class SlowLine:
    """Hands on what both ends of each connection send; what the server sends is `seconds` late."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.seconds = 0.0
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._ends: list[socket.socket] = [self._listener]
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(self._server)
                self._ends += [client, server]
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._hand_on, args=(source, target, source is server)).start()

    def _hand_on(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                time.sleep(self.seconds if is_answer else 0.0)
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Cut all connections."""
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._thread.join()


@contextmanager
def slow_line(server: tuple[str, int]) -> Generator[SlowLine]:
    """Give such a line for the length of the block."""
    line = SlowLine(server)
    try:
        yield line
    finally:
        line.close()
