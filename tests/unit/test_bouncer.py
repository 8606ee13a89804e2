"""The bouncer against a real ban set and a firewall that remembers."""

import asyncio
import logging
from collections.abc import Iterable, Sequence, Sized
from contextlib import nullcontext

import pytest

from appguard.address import Network, network_text, parse_address, parse_network
from appguard.ban import Ban
from appguard.bouncer import Bouncer
from appguard.errors import FirewallError
from appguard.firewalls.base import Block, Late, nobody
from appguard.host import HostFacts
from appguard.mirror import RENEWAL
from appguard.stores.memory import FACTS_KEPT
from tests.bouncing import NEVER, START, Recording, Small, World, play, until


def test_bans_from_before_the_start_are_given_at_once() -> None:
    """The first round swaps in all bans in one replace, so that nothing from before has to be lifted first."""
    world = World()
    world.ban("203.0.113.5")
    world.ban("2001:db8:5::/64")
    world.settle()
    assert world.firewall.held == {"203.0.113.5", "2001:db8:5::/64"}
    assert world.firewall.verbs == ["replace"]


def test_a_wake_is_answered_without_waiting() -> None:
    """A ban and its lifting reach the firewall on `wake` alone, the interval being an hour."""

    async def scene(world: World) -> None:
        await until(lambda: world.firewall.verbs == ["replace"], "no start")
        world.ban("203.0.113.5")
        await until(lambda: world.firewall.held == {"203.0.113.5"}, "the ban did not arrive")
        world.unban("203.0.113.5")
        await until(lambda: not world.firewall.held, "the lifting did not arrive")
        assert world.firewall.verbs == ["replace", "change +1 -0", "change +0 -1"]

    play(scene, World())


def test_what_is_pending_goes_in_one_change() -> None:
    """Many bans and liftings between two rounds cost one change of the firewall."""
    world = World()
    world.ban("203.0.113.5")
    world.settle()
    for number in range(100):
        world.ban(f"198.51.100.{number}")
    world.unban("198.51.100.7")
    world.unban("203.0.113.5")
    world.settle()
    assert world.firewall.verbs == ["replace", "change +99 -1"]


def test_a_missed_wake_is_made_good() -> None:
    """A ban that nobody woke the bouncer for is enforced within the interval."""

    async def scene(world: World) -> None:
        await until(lambda: world.firewall.verbs == ["replace"], "no start")
        world.ban_set.ban(Ban.of("203.0.113.5"))
        await until(lambda: world.firewall.held == {"203.0.113.5"}, "the ban was not found")

    play(scene, World(interval=0.02))


def test_a_new_end_is_given_and_an_old_one_is_not() -> None:
    """A longer or shorter ban of the same network goes to the firewall; a round without news asks nothing of it."""
    world = World()
    world.settle()
    for seconds in (600, 1200, 300):
        world.ban("203.0.113.5", seconds)
        world.settle()
        world.settle()
        assert world.firewall.blocks == (Block.of(parse_network("203.0.113.5"), START + seconds, jail="test"),)
    assert world.firewall.verbs == ["replace", *["change +1 -0"] * 3]


def test_an_ended_ban_is_forgotten_without_asking_the_firewall() -> None:
    """The firewall ends bans by itself; the bouncer only stops counting them, and may enforce the next one."""
    world = World()
    world.ban("203.0.113.5", 600)
    world.ban("203.0.113.6", 900)
    world.settle()
    assert world.bouncer.status.enforced == 2
    world.now += 700
    world.settle()
    assert world.bouncer.status.enforced == 1
    assert world.firewall.verbs == ["replace"]
    world.ban("203.0.113.5")
    world.settle()
    assert world.firewall.held == {"203.0.113.5", "203.0.113.6"}


def test_permanent_bans_are_renewed() -> None:
    """A ban without an end is given again once a day, others are not."""
    world = World()
    world.ban("203.0.113.5", -1)
    world.ban("203.0.113.6", 10 * RENEWAL)
    world.settle()
    world.now += RENEWAL - 10
    world.settle()
    assert world.firewall.verbs == ["replace"]
    for _ in range(2):
        world.now += RENEWAL
        world.settle()
    assert world.firewall.verbs == ["replace", "change +1 -0", "change +1 -0"]


