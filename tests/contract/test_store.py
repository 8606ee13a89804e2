"""What every store must do, asked of `memory://` and of `local://` with a daemon's side that publishes to it."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.address import Network, parse_address, parse_network
from appguard.ban import Ban
from appguard.errors import ConfigError
from appguard.limit import ADMITTED, Hit, Limit
from appguard.stores.base import Store
from appguard.stores.local import LocalStore, Publisher
from appguard.stores.memory import MemoryBanSet, MemoryStore
from appguard.stores.open import default_uri, open_store
from tests.strategies import near_networks

NOW = 1_800_000_000.0


@dataclass(slots=True)
class Clock:
    """A clock that stands still until it is moved: Unix seconds, and monotonic seconds beside it."""

    now: float = NOW

    def wall(self) -> float:
        """Give Unix seconds."""
        return self.now

    def monotonic(self) -> float:
        """Give monotonic seconds."""
        return self.now - NOW + 5000


@dataclass(slots=True)
class World:
    """A store as an app has it, whoever may change its bans, and what carries the changes over."""

    clock: Clock
    store: Store
    bans: MemoryBanSet
    publisher: Publisher | None = None
    _cursor: int = 0

    def __enter__(self) -> Self:
        """Open what a test needs."""
        if self.publisher is not None:
            self.publisher.publish_all([])
        return self

    def __exit__(self, *_error: object) -> None:
        """Close both sides."""
        self.store.close()
        if self.publisher is not None:
            self.publisher.close()

    def spread(self) -> None:
        """Carry the changes over to the app, as the daemon does."""
        if self.publisher is not None:
            changes = self.bans.follow(self._cursor)
            assert changes is not None
            self.publisher.publish(self.bans.for_apps(changes.facts), self.bans.bans_for_apps)
            self._cursor = changes.cursor

    def ban(self, ban: Ban) -> Ban | None:
        """Ban as whoever may."""
        kept = self.bans.ban(ban)
        self.spread()
        return kept

    def unban(self, network: str) -> Ban | None:
        """Unban as whoever may."""
        lifted = self.bans.unban(parse_network(network))
        self.spread()
        return lifted

    def get(self, address: str) -> Ban | None:
        """Ask as the app does."""
        return self.store.get(parse_address(address))


def memory_world() -> World:
    """Make a world of one process."""
    clock = Clock()
    store = MemoryStore(clock.wall, clock.monotonic)
    return World(clock, store, store)


def local_world(directory: Path) -> World:
    """Make a world of a daemon that publishes and an app that reads."""
    clock = Clock()
    store = LocalStore(directory, clock.wall, clock.monotonic)
    return World(clock, store, MemoryBanSet(clock.wall), Publisher(directory))


@pytest.fixture(params=["memory", "local"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Give a world with each kind of store."""
    world = memory_world() if request.param == "memory" else local_world(tmp_path)
    with world:
        yield world


def automatic(address: str, seconds: float | None, clock: Clock) -> Ban:
    """Make a jail's ban from now."""
    end = None if seconds is None else clock.now + seconds
    return Ban(parse_network(address), "login", clock.now, end, automatic=True)


def test_ban_is_seen_at_the_next_request(world: World) -> None:
    """A ban holds for its address, with the start and version it was given, and for no other."""
    assert world.get("203.0.113.5") is None
    kept = world.ban(Ban.of("203.0.113.5", bantime="10m", reason="abuse"))
    assert kept is not None
    assert (kept.start, kept.end) == (NOW, NOW + 600)
    found = world.get("203.0.113.5")
    assert found is not None
    assert (found.key, found.jail, found.start, found.end) == (kept.key, kept.jail, kept.start, kept.end)
    assert (found.version, found.ref) == (kept.version, kept.ref)
    assert world.get("::ffff:203.0.113.5") == found
    assert world.get("203.0.113.6") is None


def test_ban_of_a_network_holds_for_all_of_it(world: World) -> None:
    """IPv4 and IPv6 networks, a /64 and a single IPv6 address each hold for exactly their addresses."""
    for network in ("198.51.100.0/24", "2001:db8:1::/48", "2001:db8:2:3::/64", "2001:db8:4::1"):
        assert world.ban(Ban.of(network)) is not None
    for inside in ("198.51.100.0", "198.51.100.255", "2001:db8:1:ffff::1", "2001:db8:2:3:4::", "2001:db8:4::1"):
        assert world.get(inside) is not None
    for outside in ("198.51.101.0", "2001:db8:2::1", "2001:db8:2:4::1", "2001:db8:4::2"):
        assert world.get(outside) is None


