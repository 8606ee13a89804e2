"""The bouncer and nftables together: from the ban set to dropped packets, through flushes, restarts and failures."""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from appguard.address import parse_network
from appguard.ban import Ban
from appguard.bouncer import Bouncer
from appguard.errors import FirewallError
from appguard.firewalls.nftables import LEASE, Nftables
from appguard.host import HostFacts
from appguard.judge import Judge
from appguard.mirror import RENEWAL
from appguard.stores.memory import MemoryBanSet
from tests.bouncing import running, until
from tests.machine import Machine
from tests.netns import answers, banned, elements, has_table, holds, joined, run

pytestmark = pytest.mark.lab

HERE, HERE6 = "198.51.100.1", "2001:db8:a::1"
ATTACKER, ATTACKER6 = "198.51.100.2", "2001:db8:a::2"
NEVER = 3600.0
SHORTLY = 0.05
BRIEFLY = 0.3  # how long an answer is waited for that is not to come

Scene = Callable[[MemoryBanSet, Bouncer], Coroutine[object, object, None]]


@pytest.fixture
def attacker() -> Iterator[Machine]:
    """Give a machine on a link of its own, with a server of ours listening for it."""
    with (
        joined("attacker", [f"{HERE}/24", f"{HERE6}/64"], [f"{ATTACKER}/24", f"{ATTACKER6}/64"]) as machine,
        socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True),
    ):
        yield machine


@pytest.fixture(autouse=True)
def no_table() -> Iterator[None]:
    """Leave no table behind."""
    yield
    run("nft", "flush ruleset")


def play(scene: Scene, interval: float = NEVER, judge: Judge | None = None) -> None:
    """Play a scene with a bouncer of this host running."""
    ban_set = MemoryBanSet()
    bouncer = Bouncer(ban_set, Nftables(), judge or Judge(), interval=interval)

    async def whole() -> None:
        await bouncer.settle()
        async with running(bouncer):
            await scene(ban_set, bouncer)

    asyncio.run(whole())


def test_a_ban_in_the_ban_set_drops_packets(attacker: Machine) -> None:
    """A ban is dropped packets after one wake, and its lifting an answer after the next."""

    async def scene(ban_set: MemoryBanSet, bouncer: Bouncer) -> None:
        assert answers(attacker, HERE)
        assert answers(attacker, HERE6)
        ban_set.ban(Ban.of(ATTACKER))
        ban_set.ban(Ban.of(ATTACKER6))
        bouncer.wake()
        await until(lambda: len(banned()) == 2, "the bans did not arrive")
        assert not answers(attacker, HERE, within=BRIEFLY)
        assert not answers(attacker, HERE6, within=BRIEFLY)
        await until(lambda: bool(bouncer.status.dropped), "no dropped packets in the status")
        for address in (ATTACKER, ATTACKER6):
            ban_set.unban(parse_network(address))
        bouncer.wake()
        await until(lambda: not banned(), "the liftings did not arrive")
        assert answers(attacker, HERE)
        assert answers(attacker, HERE6)

    play(scene, interval=SHORTLY)


@pytest.mark.usefixtures("attacker")
def test_this_host_is_never_shut_out() -> None:
    """Bans of this host's own addresses are refused by what the kernel says of them, and shown with the reason."""

    async def scene(ban_set: MemoryBanSet, bouncer: Bouncer) -> None:
        for text in (HERE, HERE6, "2001:db8:a::/64", "127.0.0.1", ATTACKER):
            ban_set.ban(Ban.of(text))
        bouncer.wake()
        await until(lambda: set(banned()) == {ATTACKER}, "the one harmless ban did not arrive")
        why = {ban.key: why for ban, why in bouncer.status.refused.values()}
        assert set(why) == {HERE, HERE6, "2001:db8:a::/64", "127.0.0.1"}
        assert why[HERE].startswith(f"{HERE} is an address of this host")

    play(scene)


def test_a_foreign_flush_is_healed(attacker: Machine) -> None:
    """After `nft flush ruleset` the table and its bans are back although nobody wakes and the next look is far off."""

    async def scene(ban_set: MemoryBanSet, bouncer: Bouncer) -> None:
        ban_set.ban(Ban.of(ATTACKER))
        bouncer.wake()
        await until(lambda: ATTACKER in banned(), "the ban did not arrive")
        run("nft", "flush ruleset")
        assert not has_table()
        assert answers(attacker, HERE)
        await until(lambda: has_table() and ATTACKER in banned(), "not healed")
        assert not answers(attacker, HERE, within=BRIEFLY)

    play(scene)