def test_the_history_may_be_lost() -> None:
    """When the ban set no longer knows what changed, the bouncer takes a snapshot and gives only the difference."""
    world = World()
    world.ban("203.0.113.5")
    world.ban("203.0.113.6")
    world.settle()
    world.unban("203.0.113.5")
    for _ in range(FACTS_KEPT + 1):
        world.ban("203.0.113.7")
    assert world.ban_set.follow(0) is None
    world.settle()
    assert world.firewall.held == {"203.0.113.6", "203.0.113.7"}
    assert world.firewall.verbs == ["replace", "change +1 -1"]


def test_a_refused_ban_is_visible_and_never_enforced(caplog: pytest.LogCaptureFixture) -> None:
    """What the judge refuses is logged once with its reason, shown in the status, and kept out of the firewall."""
    world = World(safelist=(parse_network("192.0.2.0/24"),))
    world.ban("192.0.2.5")
    world.ban("203.0.113.5", 3 * NEVER)
    with caplog.at_level(logging.WARNING, "appguard.bouncer"):
        for _ in range(3):
            world.settle()
            world.now += 1
            world.ban("192.0.2.5", NEVER)
    assert world.firewall.held == {"203.0.113.5"}
    ((refused, why),) = world.bouncer.status.refused.values()
    assert refused.key == "192.0.2.5"
    assert "on the safelist" in why
    assert [record.getMessage() for record in caplog.records] == [f"[test] 192.0.2.5 is not enforced: {why}"]
    world.unban("192.0.2.5")
    world.settle()
    assert not world.bouncer.status.refused


def test_a_ban_is_judged_again_when_the_facts_change() -> None:
    """An administrator who logs in from a banned address is let in; when the session ends the ban is enforced again."""
    world = World(interval=1.0)
    world.ban("203.0.113.5")
    world.settle()
    for session, held in (((parse_address("203.0.113.5"),), set[str]()), ((), {"203.0.113.5"})):
        world.administrators = session
        world.now += 2
        world.settle()
        assert world.firewall.held == held
        assert len(world.bouncer.status.refused) == len(session)


def test_those_let_in_follow_the_host() -> None:
    """A new address of this host is let in by a new replace, together with the safelist."""
    world = World(safelist=(parse_network("192.0.2.0/24"),), interval=1.0)
    world.settle()
    assert world.firewall.allow == (parse_network("192.0.2.0/24"),)
    world.facts = HostFacts(own=(parse_network("198.51.100.1"),), resolvers=(parse_address("203.0.113.53"),))
    world.now += 2
    world.settle()
    assert set(map(network_text, world.firewall.allow)) == {"192.0.2.0/24", "198.51.100.1", "203.0.113.53"}
    assert world.firewall.verbs == ["replace", "replace"]


def test_a_forced_ban_is_enforced_until_it_is_lifted() -> None:
    """Force holds for one network and one ban: the next ban of that network is refused again."""
    world = World(facts=HostFacts(own=(parse_network("198.51.100.1"),)))
    world.settle()
    world.ban("198.51.100.0/24")
    world.settle()
    assert not world.firewall.held
    world.unban("198.51.100.0/24")
    world.bouncer.force("198.51.100.0/24")
    world.ban("198.51.100.0/24")
    world.settle()
    assert world.firewall.held == {"198.51.100.0/24"}
    world.unban("198.51.100.0/24")
    world.settle()
    world.ban("198.51.100.0/24")
    world.settle()
    assert not world.firewall.held
    assert len(world.bouncer.status.refused) == 1


def test_a_forced_ban_that_ended_is_not_forced_again() -> None:
    """Force ends with the ban."""
    world = World(facts=HostFacts(own=(parse_network("198.51.100.1"),)))
    world.bouncer.force("198.51.100.0/24")
    world.ban("198.51.100.0/24", 600)
    world.settle()
    world.now += 601
    world.settle()
    world.ban("198.51.100.0/24")
    world.settle()
    assert not world.firewall.held


