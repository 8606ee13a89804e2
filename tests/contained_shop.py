"""The example shop in a container whose port is published: Docker's arrangement, without Docker.

    attacker ... router - server: daemon, nftables, and DNAT of its port 80 to the container
                             |
                          container 172.17.0.2, fd00:17::2: the app as a user of its own, no nginx

The app finds AppGuard in the directory /run/appguard, the only one it shares with the server. The address translation
is what Docker writes: incoming and local connections to the published port, and masquerade for what the container
begins; its UDP ports are published too, for the probes that tell when the kernel begins to drop.
"""

import subprocess
from dataclasses import replace
from pathlib import Path

from tests.container import contained, joining
from tests.internet import SERVER4, SERVER6, Place, join
from tests.lab import Process, User
from tests.machine import Machine
from tests.shop import CHECKOUT, RUNTIME, Shop, changed, uvicorn

APP_UID = 10001
CONTAINER4, CONTAINER6 = "172.17.0.2", "fd00:17::2"
PLACE = Place("container", (f"{CONTAINER4}/16", f"{CONTAINER6}/64"))
BEHIND = {SERVER4: CONTAINER4, SERVER6: CONTAINER6}
PUBLISHED = f"""
table inet docker {{
    chain published {{
        ip daddr {SERVER4} tcp dport 80 dnat ip to {CONTAINER4}:8000
        ip daddr {SERVER4} udp dport 1024-65535 dnat ip to {CONTAINER4}
        ip6 daddr {SERVER6} tcp dport 80 dnat ip6 to [{CONTAINER6}]:8000
        ip6 daddr {SERVER6} udp dport 1024-65535 dnat ip6 to {CONTAINER6}
    }}
    chain prerouting {{ type nat hook prerouting priority dstnat; jump published; }}
    chain output {{ type nat hook output priority -100; jump published; }}
    chain postrouting {{
        type nat hook postrouting priority srcnat
        ip saddr 172.17.0.0/16 oifname "eth0" masquerade
        ip6 saddr fd00:17::/64 oifname "eth0" masquerade
    }}
}}
"""


class ContainedShop(Shop):
    """The app in a container of the server, the daemon on the server."""

    container: Machine

    def __init__(self, server: Machine, directory: Path, *, bantime: str = "1h", firewall: str = "nftables") -> None:
        super().__init__(server, directory, bantime=bantime, firewall=firewall)
        if self.users.app:
            self.users = replace(self.users, app=User(APP_UID))

    def _prepare(self) -> None:
        self.container = Machine(PLACE.name)
        join(self.container, self.server, PLACE)
        for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            self.server.set(setting, 1)
        with self.server:
            subprocess.run(["nft", "-f", "-"], input=PUBLISHED, text=True, check=True)

    def _settings(self) -> str:
        """Give the settings: the app's own user may report, and there is no nginx whose log could be read."""
        uid = self.users.app.uid if self.users.app else 0
        found = changed(super()._settings(), r"(?m)^users = \S+", f'users = ["{uid}"]')
        return changed(found, r"(?s)\[jails\.probe\].*?(?=\[firewall\])", "")

    def _start(self) -> None:
        self.start_daemon()
        command = contained(RUNTIME, self.users.app, uvicorn(self._example, "::"))
        with self.container:
            self.app = self._started(Process("app", command, environment={"TMPDIR": "/tmp"}, directory=CHECKOUT))
        self._wait_for_workers("startup complete")

    def run_inside(self, *command: str | Path) -> str:
        """Run a command in the container as the app's user and give all it says, errors included."""
        joined = joining(self.app.pid, self.users.app, command)
        done = subprocess.run(joined, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return done.stdout

    def _stop(self) -> None:
        super()._stop()
        if hasattr(self, "container"):
            self.container.remove()
            self._delete_table("docker")