def test_a_ban_right_after_a_flush_brings_everything_back() -> None:
    """A change that meets no table is followed at once by all bans, not only the new one."""

    async def scene(ban_set: MemoryBanSet, bouncer: Bouncer) -> None:
        ban_set.ban(Ban.of("203.0.113.5"))
        bouncer.wake()
        await until(lambda: bool(banned()), "the ban did not arrive")
        run("nft", "flush ruleset")
        ban_set.ban(Ban.of("203.0.113.6"))
        bouncer.wake()
        await until(lambda: has_table() and set(banned()) == {"203.0.113.5", "203.0.113.6"}, "not all is back")
        assert not bouncer.status.error

    play(scene)


def test_a_restart_opens_no_gap(attacker: Machine) -> None:
    """Bans stay while no bouncer runs, and the next one takes over without letting a single packet in."""
    ban_set = MemoryBanSet()
    ban_set.ban(Ban.of(ATTACKER))

    async def one_life() -> None:
        bouncer = Bouncer(ban_set, Nftables(), Judge())
        await bouncer.settle()
        async with running(bouncer):
            pass

    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        attacker.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs,
    ):
        ours.bind((HERE, 9))
        asyncio.run(one_life())

        async def next_life() -> None:
            life = asyncio.create_task(one_life())
            while not life.done():
                theirs.sendto(b"x", (HERE, 9))
                await asyncio.sleep(0.0005)
            await life

        assert set(banned()) == {ATTACKER}
        asyncio.run(next_life())
        assert set(banned()) == {ATTACKER}
        ours.settimeout(BRIEFLY)
        with pytest.raises(TimeoutError):
            ours.recv(10)


def test_hold_and_release(attacker: Machine) -> None:
    """Held, the whole table is gone and everybody is answered; released, the bans are back."""

    async def scene(ban_set: MemoryBanSet, bouncer: Bouncer) -> None:
        ban_set.ban(Ban.of(ATTACKER))
        await bouncer.settle()
        assert not answers(attacker, HERE, within=BRIEFLY)
        bouncer.hold()
        await bouncer.settle()
        assert not has_table()
        assert answers(attacker, HERE)
        bouncer.release()
        await bouncer.settle()
        assert set(banned()) == {ATTACKER}

    play(scene)


def test_an_nft_that_comes_later(tmp_path: Path) -> None:
    """Without the program the status says what to install; once it is there the bans are enforced."""
    program = tmp_path / "nft"
    ban_set = MemoryBanSet()
    bouncer = Bouncer(ban_set, Nftables(program=str(program)), Judge())

    async def scene() -> None:
        with pytest.raises(FirewallError):
            await bouncer.settle()
        async with running(bouncer):
            ban_set.ban(Ban.of("203.0.113.5"))
            await until(lambda: "install the package nftables" in bouncer.status.error, "no word of it")
            program.symlink_to("/usr/sbin/nft")
            await until(lambda: has_table() and bool(banned()), "not enforced")
            await until(lambda: not bouncer.status.error, "still an error")

    asyncio.run(scene())


def test_a_permanent_ban_does_not_run_out() -> None:
    """The lease of a permanent ban is made whole again a day later."""
    now = 1_800_000_000.0

    def clock() -> float:
        return now

    ban_set = MemoryBanSet(clock)
    ban_set.ban(Ban.of("203.0.113.5", bantime=-1, start=now))
    bouncer = Bouncer(ban_set, Nftables(clock=clock), Judge(), clock, monotonic=clock)
    asyncio.run(bouncer.settle())
    run("nft", "delete element inet appguard ban4 { 203.0.113.5 }")
    run(
        "nft", "add element inet appguard ban4 { 203.0.113.5 timeout 1h : jail_manual }"
    )  # as if the lease were nearly over
    now += RENEWAL
    asyncio.run(bouncer.settle())
    assert banned()["203.0.113.5"] > LEASE - 60


