"""The nginx firewall with a real nginx: what it refuses, how often it reloads, and what the daemon makes of it."""

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from ipaddress import IPv6Network
from pathlib import Path
from subprocess import run

import pytest

from appguard.errors import ConfigError, FirewallError
from appguard.firewalls.base import Block
from appguard.firewalls.nginx_deny import NginxDeny
from appguard.firewalls.open import kinds_of, open_firewall
from tests.daemon import DAEMON, Place, in_kernel, running_daemon, web_jail
from tests.lab import User, free_port, wait_until
from tests.netns import network
from tests.nginx import Nginx, contrib

pytestmark = pytest.mark.lab

HOST = "203.0.113.5"
OTHER = "203.0.113.6"
USER = User(DAEMON.uid)
SITE = """
set_real_ip_from 127.0.0.1;
real_ip_header X-Forwarded-For;
log_format probe '$remote_addr $status';
server {{
    listen 127.0.0.1:{port};
    include snippets/ban.conf;
    location / {{ return 200 "served"; }}
}}
"""


class Guarded:
    """An nginx that refuses the banned, run by the user the daemon runs as."""

    def __init__(self, root: Path, user: User | None) -> None:
        port = free_port()
        files = {
            "conf.d/ban.conf": contrib("appguard-ban.conf"),
            "snippets/ban.conf": contrib("appguard-ban-site.conf"),
            "sites-enabled/site.conf": SITE.format(port=port),
        }
        self.nginx = Nginx(root, port, files, user=user)
        self.reload = self.nginx.command("-s", "reload")

    def firewall(self, *, apart: float = 0.0) -> NginxDeny:
        """Give the firewall of this nginx."""
        return NginxDeny(path=self.nginx.bans, reload=self.reload, apart=apart)

    def serves(self, client: str) -> bool:
        """Say whether a client that comes through the balancer is answered."""
        connection = HTTPConnection("127.0.0.1", self.nginx.port, timeout=5)
        try:
            connection.request("GET", "/", headers={"X-Forwarded-For": client})
            return connection.getresponse().read() == b"served"
        except ConnectionError:
            return False
        finally:
            connection.close()

    def wait(self, *, refused: str = "", served: str = "", within: float = 5.0) -> None:
        """Wait until nginx refuses and serves these clients, and no worker from before a reload does otherwise."""

        def is_so() -> bool:
            if not self.nginx.has_reloaded():
                return False
            return not any(map(self.serves, refused.split())) and all(map(self.serves, served.split()))

        wait_until(is_so, within, lambda: f"{self.nginx.bans.read_text()}\n{self.nginx.errors()}")

    def reloads(self) -> int:
        """Give how often nginx was told to read its files again."""
        return self.nginx.errors().count("signal process started")


@pytest.fixture
def guarded(open_tmp_path: Path) -> Iterator[Guarded]:
    """Run a guarded nginx as root."""
    guarded = Guarded(open_tmp_path / "nginx", None)
    with guarded.nginx.running():
        yield guarded


def block(text: str, seconds: float | None = 600, ports: str = "") -> Block:
    """Make a block that ends in so many seconds."""
    return Block.of(network(text), None if seconds is None else time.time() + seconds, ports)


def test_nginx_refuses_what_is_blocked(guarded: Guarded) -> None:
    """Hosts, a /64 and networks are refused, their neighbours are not, and a lifted one is served again."""
    firewall = guarded.firewall()
    blocks = [block(HOST), block("2001:db8:5::/64"), block("198.51.100.0/25", None)]
    asyncio.run(firewall.replace([], blocks))
    guarded.wait(refused=f"{HOST} 2001:db8:5::9 198.51.100.1", served=f"{OTHER} 2001:db8:6::9 198.51.100.200")
    asyncio.run(firewall.change([block(OTHER)], [block(HOST)]))
    guarded.wait(refused=f"{OTHER} 198.51.100.1", served=HOST)
    asyncio.run(firewall.change([block(HOST, ports=ports) for ports in ("tcp/22", "tcp/443")], []))
    guarded.wait(refused=f"{HOST} {OTHER}", served="2001:db8:6::9")
    asyncio.run(firewall.change([], [block(HOST, ports="tcp/443")]))
    guarded.wait(refused=OTHER, served=HOST)
    asyncio.run(firewall.lift())
    guarded.wait(served=f"{HOST} {OTHER} 2001:db8:5::9 198.51.100.1")
    guarded.nginx.check()  # nginx can be started anew


