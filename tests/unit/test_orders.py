"""What people order, carried out on a real ban set."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

from appguard.address import Grouping, Network, parse_network
from appguard.ban import Ban
from appguard.banning import Banning
from appguard.jail import Jail
from appguard.jail_window import JailWindow
from appguard.judge import Judge
from appguard.orders import Orders, Parts
from appguard.pipeline import Outcome
from appguard.stores.base import Snapshot
from appguard.stores.memory import MemoryBanSet
from appguard.trials import Trials


class Bans(MemoryBanSet):
    """A ban set that counts how often all bans were asked for."""

    asked = 0

    def snapshot(self) -> Snapshot:
        """Count, and give all bans."""
        self.asked += 1
        return super().snapshot()


class Told:
    """What other parts of a daemon were told: the safelist, what not to count any more, and what came of it."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []
        self.outcomes: list[Outcome] = []

    def add(self, network: Network, seconds: float | None, reason: str) -> tuple[object, ...]:
        """Put on the safelist."""
        return network, seconds, reason

    def forget(self, bans: list[Ban]) -> None:
        """Count no more."""
        self.forgotten += [ban.key for ban in bans]


def test_a_network_on_the_safelist_lifts_its_bans_in_one_go() -> None:
    """All bans that share an address with it are lifted, of ports too, and no other.

    All bans are looked at once, and none of them is larger afterwards.
    """
    bans, told, judge = Bans(), Told(), Judge()
    window = JailWindow(Jail("login"), Grouping())
    banning = Banning({"login": window}, bans, judge, time.time, told.outcomes.append)
    for text in ("203.0.113.5", "203.0.113.6", "203.0.0.0/16", "198.51.100.1", "2001:db8::/64"):
        bans.ban(Ban.of(text, jail="login"))
    bans.ban(Ban(parse_network("203.0.113.5"), "login", time.time(), None, ports="tcp/22"))
    told_of = {"fleet": told, "on_outcome": told.outcomes.append}
    parts = SimpleNamespace(bans=bans, trials=Trials(judge), banning=banning, clock=time.time, **told_of)
    orders = Orders(cast("Parts", parts), cast("Any", None), cast("Any", None))
    _, lifted = asyncio.run(orders.add_to_safelist(parse_network("203.0.113.0/24"), None, "ours"))
    keys = sorted(ban.key for ban in lifted)
    assert keys == ["203.0.0.0/16", "203.0.113.5", "203.0.113.5 tcp/22", "203.0.113.6"]
    assert bans.asked == 1
    assert all("broadcast_address" not in vars(ban.network) for ban in bans.snapshot().bans)
    assert sorted(told.forgotten) == keys
    assert len(told.outcomes) == 1
    assert sorted(ban.key for ban in bans.snapshot().bans) == ["198.51.100.1", "2001:db8::/64"]