def test_ban_ends_by_itself(world: World) -> None:
    """At its end a ban is over, without anybody doing anything; a permanent one never is."""
    world.ban(Ban.of("203.0.113.5", bantime=60))
    world.ban(Ban.of("203.0.113.6", bantime=-1))
    world.clock.now += 59.999
    assert world.get("203.0.113.5") is not None
    world.clock.now += 0.001
    assert world.get("203.0.113.5") is None
    assert [ban.key for ban in world.store.snapshot().bans] == ["203.0.113.6"]
    assert world.unban("203.0.113.5") is None
    world.clock.now += 1e9
    assert world.get("203.0.113.6") is not None


def test_ended_bans_are_given_once_by_expire(world: World) -> None:
    """What has ended is given to be told of, once; what was extended or lifted meanwhile is not."""
    for seconds, address in ((60, "203.0.113.5"), (60, "203.0.113.6"), (60, "203.0.113.7"), (None, "203.0.113.8")):
        world.ban(automatic(address, seconds, world.clock))
    world.ban(automatic("203.0.113.6", 90, world.clock))
    world.unban("203.0.113.7")
    world.clock.now += 60
    assert [ban.key for ban in world.bans.expire()] == ["203.0.113.5"]
    assert world.bans.expire() == []
    world.clock.now += 30
    assert [ban.key for ban in world.bans.expire()] == ["203.0.113.6"]


def test_ban_that_has_already_ended_is_not_taken(world: World) -> None:
    """A jail that counted an old log does not ban in the past."""
    assert world.ban(Ban(parse_network("203.0.113.5"), "login", NOW - 60, NOW)) is None
    assert world.get("203.0.113.5") is None


def test_automatic_ban_only_extends(world: World) -> None:
    """A jail neither shortens nor repeats a ban; a person may shorten, and that stands until a jail goes beyond it."""
    assert world.ban(automatic("203.0.113.5", 600, world.clock)) is not None
    assert world.ban(automatic("203.0.113.5", 600, world.clock)) is None
    assert world.ban(automatic("203.0.113.5", 60, world.clock)) is None
    assert world.ban(automatic("203.0.113.5", 700, world.clock)) is not None
    assert world.ban(Ban.of("203.0.113.5", bantime=30)) is not None
    found = world.get("203.0.113.5")
    assert found is not None
    assert found.end == NOW + 30
    assert world.ban(Ban.of("203.0.113.5", bantime=-1)) is not None
    assert world.ban(automatic("203.0.113.5", None, world.clock)) is None


def test_unban_lifts_exactly_one_network(world: World) -> None:
    """The ban lifted is given back; a ban of another size, or of none, is left alone."""
    kept = world.ban(Ban.of("203.0.113.0/24"))
    world.ban(Ban.of("2001:db8::/64"))
    for other in ("203.0.113.5", "203.0.113.0/25", "203.0.112.0/23", "2001:db8::1", "2001:db8::/63"):
        assert world.unban(other) is None
    assert world.get("203.0.113.5") is not None
    assert world.unban("203.0.113.0/24") == kept
    assert world.get("203.0.113.5") is None
    assert world.unban("203.0.113.0/24") is None
    assert world.unban("2001:db8::/64") is not None
    assert world.get("2001:db8::1") is None


def test_bans_of_ports_are_bans_of_their_own(world: World) -> None:
    """Whole and by ports, an address is banned by each by itself, and refused by an app for the web's ports only."""
    with world:
        network, address = parse_network("203.0.113.5"), parse_address("203.0.113.5")
        for ports in ("tcp/22", "tcp/80", "tcp/443"):
            assert world.bans.ban(replace(Ban.of("203.0.113.5", bantime=60), ports=ports))
        world.spread()
        assert world.store.get(address)
        assert world.bans.unban(network, "tcp/80")
        assert world.bans.unban(network) is None
        world.spread()
        assert world.store.get(address)
        assert world.bans.unban(network, "tcp/443")
        world.spread()
        assert world.store.get(address) is None
        assert [ban.ports for ban in world.bans.snapshot().bans] == ["tcp/22"]
        world.clock.now += 61
        assert [ban.key for ban in world.bans.expire()] == ["203.0.113.5 tcp/22"]


def test_versions_only_grow(world: World) -> None:
    """Each ban and each unban is a fact with a version above all before it, also when the clock steps back."""
    for step in (0.0, 1.0, -3600.0, 0.0):
        world.clock.now += step
        world.ban(Ban.of("203.0.113.5"))
        world.ban(Ban.of("203.0.113.6"))
        world.unban("203.0.113.5")
    changes = world.bans.follow(0)
    assert changes is not None
    versions = [fact.version for fact in changes.facts]
    assert len(versions) == 12
    assert versions == sorted(set(versions))
    assert [fact.ban is None for fact in changes.facts] == [False, False, True] * 4