def test_who_is_let_in_is_never_refused(guarded: Guarded) -> None:
    """A network let in is served inside a wider block, and a block inside it does nothing."""
    asyncio.run(
        guarded.firewall().replace(
            [network("203.0.113.0/24"), network("198.51.100.7")],
            [block(HOST), block("203.0.113.0/24"), block("198.51.100.0/24"), block("192.0.2.9")],
        )
    )
    guarded.wait(refused="198.51.100.8 192.0.2.9", served=f"{HOST} {OTHER} 198.51.100.7")


def test_nothing_but_addresses_is_written(guarded: Guarded) -> None:
    """A zone id, which may be any text, does not get into nginx's configuration."""
    asyncio.run(guarded.firewall().replace([], [Block.of(IPv6Network("fe80::1%0; default 1;"), None)]))
    assert guarded.nginx.bans.read_text().splitlines()[1:] == ["fe80::1/128 1;"]
    guarded.nginx.check()


def test_changes_in_quick_succession_share_a_reload(guarded: Guarded) -> None:
    """The first change is in force at once, the next only when its time has come."""
    apart = 1.0
    firewall = guarded.firewall(apart=apart)

    async def change_twice() -> tuple[float, float]:
        begin = time.monotonic()
        await firewall.replace([], [block(HOST)])
        first = time.monotonic() - begin
        await firewall.change([block(OTHER)], [])
        return first, time.monotonic() - begin

    first, second = asyncio.run(change_twice())
    assert first < apart <= second
    guarded.wait(refused=f"{HOST} {OTHER}")
    assert guarded.reloads() == 2


def test_no_reload_without_need(guarded: Guarded) -> None:
    """A block given again with another end, and the removal of what is not there, reload nothing."""
    firewall = guarded.firewall()
    asyncio.run(firewall.replace([], [block(HOST)]))
    asyncio.run(firewall.change([block(HOST, None)], [block(OTHER)]))
    guarded.wait(refused=HOST)
    assert guarded.reloads() == 1
    assert asyncio.run(firewall.intact())
    assert guarded.reloads() == 1


def test_what_has_ended_is_taken_out(guarded: Guarded) -> None:
    """A block ends in nginx although nginx knows no end: `intact`, which the bouncer asks all the time, sees to it."""
    now = [1_800_000_000.0]
    firewall = NginxDeny(path=guarded.nginx.bans, reload=guarded.reload, apart=0, clock=lambda: now[0])
    asyncio.run(firewall.replace([], [Block.of(network(HOST), now[0] + 60), Block.of(network(OTHER), now[0] + 90)]))
    guarded.wait(refused=f"{HOST} {OTHER}")
    now[0] += 60
    assert asyncio.run(firewall.intact())
    guarded.wait(refused=OTHER, served=HOST)
    assert asyncio.run(firewall.intact())
    assert guarded.reloads() == 2


def test_what_has_ended_waits_its_turn(guarded: Guarded) -> None:
    """Blocks that end one after the other are taken out together when a reload is due; `intact` waits for nothing."""
    now = [1_800_000_000.0]
    firewall = NginxDeny(path=guarded.nginx.bans, reload=guarded.reload, apart=1, clock=lambda: now[0])
    asyncio.run(firewall.replace([], [Block.of(network(HOST), now[0] + 1), Block.of(network(OTHER), now[0] + 2)]))
    reloaded = time.monotonic()
    for _ in range(2):
        now[0] += 1
        assert asyncio.run(firewall.intact())
    assert time.monotonic() < reloaded + 1
    assert HOST in guarded.nginx.bans.read_text()
    wait_until(lambda: asyncio.run(firewall.intact()) and HOST not in guarded.nginx.bans.read_text(), 5, "taken out")
    assert time.monotonic() > reloaded + 0.9
    guarded.wait(served=f"{HOST} {OTHER}")
    assert guarded.reloads() == 2


