"""A real firewalld in the lab's own network, on a system bus of its own, its settings in a directory."""

import subprocess
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.lab import Process, in_lab, running, wait_until

BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"""


class Firewalld:
    """A running firewalld."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment

    def tell(self, *options: str) -> str:
        """Run `firewall-cmd`; give what it says, raise AssertionError if it fails."""
        done = self._run(*options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def is_running(self) -> bool:
        """Say whether it answers."""
        return self._run("--state").returncode == 0

    def _run(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = ["firewall-cmd", *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=self._environment, timeout=30)


@contextmanager
def firewalld(directory: Path) -> Generator[Firewalld]:
    """Run firewalld with an empty configuration of its own; its rules go when it ends."""
    assert in_lab(), "firewalld changes the rules of its network: in the lab only"
    socket, settings = directory / "bus.sock", directory / "firewalld"
    settings.mkdir()
    (directory / "bus.conf").write_text(BUS.format(socket=socket))
    bus = ["dbus-daemon", f"--config-file={directory}/bus.conf", "--nofork", "--nopidfile"]
    environment = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={socket}", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    command = ["firewalld", "--nofork", "--nopid", "--system-config", str(settings), "--log-target", "console"]
    with ExitStack() as stack:
        stack.enter_context(running(Process("dbus", bus)))
        wait_until(socket.exists, 10, "the bus is up")
        process = stack.enter_context(running(Process("firewalld", command, environment=environment)))
        found = Firewalld(environment)
        wait_until(found.is_running, 60, process.output)
        yield found