def test_hold_lifts_and_release_enforces() -> None:
    """While held nothing is enforced, whatever is banned; release enforces all that is in force by then."""
    world = World()
    world.ban("203.0.113.5")
    world.settle()
    world.bouncer.hold()
    world.settle()
    assert not world.firewall.held
    assert world.bouncer.status.is_held
    world.ban("203.0.113.6")
    world.now += NEVER
    world.settle()
    world.ban("203.0.113.7")
    world.settle()
    assert world.firewall.verbs == ["replace", "lift"]
    world.bouncer.release()
    world.settle()
    assert world.firewall.held == {"203.0.113.7"}  # the others ended meanwhile
    released = world.bouncer.status
    assert not released.is_held
    world.bouncer.hold()
    world.settle()
    assert not world.firewall.held


def test_held_from_the_start() -> None:
    """A bouncer held before it runs takes away what an earlier one left, and enforces nothing."""
    world = World()
    world.ban("203.0.113.5")
    world.settle()
    world.bouncer = world.new_bouncer()
    world.bouncer.hold()
    world.settle()
    assert not world.firewall.held
    assert world.bouncer.status.enforced == 0


def test_the_end_of_the_bouncer_lifts_nothing() -> None:
    """Cancelled, it leaves in the firewall what is there."""
    world = World()
    world.ban("203.0.113.5")

    async def scene(world: World) -> None:
        await until(lambda: bool(world.firewall.held), "no start")

    play(scene, world)
    assert world.firewall.held == {"203.0.113.5"}
    assert world.firewall.verbs == ["replace"]


def test_a_failure_is_said_once_and_made_good(caplog: pytest.LogCaptureFixture) -> None:
    """A failing firewall is an error in the status and one line in the log; when it works again all is enforced."""

    async def scene(world: World) -> None:
        await until(lambda: world.firewall.verbs == ["replace"], "no start")
        world.firewall.fails = "no room"
        world.ban("203.0.113.5")
        await until(lambda: world.firewall.verbs.count("replace") > 3, "not tried again")
        assert world.bouncer.status.error == "no room"
        world.firewall.fails = ""
        await until(lambda: world.firewall.held == {"203.0.113.5"}, "not made good")
        await until(lambda: not world.bouncer.status.error, "still an error")

    with caplog.at_level(logging.ERROR, "appguard.bouncer"):
        play(scene, World())
    assert [record.getMessage() for record in caplog.records] == [
        "the firewall is not in step with the bans, trying again: no room"
    ]


def test_a_failed_change_is_followed_by_everything_anew() -> None:
    """After a change failed nobody knows what the firewall holds, so the same round gives it everything."""

    class Forgetful(Recording):
        async def change(self, add: Sequence[Block], remove: Sequence[Block]) -> None:
            raise FirewallError("no such table")

    world = World()
    world.firewall = Forgetful(world.clock)
    world.bouncer = world.new_bouncer()
    world.ban("203.0.113.5")
    world.settle()
    world.ban("203.0.113.6")
    world.settle()
    assert world.firewall.held == {"203.0.113.5", "203.0.113.6"}


def test_an_interrupted_change_is_followed_by_everything_anew() -> None:
    """If a change is cancelled on its way (a person gave up waiting), its outcome is unknown and all is given anew."""

    class Slow(Recording):
        async def change(self, add: Sequence[Block], remove: Sequence[Block]) -> None:
            await asyncio.Event().wait()

    async def given_up(bouncer: Bouncer) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await bouncer.settle()

    world = World()
    world.firewall = Slow(world.clock)
    world.bouncer = world.new_bouncer()
    world.ban("203.0.113.6")
    world.settle()
    world.ban("203.0.113.5")
    world.ban("203.0.113.6", 6000)
    asyncio.run(given_up(world.bouncer))
    world.settle()
    assert world.firewall.ends() == {"203.0.113.5": START + 600, "203.0.113.6": START + 6000}
    assert world.firewall.verbs == ["replace", "replace"]


