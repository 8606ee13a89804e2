"""A real control server on a real socket, before a daemon that keeps its bans in a dictionary; and its clients."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

from appguard.address import Network, network_text, parse_network
from appguard.ban import Ban
from appguard.ban_log import BanEvent
from appguard.control import serve
from appguard.errors import FirewallError, RefusedForSafety
from appguard.explained import Explanation
from appguard.following import Following
from appguard.safelisted import Safelisted, SharedSafelist
from appguard.status import (
    BanRecord,
    DaemonStatus,
    FirewallSummary,
    JailStatus,
    JailSummary,
    ReachSummary,
    RefusedBan,
    SourceSummary,
)
from appguard.stores.memory import MemoryBanSet
from tests.lab import User, wait_until

ADMIN_GID = 61003
DAEMON_GID = 0
STRANGER = 65534
GATEWAY = "192.0.2.1"
NOW = time.time()


class DictionaryDaemon:
    """A daemon whose ban set is a dictionary and whose firewall is a word."""

    def __init__(self) -> None:
        self.kept: dict[str, Ban] = {}
        self.enforcing = True
        self.version = 0
        self.told = MemoryBanSet()
        self.safelist = SharedSafelist()
        self.following = Following(self.told)
        self.events_there: list[BanEvent] = []
        self.event_to_come: BanEvent | None = None

    def status(self) -> DaemonStatus:
        """Say what the tests expect to read."""
        return DaemonStatus(
            version="0.1.0",
            pid=4242,
            started=NOW - 60,
            store="local:///run/appguard",
            enforcing=self.enforcing,
            bans=len(self.kept),
            firewalls=(FirewallSummary("nftables", "", 14),),
            reach=(ReachSummary("198.51.100.7", 2, ("nginx", "app")),),
            jails=(JailSummary("login", 1, 9, 1, 2), JailSummary("nginx-auth", 0, 0, 0, 0)),
            sources=(
                SourceSummary("app", ("/run/appguard/events.sock",), 0, ""),
                SourceSummary("nginx", (), 2048, "/var/log/nginx/access.log: Permission denied"),
            ),
            refused=(RefusedBan(GATEWAY, "login", "it is the gateway"),),
        )

    async def jail_status(self, name: str) -> JailStatus | None:
        """Know one jail."""
        if name != "login":
            return None
        return JailStatus(
            name,
            1,
            9,
            ("/run/appguard/events.sock",),
            1,
            2,
            ("203.0.113.5",),
            "nftables, 14 packets dropped",
            (ReachSummary("198.51.100.7", 1, ("nginx", "app")),),
        )

    def record(self, ban: Ban) -> BanRecord:
        """Have the kernel enforce every ban."""
        return BanRecord.of(ban, ("kernel", "app"))

    def bans(self) -> Sequence[Ban]:
        """Give a copy of what is kept."""
        return tuple(self.kept.values())

    async def ban(self, ban: Ban, *, force: bool) -> Ban:
        """Keep the ban, unless it hits the gateway or is asked for by a jail that stands for a fault."""
        if ban.jail == "faulty":
            raise RuntimeError("a detail nobody outside should read")
        if ban.key == GATEWAY and not force:
            raise RefusedForSafety(f"{GATEWAY} is the gateway")
        self.version += 1
        kept = replace(ban.starting(time.time()), version=self.version)
        self.kept[kept.key] = kept
        self.told.ban(kept)
        self.following.tell()
        return kept

    async def confirm(self, what: str) -> Ban | None:
        """Have no ban that waits."""
        del what
        return None

    async def unban(self, what: str, jail: str | None = None) -> Ban | None:
        """Lift by key or ref."""
        is_ref = len(what) == 8 and what.isalnum()
        name = what if is_ref else network_text(parse_network(what))
        found = next((ban for ban in self.kept.values() if name in (ban.key, ban.ref)), None)
        if found is None or jail not in (None, found.jail):
            return None
        del self.kept[found.key]
        self.told.unban(found.network)
        self.following.tell()
        return found

    async def settled(self) -> str:
        """Enforce at once; a daemon with 8 bans has a broken firewall."""
        return "nft: Operation not permitted" if len(self.kept) == 8 else ""

    async def enforce(self, on: bool) -> None:
        """Switch the word; a daemon with 9 bans has a broken firewall."""
        if len(self.kept) == 9:
            raise FirewallError("nft: Operation not permitted")
        self.enforcing = on
        self.following.switch(on)

    def safelisted(self) -> Sequence[Safelisted]:
        """Give what is on the safelist."""
        return self.safelist.in_force(time.time())

    async def add_to_safelist(
        self, network: Network, seconds: float | None, reason: str
    ) -> tuple[Safelisted, Sequence[Ban]]:
        """Put a network on the safelist, and lift its own ban."""
        entry = self.safelist.add(network, seconds, reason, "here", time.time())
        lifted = await self.unban(entry.key)
        return entry, [] if lifted is None else [lifted]

    async def remove_from_safelist(self, network: Network) -> Safelisted | None:
        """Take a network off the safelist."""
        return self.safelist.remove(network, "here", time.time())

    async def events(self, since: int) -> tuple[Sequence[BanEvent], int]:
        """Have those that are there, and begin with one that comes while somebody looks for the first."""
        found = [event for event in self.events_there if event.cursor > since]
        if self.event_to_come is not None:
            self.events_there.append(self.event_to_come)
            self.event_to_come = None
            self.following.tell()
        return found, 0

    async def explain(self, what: str, origin: str) -> Explanation:
        """Repeat what is asked."""
        return Explanation(what, True, NOW, (), (), f"Not banned: {origin}")


@contextmanager
def serving(daemon: DictionaryDaemon, path: Path) -> Generator[None]:
    """Serve in a thread; on leaving, cancel and expect an end within 10 seconds."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = Future()

    async def main() -> None:
        task = asyncio.create_task(serve(daemon, path, admin_gid=lambda: ADMIN_GID))
        started.set_result((asyncio.get_running_loop(), task))
        with suppress(asyncio.CancelledError):
            await task

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    loop, task = started.result(10)
    try:
        wait_until(lambda: answers(path), 10, "the server listens")
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
        assert not thread.is_alive()


