"""The mark by which root switches enforcement off without the daemon's help: a file beside its control socket.

A daemon that hangs cannot be told anything, and one that wakes must not put back what root took out of the kernel. So
bouncers look for the mark before every change of a firewall, and the daemon, when it can, takes it into its state.
"""

import os
from contextlib import suppress
from pathlib import Path

from appguard.errors import FirewallError

NAME = "enforce-off"


class HoldMark:
    """The mark of the daemon with this control socket."""

    def __init__(self, socket: Path) -> None:
        self._path = socket.with_name(NAME)

    def is_set(self) -> bool:
        """Say whether enforcement is switched off by the mark."""
        return os.path.lexists(self._path)

    def set(self) -> None:
        """Switch enforcement off, for every bouncer that wakes; raise `OSError`.

        The directory belongs to the daemon, which is less than root: nothing that it put there is followed or opened.
        """
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))

    def clear(self) -> None:
        """Take the mark away; raise `FirewallError`."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise FirewallError(f"{self._path} cannot be removed: {error.strerror}; remove it as root") from error
