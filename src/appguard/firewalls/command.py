"""The firewall that is a program of the user's own: iptables with ipset, pf, a router, a cloud's API.

Theory of operation. The program is started for each verb, is told it on standard input, a line for each thing, and
says by its exit status whether it did all of it (`docs/firewalls.md` is the contract). It need not remember anything
nor know a clock: what has ended is also taken out by a line, since not everything can forget by itself. A program may
be slow, so that `intact` and `dropped` are asked now and then only, and answered from memory in between.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from appguard.address import Network
from appguard.errors import ConfigError, FirewallError, FirewallPermissionError
from appguard.firewalls.base import Block, Count, Late, all_of, nobody
from appguard.firewalls.program import Done, run

LEASE = 7 * 86400.0  # seconds a ban without an end is given; the bouncer renews it every day
LOOK_EVERY = 10.0  # seconds
PATIENCE = 60.0  # seconds the program may take
WORDS_MOST = 300

_Blocks = dict[str, Block]  # by key, all with ends


class Command:
    """Has a program shut out clients; `command` is the program and its arguments.

    Raise `ConfigError` if there is none.
    """

    name = "command"

    def __init__(
        self,
        *,
        command: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
        look_every: float = LOOK_EVERY,
        patience: float = PATIENCE,
    ) -> None:
        if not command:
            raise ConfigError('firewall: kind = "command" needs command = ["/path/of/program", ...]: docs/firewalls.md')
        self._command = tuple(command)
        self._clock = clock
        self._look_every = look_every
        self._patience = patience
        self._has_ports: bool | None = None  # whether the program holds bans of some ports alone; None: not asked yet
        self._given: _Blocks | None = None  # what the program was given; None before `replace`
        self._is_intact = False
        self._dropped: int | None = None
        self._look_at = 0.0

    async def replace(self, allow: Sequence[Network], blocks: Iterable[Block], late: Late = nobody) -> None:
        """Tell everything."""
        if self._has_ports is None:
            done = await self._run("ports", ())
            self._has_ports = None if done.status else done.output.strip() == "yes"
        given = self._ending(await all_of(blocks, late))
        self._given = None
        now = self._clock()
        kept = _in_force(given, now)
        await self._tell("replace", [*(f"allow {_text(network)}" for network in allow), *_bans(kept.values(), now)])
        self._given = kept
        self._look_at = 0.0

    async def change(self, add: Sequence[Block], remove: Sequence[Block]) -> None:
        """Tell what is new, and what has ended."""
        if self._given is None:
            raise FirewallError("command: there is nothing of ours to change; replace comes first")
        now = self._clock()
        new = self._ending(add)
        kept = _in_force(new, now)
        gone = {block.key: block for block in (*remove, *self._ended(now), *new.values())}
        lines = [_unban(block) for key, block in gone.items() if key not in kept]
        await self._tell("change", [*lines, *_bans(kept.values(), now)])
        self._given = {key: block for key, block in self._given.items() if key not in gone} | kept

    def refusal(self, ports: str) -> str:
        """Say so if the program does not say that it holds such bans."""
        return "" if not ports or self._has_ports else f"{self._command[0]} holds no bans of some ports alone"

    async def lift(self) -> None:
        """Tell it to take everything away."""
        await self._tell("lift", ())
        self._given, self._is_intact, self._dropped = None, False, None

    async def intact(self) -> bool:
        """Ask, if that is long enough ago, and take out what has ended."""
        if self._given is None:
            return False
        now = self._clock()
        if self._look_at - self._look_every <= now < self._look_at:
            return self._is_intact
        said = (await self._tell("intact", ())).output.strip()
        if said not in ("yes", "no"):
            raise FirewallError(f"{self._command[0]} intact: said {said[:WORDS_MOST]!r}, expected 'yes' or 'no'")
        self._is_intact = said == "yes"
        if self._is_intact:
            self._dropped = await self._ask_dropped()
            if self._ended(now):
                await self.change((), ())
        self._look_at = now + self._look_every
        return self._is_intact

    async def missing(self) -> Sequence[str]:
        """Give nothing: nothing is heard."""
        return ()

    def watch(self, suspect: Callable[[], None]) -> AbstractContextManager[None]:
        """Hear nothing."""
        del suspect
        return nullcontext()

    async def dropped(self) -> int | None:
        """Give what the program last said; None if it does not count."""
        if self._dropped is None and self._given is not None and not self._look_at:
            self._dropped = await self._ask_dropped()
        return self._dropped

    async def counts(self) -> Mapping[str, Count]:
        """Give nothing."""
        return {}

    async def _ask_dropped(self) -> int | None:
        said = (await self._tell("dropped", ())).output.strip()
        return int(said) if said.isascii() and said.isdigit() else None

    def _ending(self, blocks: Iterable[Block]) -> _Blocks:
        lease = self._clock() + LEASE
        return {block.key: block._replace(end=lease) if block.end is None else block for block in blocks}

    def _ended(self, now: float) -> list[Block]:
        return [block for block in (self._given or {}).values() if not block.is_in_force(now)]

    async def _tell(self, verb: str, lines: Iterable[str]) -> Done:
        done = await self._run(verb, lines)
        if done.status:
            raise self._error(verb, done)
        return done

    async def _run(self, verb: str, lines: Iterable[str]) -> Done:
        text = "".join(f"{line}\n" for line in (verb, *lines, "end"))
        return await run(self._command, "set [firewall] command", self._patience, text=text)

    def _error(self, verb: str, done: Done) -> FirewallError:
        said = " ".join(done.words.split())[-WORDS_MOST:] or "no reason given"
        kind = FirewallPermissionError if "ermission denied" in said or "not permitted" in said else FirewallError
        return kind(f"{self._command[0]} {verb}: exit status {done.status}: {said}")


def _in_force(blocks: _Blocks, now: float) -> _Blocks:
    return {key: block for key, block in blocks.items() if block.is_in_force(now)}


def _bans(blocks: Iterable[Block], now: float) -> Iterator[str]:
    """Write bans; those of some ports alone have a word of their own, so that who does not know it bans nobody more."""
    for block in blocks:
        network, seconds, ports = block.network, max(1, round((block.end or 0.0) - now)), block.ports
        yield f"ban-ports {network} {seconds} {ports}" if ports else f"ban {network} {seconds}"


def _unban(block: Block) -> str:
    return f"unban-ports {block.network} {block.ports}" if block.ports else f"unban {block.network}"


def _text(network: Network) -> str:
    """Write a network from its numbers alone: an IPv6 network may carry a zone id, which is any text at all."""
    return str(type(network)((int(network.network_address), network.prefixlen)))