@pytest.mark.parametrize("how", ["changed", "replaced", "removed"])
def test_a_foreign_change_is_noticed(guarded: Guarded, how: str) -> None:
    """A file that somebody else changed, put another in the place of, or removed, is not intact."""
    firewall, bans = guarded.firewall(), guarded.nginx.bans
    asyncio.run(firewall.replace([], [block(HOST)]))
    assert asyncio.run(firewall.intact())
    if how == "changed":
        with bans.open("a") as opened:
            opened.write(f"{HOST} 0;\n")
    elif how == "replaced":
        other = bans.with_name("other")
        other.write_text(bans.read_text())
        other.replace(bans)
    else:
        bans.unlink()
    assert not asyncio.run(firewall.intact())


def test_nginx_refusing_to_reload_is_said(guarded: Guarded) -> None:
    """With a broken configuration the error has nginx's own words, and once that is mended the block is in force."""
    broken = guarded.nginx.root / "etc/conf.d/broken.conf"
    broken.write_text("nonsense on;\n")
    firewall = guarded.firewall()
    with pytest.raises(FirewallError, match="unknown directive"):
        asyncio.run(firewall.replace([], [block(HOST)]))
    assert not asyncio.run(firewall.intact())
    broken.unlink()
    asyncio.run(firewall.replace([], [block(HOST)]))
    guarded.wait(refused=HOST)


def test_a_missing_directory_or_command_is_said(tmp_path: Path) -> None:
    """The error names the file that cannot be written, or the command that is missing."""
    with pytest.raises(FirewallError, match=r"none/bans\.geo cannot be written: No such file"):
        asyncio.run(NginxDeny(path=tmp_path / "none/bans.geo").replace([], []))
    with pytest.raises(FirewallError, match="no-such-program is not installed"):
        asyncio.run(NginxDeny(path=tmp_path / "bans.geo", reload=["no-such-program"]).replace([], []))


TRY = """
import asyncio, sys
from pathlib import Path
from appguard.errors import FirewallPermissionError
from appguard.firewalls.nginx_deny import NginxDeny
try:
    asyncio.run(NginxDeny(path=Path(sys.argv[1]), reload=sys.argv[2:]).replace([], []))
except FirewallPermissionError as error:
    print(error)
"""


def test_a_missing_right_is_said(guarded: Guarded) -> None:
    """A user who may not write the file, or not signal root's nginx, gets an error that says which and what to set."""

    def attempt() -> str:
        command = [*USER.prefix(), sys.executable, "-c", TRY, str(guarded.nginx.bans), *guarded.reload]
        return run(command, capture_output=True, text=True, check=True).stdout

    assert "bans.geo cannot be written: Permission denied" in attempt()
    os.chown(guarded.nginx.bans.parent, USER.uid, USER.uid)
    said = attempt()
    assert "failed (1: Operation not permitted)" in said
    assert "set [firewall] reload to a command that this user may run" in said


def test_a_reader_never_sees_half_a_file(guarded: Guarded) -> None:
    """While the file is written again and again, whoever opens it reads a whole one."""
    blocks = [block(f"198.51.{high}.{low}", None) for high in range(20) for low in range(256)]
    firewall = NginxDeny(path=guarded.nginx.bans, reload=(), apart=0)
    sizes: set[int] = set()

    async def write() -> None:
        for count in (1, len(blocks)) * 10:
            await firewall.replace([], blocks[:count])

    async def read_meanwhile() -> None:
        await firewall.replace([], blocks[:1])
        task = asyncio.ensure_future(write())
        while not task.done():
            sizes.add(guarded.nginx.bans.read_text().count(" 1;\n"))
            await asyncio.sleep(0)
        await task

    asyncio.run(read_meanwhile())
    assert sizes == {1, len(blocks)}


