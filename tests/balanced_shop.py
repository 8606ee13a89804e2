"""The example shop behind a load balancer: another machine, whose address is all the kernel of the server sees.

    attacker ... balancer 198.51.100.200, 2001:db8:ba1::10: an nginx of its own, with two ways to the server
                    |
                 server: nginx with the files of contrib/nginx, app, daemon with the firewall `nginx_deny`

Both nginx are real. The balancer appends to X-Forwarded-For who connected to it, and stops using a way that failed, as
balancers do. nginx is reloaded by root when the daemon has written the bans, as a `.path` unit of systemd does it,
because the daemon is a user without any capability.
"""

import re
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.internet import SERVER4, SERVER6, Internet, Place
from tests.lab import Process
from tests.nginx import contrib
from tests.shop import NGINX, Shop, changed, make, nginx

BALANCER4, BALANCER6 = "198.51.100.200", "2001:db8:ba1::10"
PLACE = Place("balancer", (f"{BALANCER4}/25", f"{BALANCER6}/64"))
PROXIES = '["127.0.0.1", "::1"]'
ALL_PROXIES = f'["127.0.0.1", "::1", "{BALANCER4}", "{BALANCER6}"]'
BALANCER_SITE = f"""
upstream shop {{
    server {SERVER4};
    server [{SERVER6}];
}}
server {{
    listen 80 default_server;
    listen [::]:80 default_server;
    access_log off;
    location / {{
        proxy_pass http://shop;
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }}
}}
"""


class BalancedShop(Shop):
    """The shop on the server of an internet that has the machine `balancer` (PLACE), and the balancer's nginx."""

    balancer: Process

    def __init__(
        self, internet: Internet, directory: Path, *, bantime: str = "1h", firewall: str = "nginx_deny"
    ) -> None:
        super().__init__(internet.server, directory, bantime=bantime, firewall=firewall)
        if self.users.daemon:
            self.users = replace(self.users, daemon=replace(self.users.daemon, capabilities=()))
        self._balancer_machine = internet.machines[PLACE.name]
        self._reloading: _Reloading | None = None

    @property
    def bans(self) -> Path:
        """Give the file of bans that nginx includes."""
        return self._directory / "appguard/bans.geo"

    def _prepare(self) -> None:
        """Make the place of the bans, and an app that knows of the balancer."""
        make(self.bans.parent, self.users.daemon, 0o755)
        self.bans.touch()
        known = self._directory / "app"
        make(known, None, 0o755)
        for path in self._example.glob("*.*"):
            (known / path.name).write_bytes(path.read_bytes())
        text = (self._example / "app.py").read_text()
        (known / "app.py").write_text(changed(text, re.escape(PROXIES), ALL_PROXIES))
        self._example = known
        balancer = self._directory / "balancer"
        make(balancer, None, 0o755)
        make(balancer / "nginx", self.users.app, 0o700)
        (balancer / "nginx-site.conf").write_text(BALANCER_SITE)
        (balancer / "nginx.conf").write_text(NGINX.format(directory=balancer, process=self._nginx_user()))

    def _settings(self) -> str:
        """Give the settings: nginx refuses, the balancer is trusted, and the log is the one that names it."""
        found = changed(
            super()._settings(), f"trusted_proxies = {re.escape(PROXIES)}", f"trusted_proxies = {ALL_PROXIES}"
        )
        found = changed(found, 'filter = "nginx"', 'filter = "nginx-json"')
        options = f'\npath = "{self.bans}"\nreload = []' if self._firewall == "nginx_deny" else ""
        return changed(found, rf'(?m)^kind = "{self._firewall}".*', f'kind = "{self._firewall}"{options}')

    def _site(self) -> str:
        """Give the example's site with the files of contrib/nginx: the log, the real client, and the bans."""
        balancers = {r"set_real_ip_from 192\.0\.2\.1;": f"set_real_ip_from {BALANCER4};"}
        balancers[r"set_real_ip_from 2001:db8::1;"] = f"set_real_ip_from {BALANCER6};"
        around = [
            contrib("appguard-log.conf"),
            contrib("appguard-realip.conf", balancers),
            contrib("appguard-ban.conf"),
        ]
        site = changed(super()._site(), "combined;", "appguard if=$appguard_counts;")
        site = changed(site, r"\$proxy_add_x_forwarded_for", '"$remote_addr, $realip_remote_addr"')
        site = changed(site, r"(?=    location / )", contrib("appguard-ban-site.conf"))
        return "\n".join((*around, site))

    def _start(self) -> None:
        super()._start()
        self._reloading = _Reloading(self.bans, [*nginx(self._directory), "-s", "reload"])
        self._reloading.start()
        directory = self._directory / "balancer"
        self.balancer = self._run_nginx("balancer", self._balancer_machine, directory, BALANCER4)

    def _stop(self) -> None:
        if self._reloading:
            self._reloading.end()
        super()._stop()


class _Reloading(threading.Thread):
    """Reloads nginx whenever a file has been put in another's place."""

    def __init__(self, path: Path, command: Sequence[str | Path]) -> None:
        super().__init__(name="reloading")
        self._path = path
        self._command = command
        self._ended = threading.Event()

    def run(self) -> None:
        seen = 0
        while not self._ended.wait(0.01):
            inode = self._path.stat().st_ino
            if inode != seen:
                seen = inode
                subprocess.run(self._command, capture_output=True, check=True)

    def end(self) -> None:
        self._ended.set()
        self.join()