@pytest.mark.parametrize("is_there", [False, True])
def test_a_new_ban_does_not_wait_for_a_long_load(is_there: bool) -> None:
    """A ban that comes while thousands are being loaded is in the kernel before the load ends, and stays after it."""
    late, lifted, last = "203.0.113.5", "10.0.0.7", "10.0.39.99"
    ban_set = MemoryBanSet()
    for number in range(10_000):
        ban_set.ban(Ban.of(f"10.0.{number // 250}.{number % 250}"))
    bouncer = Bouncer(ban_set, Nftables(), Judge())
    if is_there:
        asyncio.run(Nftables().replace([], []))

    async def scene() -> None:
        load = asyncio.create_task(bouncer.settle())
        while not (holds(last) or holds(last, "appguard_second")):
            assert not load.done()
            await asyncio.sleep(0)
        ban_set.ban(Ban.of(late))
        ban_set.unban(parse_network(lifted))
        while not (holds(late) or holds(late, "appguard_second")):
            assert not load.done()
            await asyncio.sleep(0)
        assert not load.done()
        assert not holds("10.0.0.1")
        await load

    asyncio.run(scene())
    held = banned().keys()
    assert late in held
    assert lifted not in held
    assert len(held) == 10_000
    assert "appguard_second" not in run("nft", "list", "tables")


@pytest.mark.parametrize("transport", ["netlink", "nft"])
def test_a_full_firewall_leaves_out_what_ends_soonest(transport: str, caplog: pytest.LogCaptureFixture) -> None:
    """Where the kernel's set is full, the temporary ban that ends first makes room, which is said; later it is back."""
    now = 1_800_000_000.0

    def clock() -> float:
        return now

    def ban(address: str, seconds: float) -> None:
        assert ban_set.ban(Ban.of(address, bantime=seconds, start=now))
        asyncio.run(bouncer.settle())

    ban_set = MemoryBanSet(clock)
    firewall = Nftables(clock=clock, transport=transport, size=3)
    bouncer = Bouncer(ban_set, firewall, Judge(), clock, monotonic=clock, interval=SHORTLY)
    for address, seconds in (("203.0.113.1", 900), ("203.0.113.2", -1), ("203.0.113.3", 600)):
        ban(address, seconds)
    ban("2001:db8:1::/64", 60)  # in a set of its own, which has room
    ban("203.0.113.4", 1200)
    assert banned().keys() == {"203.0.113.1", "203.0.113.2", "203.0.113.4", "2001:db8:1::/64"}
    assert [(found.key, "room for 3" in why) for found, why in bouncer.status.refused.values()] == [
        ("203.0.113.3", True)
    ]
    assert "203.0.113.3 first" in caplog.text
    assert "everything anew" not in caplog.text  # which would take seconds for as many bans as really fill a set
    ban("203.0.113.5", 300)  # itself the one that ends first
    ban("203.0.113.1", 1000)  # longer now, although there is no room for one more
    assert banned().keys() == {"203.0.113.1", "203.0.113.2", "203.0.113.4", "2001:db8:1::/64"}
    assert banned()["203.0.113.1"] > 900
    run("nft", "flush ruleset")
    now += 1
    asyncio.run(bouncer.settle())  # everything anew, of which not all fits
    assert banned().keys() == {"203.0.113.1", "203.0.113.2", "203.0.113.4", "2001:db8:1::/64"}
    assert ban_set.unban(parse_network("203.0.113.4"))
    asyncio.run(bouncer.settle())
    now += 1
    asyncio.run(bouncer.settle())
    assert banned().keys() == {"203.0.113.1", "203.0.113.2", "203.0.113.3", "2001:db8:1::/64"}


@pytest.mark.parametrize("transport", ["netlink", "nft"])
def test_more_than_a_full_firewall_at_the_start(transport: str) -> None:
    """A firewall made anew with more bans than fit holds those that end last."""
    ban_set = MemoryBanSet()
    for number in range(1, 8):
        assert ban_set.ban(Ban.of(f"203.0.113.{number}", bantime=600 * number))
    bouncer = Bouncer(ban_set, Nftables(transport=transport, size=4), Judge())
    asyncio.run(bouncer.settle())
    assert banned().keys() == {f"203.0.113.{number}" for number in (4, 5, 6, 7)}
    assert len(bouncer.status.refused) == 3