def test_settings() -> None:
    """`path` and `reload` are for the nginx firewall alone, and an unknown kind names those there are."""
    options = {"path": Path("/x"), "reload": ()}
    both = {"kind": ("nftables", "nginx_deny", "nftables"), **options}
    assert [open_firewall(kind, both).name for kind in kinds_of(both)] == ["nftables", "nginx_deny"]
    assert kinds_of({}) == ("nftables",)
    with pytest.raises(ConfigError, match="path, reload: only kind = 'nginx_deny' has that, not 'nftables', 'dry_run'"):
        kinds_of({"kind": ("nftables", "dry_run"), **options})
    with pytest.raises(ConfigError, match="expected one of 'nftables', 'nginx_deny', 'command', 'dry_run', 'apart'"):
        open_firewall("iptables", {})


def test_the_daemon_bans_in_nginx_and_lets_in_again(open_tmp_path: Path) -> None:
    """Lines in a log become refusals of nginx by a daemon that may do nothing else, and end there with the ban.

    A hand that empties the file is undone, and `enforce off` and `unban` let in.
    """
    guarded = Guarded(open_tmp_path / "nginx", USER)
    place = Place(open_tmp_path, USER)
    reload = ", ".join(f'"{word}"' for word in guarded.reload)
    settings = f'[firewall]\nkind = "nginx_deny"\npath = "{guarded.nginx.bans}"\nreload = [{reload}]\n'
    place.configure(web_jail(place, {"bantime": 5}), settings)
    with guarded.nginx.running(), running_daemon(place):
        place.append(HOST, 3)
        guarded.wait(refused=HOST, served=OTHER)
        place.run("ban", OTHER, "--for", "1h")
        guarded.wait(refused=OTHER)
        guarded.nginx.bans.write_text("")
        wait_until(lambda: OTHER in guarded.nginx.bans.read_text(), 5, "put back")
        guarded.wait(served=HOST, refused=OTHER, within=10)
        assert place.run("enforce", "off").returncode == 0
        guarded.wait(served=OTHER)
        assert place.run("enforce", "on").returncode == 0
        guarded.wait(refused=OTHER)
        place.run("unban", OTHER)
        guarded.wait(served=OTHER)


def test_the_kernel_and_nginx_together(open_tmp_path: Path) -> None:
    """One daemon gives its bans to both, and says of each ban who shuts the client out.

    The kernel does where it sees the client, nginx and the app where all clients come from another machine.
    """
    guarded = Guarded(open_tmp_path / "nginx", USER)
    place = Place(open_tmp_path, DAEMON)
    reload = ", ".join(f'"{word}"' for word in guarded.reload)
    settings = f'[firewall]\nkind = ["nftables", "nginx_deny"]\npath = "{guarded.nginx.bans}"\nreload = [{reload}]\n'
    place.configure(web_jail(place, {"behind": ["198.51.100.7"]}), settings)
    with guarded.nginx.running(), running_daemon(place):
        place.append(HOST, 3)
        place.run("ban", OTHER, "--for", "1h")
        guarded.wait(refused=f"{HOST} {OTHER}")
        wait_until(lambda: set(in_kernel()) == {HOST, OTHER}, 5, "the kernel has them too")
        blocked_by = {ban["network"]: ban["enforced_by"] for ban in place.ask("list")["bans"]}
        assert blocked_by == {HOST: ["nginx", "app"], OTHER: ["kernel", "nginx", "app"]}
        reach = "1 ban by nginx and app only: the packets come from 198.51.100.7, not from the client"
        assert f"Reach:\t{reach}\n" in place.run("status").stdout
        assert f"; {reach}\n" in place.run("status", "probes").stdout
        firewalls = [(one["name"], one["error"]) for one in place.ask("status")["firewalls"]]
        assert firewalls == [("nftables", ""), ("nginx_deny", "")]
        assert place.run("enforce", "off").returncode == 0
        guarded.wait(served=f"{HOST} {OTHER}")
        assert in_kernel() == {}