def answers(path: Path) -> bool:
    """Say whether a server answers a request, and has closed the connection since."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        if client.connect_ex(str(path)) != 0:
            return False
        client.sendall(b"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n")
        return client.recv(12) == b"HTTP/1.1 200" and is_ended(client)


def run(path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real command."""
    return subprocess.run(
        [sys.executable, "-m", "appguard", *arguments, "--socket", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | environment,
    )


def ask(
    path: Path, method: str, target: str, body: str = "", user: User | None = None
) -> tuple[int, dict[str, object]]:
    """Send one request with curl as a user; give status and JSON, (0, {}) if there was no connection."""
    command = [*(user.prefix() if user else ()), "curl", "--silent", "--max-time", "20", "--unix-socket", str(path)]
    command += ["--request", method, "--write-out", "\n%{http_code}", f"http://appguard{target}"]
    command += ["--data-binary", "@-"] if body else []
    sent = body.encode(errors="surrogateescape")
    done = subprocess.run(command, input=sent, capture_output=True, timeout=60, check=False, cwd="/")
    if done.returncode == 7:
        return 0, {}
    assert done.returncode == 0, done.stderr
    text, _, status = done.stdout.rpartition(b"\n")
    return int(status), cast("dict[str, object]", json.loads(text))


@contextmanager
def connected(path: Path, data: bytes = b"") -> Generator[socket.socket]:
    """Hold a connection on which only this was sent."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(data)
        yield client


def is_ended(client: socket.socket) -> bool:
    """Say whether the server closes the connection within the socket's timeout, after whatever it still sends."""
    with suppress(ConnectionResetError):
        while client.recv(65536):
            pass
    return True