def test_follower_of_nothing_new_hears_nothing(world: World) -> None:
    """A cursor stays good while nothing changes, and one from another life is answered by None or by nothing."""
    world.ban(Ban.of("203.0.113.5"))
    cursor = world.store.snapshot().cursor
    changes = world.store.follow(cursor)
    assert changes is not None
    assert (changes.cursor, changes.facts) == (cursor, ())
    assert world.store.follow(cursor + 1_000) is None


steps = st.lists(
    st.tuples(near_networks, st.sampled_from(["ban", "jail", "unban", "wait"]), st.integers(1, 20)), max_size=25
)


@pytest.mark.parametrize("kind", ["memory", "local"])
@given(steps=steps)
def test_store_and_its_follower_agree_with_a_plain_model(kind: str, steps: list[tuple[Network, str, int]]) -> None:
    """After any changes the store, and whoever follows it, holds exactly the bans a plain dictionary holds."""
    with TemporaryDirectory() as directory:
        world = memory_world() if kind == "memory" else local_world(Path(directory))
        with world:
            agree_with_a_plain_model(world, steps)


def agree_with_a_plain_model(world: World, steps: list[tuple[Network, str, int]]) -> None:
    """Do the steps in the world and in a dictionary of ends, and compare."""
    ends: dict[Network, float] = {}
    followed = {ban.network: ban for ban in world.store.snapshot().bans}
    cursor = world.store.snapshot().cursor
    for network, step, seconds in steps:
        end = world.clock.now + seconds
        in_force = ends.get(network, 0.0) > world.clock.now
        if step == "wait":
            world.clock.now += seconds
        elif step == "unban":
            assert (world.unban(str(network)) is not None) is in_force
            ends.pop(network, None)
        elif step == "ban":
            assert world.ban(Ban(network, "manual", world.clock.now, end)) is not None
            ends[network] = end
        else:
            is_longer = not in_force or end > ends[network]
            assert (world.ban(automatic(str(network), seconds, world.clock)) is not None) is is_longer
            ends[network] = max(end, ends[network]) if in_force else end
        ends = {network: end for network, end in ends.items() if end > world.clock.now}
        changes = world.store.follow(cursor)
        if changes is None:
            snapshot = world.store.snapshot()
            followed, cursor = {ban.network: ban for ban in snapshot.bans}, snapshot.cursor
        else:
            for fact in changes.facts:
                followed.pop(fact.network, None)
                followed |= {fact.network: fact.ban} if fact.ban else {}
            cursor = changes.cursor
        assert {ban.network: ban.end for ban in world.store.snapshot().bans} == ends
        assert {key: ban.end for key, ban in followed.items() if ban.in_force(world.clock.now)} == ends
        for address in (network.network_address, network.broadcast_address, ip_address("203.0.113.7")):
            assert (world.get(str(address)) is not None) is any(address in mine for mine in ends)


# Counters


def hit(rate: str, key: str = "203.0.113.5") -> Hit:
    """Make a hit of a client on a limit."""
    return Hit(f"{key} {rate}", Limit(rate))


def test_amount_is_admitted_and_no_more(world: World) -> None:
    """A client has its amount per window, whatever others do; the wait is what is left of the window."""
    for _ in range(5):
        assert world.store.check([hit("5/minute")]).refused is None
    verdict = world.store.check([hit("5/minute")])
    assert (verdict.refused, verdict.wait) == (hit("5/minute"), 60.0)
    assert world.store.check([hit("5/minute", "203.0.113.50")]).refused is None
    world.clock.now += 60
    assert world.store.check([hit("5/minute")]).refused is None


def test_one_refusal_counts_nothing(world: World) -> None:
    """If one limit refuses, the others have not counted the request; the longest wait is told."""
    hits = [hit("10/hour"), hit("2/minute"), hit("3/second")]
    assert [world.store.check(hits).refused is None for _ in range(7)] == [True, True, *[False] * 5]
    assert world.store.check(hits).refused == hit("2/minute")
    assert [world.store.check([hit("10/hour")]).refused is None for _ in range(9)] == [True] * 8 + [False]
    verdict = world.store.check(hits)
    assert (verdict.refused, verdict.wait) == (hit("10/hour"), 3600.0)


def test_no_hits_are_admitted(world: World) -> None:
    """Nothing to count is nothing to refuse."""
    assert world.store.check([]).refused is None