def test_a_firewall_that_fails_to_lift_is_told_to_the_person_and_tried_again() -> None:
    """`settle` after `hold` raises the firewall's words; later rounds go on trying."""
    world = World()
    world.ban("203.0.113.5")
    world.settle()
    world.firewall.fails = "busy"
    world.bouncer.hold()
    with pytest.raises(FirewallError, match="busy"):
        world.settle()
    world.firewall.fails = ""
    world.settle()
    assert not world.firewall.held
    assert world.firewall.verbs == ["replace", "lift", "lift"]


@pytest.mark.parametrize("is_given_up", [False, True])
def test_a_ban_extended_during_a_load_keeps_its_new_end(is_given_up: bool) -> None:
    """What comes while a load goes on is newer than what was held before it, also if the load is given up."""

    class Extending(Recording):
        async def replace(self, allow: Sequence[Network], blocks: Iterable[Block], late: Late = nobody) -> None:
            rest = iter(blocks)
            first = next(rest)
            if self.fails == "gone":
                self.fails = ""
                world.ban("203.0.113.5", 6000)
                extended = await late()
                if is_given_up:
                    raise asyncio.CancelledError
                rest = iter((*extended, *rest))
            await super().replace(allow, (first, *rest), late)

        async def intact(self) -> bool:
            return self.fails != "gone"

    world = World(interval=1.0)
    world.firewall = Extending(world.clock)
    world.bouncer = world.new_bouncer()
    world.ban("203.0.113.5")
    world.ban("203.0.113.6")
    world.settle()
    world.firewall.fails = "gone"
    world.now += 2
    with pytest.raises(asyncio.CancelledError) if is_given_up else nullcontext():
        world.settle()
    world.settle()
    assert world.firewall.ends() == {"203.0.113.5": START + 6002, "203.0.113.6": START + 600}


OLD = [Ban(parse_network(f"10.0.0.{number}"), "old", START, START + 600, version=1) for number in range(20)]
IN_BRIEF = [*(ban.brief for ban in OLD), ("10.0.0", "old", None), ("10.0.1.1", "no jail", None)]


def test_what_is_saved_is_loaded_before_the_ban_set_has_it() -> None:
    """The first load has the saved bans but those the judge refuses; what does not come back in the end goes."""

    async def scene(world: World) -> None:
        await world.bouncer.tried.wait()
        world.ban("203.0.113.5")
        world.ban_set.restore(OLD[1:10])
        world.unban("10.0.0.7")
        await until(lambda: "203.0.113.5" in world.firewall.held, "the new ban has to wait")
        await until(lambda: "10.0.0.7" not in world.firewall.held, "the lifted one stays")
        assert world.firewall.held == {ban.key for ban in OLD[1:] if ban.key != "10.0.0.7"} | {"203.0.113.5"}
        world.bouncer.end_restore()
        await until(lambda: "10.0.0.10" not in world.firewall.held, "what did not come back stays")
        assert world.firewall.held == {ban.key for ban in OLD[1:10] if ban.key != "10.0.0.7"} | {"203.0.113.5"}
        assert world.firewall.verbs[0] == "replace"
        assert "replace" not in world.firewall.verbs[1:]

    world = World(safelist=(parse_network("10.0.0.0"),))
    world.bouncer.begin_restore(lambda: IN_BRIEF)
    play(scene, world)


def test_nobody_is_let_in_between_because_the_restore_ends_during_a_load() -> None:
    """What came back when a load listened no more is not taken for what nobody wants."""

    class Slow(Recording):
        async def replace(self, allow: Sequence[Network], blocks: Iterable[Block], late: Late = nobody) -> None:
            await super().replace(allow, blocks, late)
            world.ban_set.restore(OLD[1:])
            world.bouncer.end_restore()

    world = World()
    world.firewall = Slow(world.clock)
    world.bouncer = world.new_bouncer()
    world.bouncer.begin_restore(lambda: IN_BRIEF)
    world.settle()
    assert world.firewall.held == {ban.key for ban in OLD[1:]}
    assert world.firewall.verbs == ["replace", "change +0 -1"]


