"""The nginx firewall: where the kernel sees a load balancer's address, and only nginx the client's.

Theory of operation. All bans are one file that nginx's `geo` reads (`contrib/nginx/appguard-ban.conf`), written anew
and put in place by a rename; then nginx is told to reload. A reload replaces nginx's workers, so two begin at least
`apart` seconds apart: the first change is in force at once, and one that comes sooner waits its turn inside the verb,
while the bouncer gathers what follows into the next. nginx knows no end of a ban: the bouncer asks `intact` all the
time, and that takes out what has ended. So with the daemon dead bans stay until it is back; and after `lift` the file
is there but empty, because nginx does not start without it.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from appguard.address import Address, Network, NetworkMap
from appguard.errors import FirewallError, FirewallPermissionError
from appguard.firewalls.base import Block, Count, Late, all_of, nobody
from appguard.firewalls.program import run
from appguard.ports import is_web

PATH = Path("/etc/nginx/appguard/bans.geo")
RELOAD = ("nginx", "-s", "reload")
APART = 2.0  # seconds
PATIENCE = 60.0  # seconds the reload command may take; nginx reads 100,000 bans in a tenth of one
WORDS_MOST = 300
HEAD = "# Written by AppGuard for `geo` of nginx. Changes made by others are undone.\n"

_Blocks = dict[str, Block]  # by key
_Identity = tuple[int, int, int]


class NginxDeny:
    """Has nginx refuse clients.

    `reload` is the command that makes it read `path` again; none if something else sees to that.
    """

    name = "nginx_deny"

    def __init__(
        self,
        *,
        path: Path = PATH,
        reload: Sequence[str] = RELOAD,
        apart: float = APART,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._reload = tuple(reload)
        self._apart = apart
        self._clock = clock
        self._reloaded_at = float("-inf")
        self._allow: tuple[Network, ...] = ()
        self._held: _Blocks | None = None  # what the file holds; None before `replace`
        self._first_end = float("inf")
        self._identity: _Identity | None = None  # of the file nginx has been told of

    async def replace(self, allow: Sequence[Network], blocks: Iterable[Block], late: Late = nobody) -> None:
        """Write the file anew and reload, whatever was there."""
        given = await all_of(blocks, late)
        await self._wait_for_turn()
        self._allow = tuple(allow)
        await self._put(_in_force(_of_web(given), self._clock()))

    async def change(self, add: Sequence[Block], remove: Sequence[Block]) -> None:
        """Write the file with the change and reload, unless only ends have changed."""
        if self._held is None:
            raise FirewallError(f"nginx: {self._path} holds nothing of ours to change; replace comes first")
        asked = self._held | _of_web(add)
        for block in remove:
            asked.pop(block.key, None)
        kept = _in_force(asked, self._clock())
        if kept.keys() == self._held.keys():
            self._keep(kept)
            return
        await self._wait_for_turn()
        await self._put(_in_force(asked, self._clock()))

    def refusal(self, ports: str) -> str:
        """Say nothing: what is not about the web is no matter of nginx."""
        del ports
        return ""

    async def lift(self) -> None:
        """Write an empty file and reload, at once."""
        self._allow = ()
        await self._put({})
        self._held = self._identity = None

    async def intact(self) -> bool:
        """Say whether the file is as we wrote it. Take out what has ended, because nginx does not."""
        if self._held is None or self._identity is None or self._identity != _identity(self._path):
            return False
        now = self._clock()
        if self._first_end <= now and self._turn_in() <= 0:
            await self._put(_in_force(self._held, now))
        return True

    async def missing(self) -> Sequence[str]:
        """Give nothing: nothing is heard."""
        return ()

    def watch(self, suspect: Callable[[], None]) -> AbstractContextManager[None]:
        """Hear nothing."""
        del suspect
        return nullcontext()

    async def dropped(self) -> int | None:
        """Give None: nginx does not count whom it refuses; its access log has them, with status 444."""
        return None

    async def counts(self) -> Mapping[str, Count]:
        """Give nothing."""
        return {}

    def _turn_in(self) -> float:
        return self._reloaded_at + self._apart - time.monotonic()

    async def _wait_for_turn(self) -> None:
        await asyncio.sleep(max(0.0, self._turn_in()))

    def _keep(self, blocks: _Blocks) -> None:
        self._held = blocks
        self._first_end = min((block.end for block in blocks.values() if block.end is not None), default=float("inf"))

    async def _put(self, blocks: _Blocks) -> None:
        self._identity = None
        banned = list({(block.packed, block.prefixlen): block for block in blocks.values()}.values())
        try:
            written = await asyncio.to_thread(_write, self._path, self._allow, banned)
        except OSError as error:
            kind = FirewallPermissionError if isinstance(error, PermissionError) else FirewallError
            raise kind(f"nginx: {self._path} cannot be written: {error.strerror}") from error
        self._keep(blocks)
        await self._tell_nginx()
        self._identity = written

    async def _tell_nginx(self) -> None:
        self._reloaded_at = time.monotonic()
        if not self._reload:
            return
        done = await run(self._reload, "install nginx, or set [firewall] reload", PATIENCE)
        if done.status:
            raise _error(self._reload, done.words)


def _error(command: Sequence[str], words: str) -> FirewallError:
    """Make an error of what the command said; the reason stands at the end, behind nginx's warnings."""
    said = " ".join(words.split())[-WORDS_MOST:] or "no reason given"
    if "ermission denied" in words or "not permitted" in words:
        return FirewallPermissionError(
            f"{' '.join(command)}: {said}; set [firewall] reload to a command that this user may run"
        )
    return FirewallError(f"{' '.join(command)}: {said}")


def _of_web(blocks: Iterable[Block]) -> _Blocks:
    return {block.key: block for block in blocks if is_web(block.ports)}


def _in_force(blocks: _Blocks, now: float) -> _Blocks:
    return {key: block for key, block in blocks.items() if block.is_in_force(now)}


def _write(path: Path, allow: Iterable[Network], banned: Iterable[Block]) -> _Identity:
    """Put the file in place of what is there, whole; give what to know it by."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with new.open("x") as opened:
        opened.writelines((HEAD, *_lines(allow, banned)))
        os.fchmod(opened.fileno(), 0o644)
    identity = _identity(new)
    new.replace(path)
    return identity or (0, 0, 0)


def _lines(allow: Iterable[Network], banned: Iterable[Block]) -> Iterator[str]:
    """Write the entries. `geo` takes the longest that holds a client, so no ban may lie inside a network let in."""
    let_in = NetworkMap((network, network.prefixlen) for network in allow)
    yield from (f"{_text(network)} 0;\n" for network, _ in let_in)
    for block in banned:
        first = Address("", block.version, int.from_bytes(block.packed), "")
        if not any(prefixlen <= block.prefixlen for prefixlen in let_in.holding(first)):
            yield f"{block.network} 1;\n"


def _text(network: Network) -> str:
    """Write a network from its numbers alone: an IPv6 network may carry a zone id, which is any text at all."""
    return str(type(network)((int(network.network_address), network.prefixlen)))


def _identity(path: Path) -> _Identity | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
