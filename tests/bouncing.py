"""A bouncer with a real ban set and a firewall that remembers, for tests of the bouncer."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from appguard.address import Address, Network, network_text, parse_network
from appguard.ban import Ban
from appguard.bouncer import Bouncer
from appguard.errors import FirewallError, FirewallFullError
from appguard.firewalls.base import Block, Late, nobody
from appguard.firewalls.dry_run import DryRun
from appguard.host import HostFacts
from appguard.judge import Judge
from appguard.stores.memory import MemoryBanSet

START = 1_800_000_000.0
NEVER = 3600.0  # an interval no test waits for


class Recording(DryRun):
    """A dry run that keeps the verbs it was asked, and fails as long as it is told to."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock=clock)
        self.verbs: list[str] = []
        self.fails = ""
        self.given: dict[str, float] = {}  # the seconds of each network that the last replace gave

    def _note(self, verb: str) -> None:
        self.verbs.append(verb)
        if self.fails:
            raise FirewallError(self.fails)

    async def replace(self, allow: Sequence[Network], blocks: Iterable[Block], late: Late = nobody) -> None:
        """Note and do it."""
        self._note("replace")
        await super().replace(allow, blocks, late)
        self.given = {text: end - self._clock() for text, end in self.ends().items() if end is not None}

    async def change(self, add: Sequence[Block], remove: Sequence[Block]) -> None:
        """Note and do it."""
        self._note(f"change +{len(add)} -{len(remove)}")
        await super().change(add, remove)

    async def lift(self) -> None:
        """Note and do it."""
        self._note("lift")
        await super().lift()

    @property
    def held(self) -> set[str]:
        """Give the networks held, as text."""
        return set(self.ends())

    def ends(self) -> dict[str, float | None]:
        """Give the end of each network held."""
        return {network_text(block.network): block.end for block in self.blocks}


class Small(Recording):
    """A firewall that has room for three hosts."""

    size = 3

    async def change(self, add: Sequence[Block], remove: Sequence[Block]) -> None:
        """Do it if there is room."""
        there = {block.key for block in self.blocks} - {block.key for block in remove}
        if len(there | {block.key for block in add}) > self.size:
            raise FirewallFullError("full", 4, 32, self.size)
        await super().change(add, remove)


@dataclass
class World:
    """A bouncer and all it works with; time and facts are what the test says."""

    now: float = START
    ahead: float = 0.0  # by which the clock was set
    facts: HostFacts = field(default_factory=HostFacts)
    administrators: tuple[Address, ...] = ()
    safelist: tuple[Network, ...] = ()
    interval: float = NEVER
    ban_set: MemoryBanSet = field(init=False)
    firewall: Recording = field(init=False)
    bouncer: Bouncer = field(init=False)

    def __post_init__(self) -> None:
        """Put the parts together."""
        self.ban_set = MemoryBanSet(self.clock)
        self.firewall = Recording(self.clock)
        self.bouncer = self.new_bouncer()

    def clock(self) -> float:
        """Give the time."""
        return self.now + self.ahead

    def new_bouncer(self) -> Bouncer:
        """Give another bouncer of the same ban set and firewall."""
        return Bouncer(
            self.ban_set,
            self.firewall,
            Judge(safelist=self.safelist),
            self.clock,
            read_facts=lambda: self.facts,
            read_administrators=lambda: self.administrators,
            monotonic=lambda: self.now,
            interval=self.interval,
        )

    def ban(self, text: str, seconds: float = 600, *, automatic: bool = False) -> None:
        """Put a ban into the ban set and wake the bouncer."""
        end = None if seconds == -1 else self.now + seconds
        assert self.ban_set.ban(Ban(parse_network(text), "test", self.now, end, automatic=automatic))
        self.bouncer.wake()

    def unban(self, text: str) -> None:
        """Lift a ban and wake the bouncer."""
        assert self.ban_set.unban(parse_network(text))
        self.bouncer.wake()

    def settle(self) -> None:
        """Let the bouncer go one round."""
        asyncio.run(self.bouncer.settle())


@asynccontextmanager
async def running(bouncer: Bouncer) -> AsyncGenerator[None]:
    """Run a bouncer, and cancel it."""
    task = asyncio.create_task(bouncer.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool], what: str, within: float = 5) -> None:
    """Wait for a condition."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within):
            while not condition():  # noqa: ASYNC110 - neither a firewall nor the kernel tells that it changed
                await asyncio.sleep(0.002)
            return
    raise AssertionError(what)


def play(scene: Callable[[World], Coroutine[object, object, None]], world: World) -> None:
    """Play a scene with the bouncer running."""

    async def whole() -> None:
        async with running(world.bouncer):
            await scene(world)

    asyncio.run(whole())