TAKEN = {
    "delete element inet appguard ban4 { 203.0.113.5 }": "a host",
    "delete element inet appguard ban6_64 { 2001:db8:5:: }": "an IPv6 /64",
    "delete element inet appguard ban4_net { 203.0.112.0/24 }": "a network",
    "delete element inet appguard allow4 { 192.0.2.0/24 }": "a network that is let in",
    "delete element inet appguard ban4_p1 { 203.0.113.6 }": "a host banned from some ports",
    "delete element inet appguard ports_p1 { 22 }": "a port",
    "flush map inet appguard ban4": "all hosts",
}


@pytest.mark.parametrize("taken", TAKEN, ids=TAKEN.values())
def test_what_somebody_takes_out_is_put_back(taken: str) -> None:
    """Elements deleted by others are back at once, though table and rules are as they were; what was lifted is not."""

    async def scene(ban_set: MemoryBanSet, bouncer: Bouncer) -> None:
        for network in ("203.0.113.5", "2001:db8:5::/64", "203.0.112.0/24", "203.0.113.7"):
            ban_set.ban(Ban.of(network))
        ban_set.ban(replace(Ban.of("203.0.113.6"), ports="tcp/22"))
        bouncer.wake()
        await until(lambda: len(banned()) == 4 and len(elements("ban4_p1")) == 1, "the bans did not arrive")
        ban_set.unban(parse_network("203.0.113.7"))
        bouncer.wake()
        await until(lambda: len(banned()) == 3, "the lifting did not arrive")
        before = held()
        run("nft", taken)
        assert held() != before
        await until(lambda: held() == before, "what was taken out is not back")

    def held() -> tuple[object, ...]:
        ports = run("nft", "list", "set", "inet", "appguard", "ports_p1")
        return set(banned()), set(elements("allow4")), set(elements("ban4_p1")), ports

    play(scene, judge=Judge(safelist=(parse_network("192.0.2.0/24"),)))


def test_an_element_that_we_would_not_make_may_come_and_go() -> None:
    """A single address that somebody puts among the IPv6 /64s, and takes out, keeps nobody from being put back."""

    async def scene(ban_set: MemoryBanSet, bouncer: Bouncer) -> None:
        ban_set.ban(Ban.of("2001:db8:5::/64"))
        bouncer.wake()
        await until(lambda: "2001:db8:5::/64" in banned(), "the ban did not arrive")
        run("nft", "add element inet appguard ban6_64 { 2001:db8:6::1 timeout 1h : dropped }")
        run("nft", "delete element inet appguard ban6_64 { 2001:db8:6::1, 2001:db8:5:: }")
        await until(lambda: "2001:db8:5::/64" in banned(), "what was taken out is not back")

    play(scene)


def test_what_somebody_takes_out_is_noticed_in_a_flood_of_changes() -> None:
    """More deletions than are remembered one by one make everything anew."""

    async def scene(ban_set: MemoryBanSet, bouncer: Bouncer) -> None:
        for number in range(12_000):
            ban_set.ban(Ban.of(f"10.0.{number // 256}.{number % 256}"))
        bouncer.wake()
        await until(lambda: holds("10.0.0.0"), "the bans did not arrive", within=20)
        run("nft", "flush map inet appguard ban4")
        await until(lambda: holds("10.0.0.0") and holds("10.0.46.223"), "the bans are not back", within=20)
        await until(lambda: len(elements("ban4")) == 12_000, "some bans are not back", within=20)

    play(scene)


def test_who_is_let_in_from_now_on_is_free_in_the_kernel(attacker: Machine) -> None:
    """Its ban is taken out of the kernel and its packets are served, also while a network that holds it is banned."""
    facts = HostFacts()
    ban_set = MemoryBanSet()
    bouncer = Bouncer(ban_set, Nftables(), Judge(), read_facts=lambda: facts, interval=SHORTLY)

    async def scene() -> None:
        nonlocal facts
        await bouncer.settle()
        async with running(bouncer):
            ban_set.ban(Ban.of(ATTACKER))
            ban_set.ban(Ban.of("198.51.100.0/24"))
            bouncer.wake()
            await until(lambda: len(banned()) == 2, "the bans did not arrive")
            assert not answers(attacker, HERE, within=BRIEFLY)
            facts = HostFacts(own=(parse_network(ATTACKER),))
            await until(lambda: not banned(), "the bans are not lifted")
            assert answers(attacker, HERE)

    asyncio.run(scene())
