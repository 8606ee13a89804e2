"""A real systemd journal for tests: a journald of its own, with its files in a directory of the test.

It is an instance for a journal *namespace*, which has sockets of its own and leaves the kernel's log alone, and it runs
in a mount namespace where `/var/log` is a directory of the test. So nothing of it is seen outside.
"""

import secrets
import socket
import struct
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.lab import Process, wait_until

JOURNALD = "/lib/systemd/systemd-journald"
HIDE = 'mount --bind "$1" /var/log && mount --bind "$2" /etc/machine-id && exec "$3" "$4"'


class Journal:
    """A journal that is written to as programs of a service do, and can be read with `--directory`."""

    def __init__(self, root: Path) -> None:
        self._name = f"test{secrets.token_hex(4)}"
        self._root = root
        machine = secrets.token_hex(16)
        self._machine = root / "machine-id"
        self._machine.write_text(machine + "\n")
        self.directory = root / "journal" / f"{machine}.{self._name}"
        (root / "journal").mkdir()
        self._socket = Path(f"/run/systemd/journal.{self._name}/socket")

    @contextmanager
    def running(self) -> Generator["Journal"]:
        """Run journald for the length of the block."""
        names = [str(self._root), str(self._machine), JOURNALD, self._name]
        process = Process("journald", ["unshare", "--mount", "sh", "-c", HIDE, "sh", *names])
        try:
            wait_until(self._socket.exists, 10, process.output)
            wait_until(lambda: list(self.directory.glob("*.journal")), 10, process.output)
            yield self
        finally:
            process.stop()

    def write(self, message: bytes, **fields: str) -> None:
        """Write one entry, in journald's native protocol."""
        text = "".join(f"{name}={value}\n" for name, value in fields.items()).encode()
        data = b"MESSAGE\n" + struct.pack("<Q", len(message)) + message + b"\n" + text
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(data, str(self._socket))