def test_async_check_is_the_same_check(world: World) -> None:
    """Both ways of asking count the same requests."""

    async def ask() -> list[bool]:
        return [(await world.store.check_async([hit("3/minute")])).refused is None for _ in range(3)]

    assert world.store.check([hit("3/minute")]).refused is None
    assert asyncio.run(ask()) == [True, True, False]


def test_reset_forgets_one_client_under_every_limit(world: World) -> None:
    """A reset gives one client its whole amounts back, and nobody whose key only begins the same."""
    for key in ("203.0.113.5", "203.0.113.50"):
        for rate in ("1/minute", "1/hour"):
            world.store.check([hit(rate, key)])
    world.store.reset("203.0.113.5")
    assert world.store.check([hit("1/minute"), hit("1/hour")]).refused is None
    assert world.store.check([hit("1/minute", "203.0.113.50")]).refused is not None
    world.store.reset("203.0.113.99")


def test_what_was_reserved_is_given_back(world: World) -> None:
    """A reserved hit that is given back frees its place, by threads and on a loop; a cost of nothing only asks."""
    limit = Limit("2/hour", path="/login", count="auth_failure")
    reserved = Hit("203.0.113.5 login", limit, 1, None, is_reserved=True)
    asking = Hit("203.0.113.5 login", limit, 0)

    async def in_and_out() -> None:
        verdict = await world.store.check_async([hit("9/hour"), reserved])
        await world.store.give_back_async([reserved], verdict.time)

    verdict = ADMITTED
    for _ in range(5):
        world.clock.now += 1
        verdict = world.store.check([hit("99/hour"), reserved])
        assert verdict.refused is None
        world.store.give_back([reserved], verdict.time)
        asyncio.run(in_and_out())
    assert [world.store.check([asking]).refused for _ in range(9)] == [None] * 9
    assert [world.store.check([reserved]).refused is None for _ in range(3)] == [True, True, False]
    assert world.store.check([asking]).refused == asking
    world.store.give_back([Hit("203.0.113.99 login", limit)], verdict.time)  # nothing was counted there


def test_resets_and_lifts_are_heard(world: World) -> None:
    """Whoever remembers refusals can tell that something was reset, or a ban lifted, since."""
    world.store.check([hit("1/hour")])
    world.get("203.0.113.5")
    before = (world.store.resets, world.store.lifts)
    world.ban(Ban.of("203.0.113.5"))
    assert world.get("203.0.113.5") is not None
    assert (world.store.resets, world.store.lifts) == before
    world.store.reset("203.0.113.5")
    assert world.store.resets != before[0]
    world.unban("203.0.113.5")
    assert world.get("203.0.113.5") is None
    assert world.store.lifts != before[1]


def test_threads_together_get_the_amount(world: World) -> None:
    """However many threads ask at once, exactly the amount is admitted."""
    answers: list[bool] = []

    def ask() -> None:
        hits = [hit("250/minute"), hit("600/hour")]
        answers.extend(world.store.check(hits).refused is None for _ in range(100))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(answers), sum(answers)) == (800, 250)


def test_closed_store_opens_again(world: World) -> None:
    """Closing may be repeated, and the next use works."""
    world.ban(Ban.of("203.0.113.5"))
    for _ in range(2):
        world.store.close()
        world.store.close()
        assert world.get("203.0.113.5") is not None
        assert len(world.store.snapshot().bans) == 1


# Opening by URI


@pytest.mark.parametrize(
    ("uri", "kind", "name"),
    [
        ("memory://", MemoryStore, "memory://"),
        ("local://", LocalStore, "local://"),
        ("local:///run/other", LocalStore, "local://"),
    ],
)
def test_store_is_opened_by_its_uri(uri: str, kind: type[Store], name: str) -> None:
    """A URI names a store; constructing it opens nothing, so its directory may be missing."""
    with open_store(uri) as store:
        assert isinstance(store, kind)
        assert store.name == name


def test_default_store_is_one_that_can_be_opened() -> None:
    """Without a URI there is a store, whatever this host has."""
    with open_store() as store:
        assert store.name == default_uri()


@pytest.mark.parametrize("uri", ["memory", "local", "memory://x", "local://run", "local:/run", "file:///x", "x", "://"])
def test_wrong_uri_is_named(uri: str) -> None:
    """What is no store's URI is refused with the value and what is accepted."""
    with pytest.raises(ConfigError) as caught:
        open_store(uri)
    assert str(caught.value).startswith(f"store = {uri!r}: expected 'memory://', 'local://'")


def test_wrong_uri_shows_no_password() -> None:
    """A password in a URI we cannot open is not printed."""
    with pytest.raises(ConfigError) as caught:
        open_store("amqp://user:sec@ret@host/0")
    assert "sec" not in str(caught.value)
    assert "ret@" not in str(caught.value)