def test_a_load_that_is_tried_again_has_what_is_saved() -> None:
    """While bans are restored a load that failed is not without them, and nobody waits for a firewall that fails."""

    async def scene(world: World) -> None:
        await world.bouncer.tried.wait()
        assert not world.firewall.held
        world.firewall.fails = ""
        await until(lambda: world.firewall.held == {ban.key for ban in OLD}, "not loaded")

    world = World()
    world.firewall.fails = "no firewall"
    world.bouncer.begin_restore(lambda: IN_BRIEF)
    play(scene, world)


def test_a_ban_lifted_while_the_firewall_is_full_makes_room() -> None:
    """A ban that is lifted in the round in which the firewall turns out to be full is one of those that go."""
    world = World()
    world.firewall = Small(world.clock)
    world.bouncer = world.new_bouncer()
    for number in (1, 2, 3):
        world.ban(f"203.0.113.{number}", 600 * number)
    world.settle()
    world.unban("203.0.113.1")
    world.ban("203.0.113.4", 6000)
    world.ban("203.0.113.5", 6000)
    world.settle()
    assert world.firewall.held == {"203.0.113.3", "203.0.113.4", "203.0.113.5"}
    assert list(world.bouncer.status.refused) == ["203.0.113.2"]
    world.unban("203.0.113.5")
    world.ban("203.0.113.1", 600)
    world.settle()
    assert world.firewall.held == {"203.0.113.1", "203.0.113.3", "203.0.113.4"}


@pytest.mark.parametrize("seconds", [-3000, 3000])
def test_a_clock_that_is_set_makes_everything_anew(seconds: float) -> None:
    """A firewall counts seconds: after the clock was set its bans would end too early, or go on when they are over."""
    world = World()
    world.ban("203.0.113.5", 600)
    world.ban("203.0.113.6", 6000)
    world.settle()
    world.now += 10
    world.ahead = seconds
    for _ in range(2):
        world.settle()
    assert world.firewall.verbs == ["replace", "replace"]
    assert world.firewall.given == {"203.0.113.6": 5990 - seconds} | ({"203.0.113.5": 3590} if seconds < 0 else {})


def test_what_ended_by_a_wrong_clock_is_enforced_again() -> None:
    """A clock that is set ahead and back ends no ban that the ban set still has."""
    world = World()
    world.ban("203.0.113.5")
    world.settle()
    for world.ahead in (7200, 0):
        world.settle()
    assert world.firewall.held == {"203.0.113.5"}


@pytest.mark.parametrize("fails", ["", "not permitted"])
def test_what_is_over_is_not_remembered_while_nothing_is_enforced(fails: str) -> None:
    """Bans that come and go while enforcement is off, or the firewall fails, leave nothing behind."""

    def remembered() -> int:
        kept: list[Sized] = [each for each in vars(world.bouncer).values() if isinstance(each, dict | list)]
        return sum(map(len, kept))

    world = World()
    if fails:
        world.firewall.fails = fails
    else:
        world.bouncer.hold()
    for number in range(100):
        world.ban(f"203.0.113.{number}")
        with pytest.raises(FirewallError) if fails else nullcontext():
            world.settle()
        world.unban(f"203.0.113.{number}")
    with pytest.raises(FirewallError) if fails else nullcontext():
        world.settle()
    assert remembered() <= 100  # their ends, which are let go of by the thousand


def test_a_ban_that_was_left_out_is_enforced_when_it_is_extended() -> None:
    """Who goes on attacking while a full firewall leaves him out is banned for longer, and then others end sooner."""
    world = World()
    world.firewall = Small(world.clock)
    world.bouncer = world.new_bouncer()
    for number in (1, 2, 3, 4):
        world.ban(f"203.0.113.{number}", 600 * number)
        world.settle()
    assert world.firewall.held == {"203.0.113.2", "203.0.113.3", "203.0.113.4"}
    world.ban("203.0.113.1", 6000, automatic=True)
    world.settle()
    assert world.firewall.held == {"203.0.113.1", "203.0.113.3", "203.0.113.4"}
    assert list(world.bouncer.status.refused) == ["203.0.113.2"]
