"""A real redis-server of the tests' own, alone or with others; it can be stopped, frozen and restarted.

`APPGUARD_REDIS_SERVER` names another program than the installed one, as `scripts/redis-servers` prints them.
"""

import os
import signal
import socket
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.lab import Process, free_port, wait_until

PROGRAM = os.environ.get("APPGUARD_REDIS_SERVER", "redis-server")


class RedisServer:
    """One server; without `options` that say otherwise its data are gone when it ends.

    `sentinel` is the configuration that makes it a Sentinel.
    """

    def __init__(
        self,
        directory: Path,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        options: Sequence[str] = (),
        sentinel: str = "",
    ) -> None:
        self._directory = directory
        self.address = address
        self.port = port or free_port(address)
        self.uri = f"redis://{address}:{self.port}/0"
        self._options = options
        self._sentinel = sentinel
        self._process: Process | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        arguments = ["--port", str(self.port), "--bind", self.address, "--save", "", "--appendonly", "no"]
        arguments += ["--protected-mode", "no", "--dir", str(self._directory), *self._options]
        if self._sentinel:
            file = self._directory / f"{self.port}.conf"
            file.write_text(f"port {self.port}\nbind {self.address}\n{self._sentinel}")
            arguments = [str(file), "--sentinel"]
        self._process = Process("redis-server", [PROGRAM, *arguments])
        wait_until(self.is_up, 10, self._process.output)

    def is_up(self) -> bool:
        """Say whether it answers, be it only that it wants a password."""
        return self.command("PING")[:5] in (b"+PONG", b"-NOAU")

    def command(self, *words: str) -> bytes:
        """Send one command on a connection of its own; give the reply as it comes, empty if nobody answers."""
        try:
            with socket.create_connection((self.address, self.port), 2) as connection:
                parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
                connection.sendall(f"*{len(parts)}\r\n{''.join(parts)}".encode())
                return connection.recv(65536)
        except OSError:
            return b""

    def freeze(self) -> None:
        """Let it accept and never answer."""
        assert self._process is not None
        self._process.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it answer again."""
        assert self._process is not None
        self._process.send(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.send(signal.SIGKILL)
            self._process.wait()
            self._process.stop()
            self._process = None


@contextmanager
def redis_server(directory: Path, *options: str, address: str = "127.0.0.1") -> Generator[RedisServer]:
    """Run a server for the length of the block."""
    server = RedisServer(directory, address=address, options=options)
    try:
        server.start()
        yield server
    finally:
        server.kill()
