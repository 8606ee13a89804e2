"""What nftables holds and what it says when it fails: timeouts, foreign changes, missing programs and privileges."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from appguard.errors import FirewallError, FirewallPermissionError
from appguard.firewalls import nft_messages, nft_script, nftables
from appguard.firewalls.base import Block
from appguard.firewalls.nft_watch import TAKEN_AT_ONCE, Watch
from appguard.firewalls.nftables import Nftables
from tests.lab import User, has_user, processes, wait_until
from tests.netns import banned, elements, has_table, network, run

pytestmark = pytest.mark.lab

KINDS = ("203.0.113.5", "2001:db8:6::1", "2001:db8:5::/64", "198.51.100.0/24", "2001:db8::/48")
FOREIGN = "table ip another { set s { type ipv4_addr; elements = { 192.0.2.9 } }; }"


@pytest.fixture(params=["netlink", "nft"])
def firewall(request: pytest.FixtureRequest) -> Iterator[Nftables]:
    """Give nftables with our table empty, by either transport, and take the table away."""
    made = Nftables(transport=request.param)
    asyncio.run(made.replace([], []))
    yield made
    asyncio.run(made.lift())


@pytest.fixture
def foreign_table() -> Iterator[None]:
    """Give another program's table beside ours."""
    run("nft", FOREIGN)
    yield
    run("nft", "flush ruleset")


def ban(firewall: Nftables, *texts: str, seconds: float | None = 600) -> None:
    """Shut networks out."""
    end = None if seconds is None else time.time() + seconds
    asyncio.run(firewall.change([Block.of(network(text), end) for text in texts], []))


@pytest.mark.parametrize("kind", KINDS)
def test_a_timeout_is_made_longer_and_shorter(firewall: Nftables, kind: str) -> None:
    """A block given again takes the new end, whichever way it moves."""
    for seconds in (60, 3600, 30):
        ban(firewall, kind, seconds=seconds)
        assert seconds - 10 <= banned()[kind] <= seconds
    asyncio.run(firewall.replace([], [Block.of(network(kind), time.time() + 300)]))
    assert 290 <= banned()[kind] <= 300


@pytest.mark.parametrize("kind", KINDS)
def test_a_permanent_block_is_a_lease(firewall: Nftables, kind: str) -> None:
    """A block without an end gets the lease as its timeout, so that nothing in the kernel is for ever."""
    ban(firewall, kind, seconds=None)
    assert nftables.LEASE - 10 <= banned()[kind] <= nftables.LEASE


def test_to_renew_is_to_remove_and_to_add(firewall: Nftables) -> None:
    """Kernels before 6.12 ignore a new timeout of an element that is there: ours is taken out in the same step."""

    ban(firewall, "203.0.113.5", seconds=300)

    async def scene() -> None:
        watch = Watch("appguard")
        heard = asyncio.Event()
        with watch(heard.set):
            await firewall.change([Block.of(network("203.0.113.5"), time.time() + 600)], [])
            await asyncio.wait_for(heard.wait(), 5)
            assert ("ban4", network("203.0.113.5").network_address.packed) in watch.taken()

    asyncio.run(scene())
    assert 590 <= banned()["203.0.113.5"] <= 600


def test_of_very_many_that_are_missing_some_are_told_at_a_time(firewall: Nftables) -> None:
    """Nobody waits until the kernel was asked about all that somebody took out; who is told of some is to ask again."""
    keys = {f"203.0.{number // 250}.{number % 250}" for number in range(2 * TAKEN_AT_ONCE + 1)}
    ban(firewall, *keys)

    async def scene() -> None:
        suspected = asyncio.Event()
        with firewall.watch(suspected.set):
            run("nft", "flush map inet appguard ban4")
            found: list[str] = []
            while len(found) < len(keys):
                await asyncio.wait_for(suspected.wait(), 5)
                suspected.clear()
                some = await firewall.missing()
                assert len(some) <= TAKEN_AT_ONCE
                found += some
            assert set(found) == keys

    asyncio.run(scene())


def test_ends_in_a_thousand_years_and_in_no_time_are_timeouts_too(firewall: Nftables) -> None:
    """No end is so far or so near that the kernel gets none at all, which would be for ever."""
    ban(firewall, *KINDS, seconds=1000 * 365 * 86400)
    assert banned().keys() == set(KINDS)
    assert all(0 < left <= nft_messages.LONGEST for left in banned().values())
    soon = Nftables(clock=lambda: 1000.0)
    asyncio.run(soon.replace([], [Block.of(network("203.0.113.7/32"), 1000.0 + 1e-9)]))
    wait_until(lambda: not banned(), 5, "an end in a nanosecond was none")


def test_a_wide_ban_that_ends_first_uncovers_the_longer_one_inside(firewall: Nftables) -> None:
    """Where a /16 ends before a /24 inside it, the /24 has its own end and the rest of the /16 has the other."""
    ban(firewall, "198.51.0.0/16", seconds=60)
    ban(firewall, "198.51.100.0/24", seconds=3600)
    ban(firewall, "198.51.200.0/24", seconds=30)
    held = elements("ban4_net")
    assert 3590 <= held.pop("198.51.100.0/24") <= 3600
    assert held
    assert all(50 <= left <= 60 for left in held.values())
    assert sum(IPv4Network(text).num_addresses for text in held) == 2**16 - 2**8
    asyncio.run(firewall.change([], [Block.of(network("198.51.0.0/16"), None)]))
    assert elements("ban4_net").keys() == {"198.51.100.0/24", "198.51.200.0/24"}


@pytest.mark.parametrize("ports", ["", "tcp/22"])
def test_the_first_bans_of_a_jail_are_a_host_and_a_network(firewall: Nftables, ports: str) -> None:
    """One change may hold the first host and the first network of a jail or a list of ports."""
    asyncio.run(firewall.replace([], []))
    end = time.time() + 600
    blocks = [Block.of(network(text), end, ports, "new") for text in ("203.0.113.5", "198.51.100.0/24")]
    asyncio.run(firewall.change(blocks, []))
    ending = "_p1" if ports else ""
    assert elements(f"ban4{ending}").keys() == {"203.0.113.5"}
    assert elements(f"ban4_net{ending}").keys() == {"198.51.100.0/24"}


def test_overlapping_networks_are_let_in_as_one(firewall: Nftables) -> None:
    """The list of those always let in may hold networks inside others, in any order."""
    allow = [network(text) for text in ("192.0.2.7", "192.0.2.0/24", "2001:db8::/32", "2001:db8:1::1", "192.0.2.7")]
    asyncio.run(firewall.replace(allow, []))
    assert elements("allow4").keys() == {"192.0.2.0/24"}
    assert elements("allow6").keys() == {"2001:db8::/32"}


def test_more_bans_than_a_set_is_said_to_hold(firewall: Nftables) -> None:
    """A set takes more than the 65,535 elements often taken for its limit, and questions stay answered."""
    for part in range(70):  # without the rights of the machine's own root a transaction has a limit
        hosts = [Block.of(IPv4Network(0x0A000000 + part * 1000 + number), None) for number in range(1000)]
        asyncio.run(firewall.change(hosts, []))
    assert asyncio.run(firewall.intact())
    assert len(elements("ban4")) == 70_000


@pytest.mark.usefixtures("foreign_table")
def test_a_zone_id_is_no_way_into_the_script(firewall: Nftables) -> None:
    """A zone id, which may be any text, reaches nft neither as a command nor at all."""
    for text in ("2001:db8::5% }; flush ruleset; #/128", "2001:db8::%\nflush ruleset\n/64"):
        asyncio.run(firewall.change([Block.of(IPv6Network(text, strict=False), None)], []))
    assert banned().keys() == {"2001:db8::5", "2001:db8::/64"}
    assert "another" in run("nft", "list", "tables")


FLUSHED = "flush ruleset"
DELETED = "delete table inet appguard"
RULES_FLUSHED = "flush chain inet appguard prerouting"
RULE_ADDED = "insert rule inet appguard prerouting accept"


@pytest.mark.parametrize("command", [FLUSHED, DELETED, RULES_FLUSHED, RULE_ADDED])
def test_a_foreign_change_of_our_table_is_noticed(firewall: Nftables, command: str) -> None:
    """Whoever deletes our table, empties our chain or puts a rule before ours is noticed; replace repairs it."""
    ban(firewall, "203.0.113.5")
    run("nft", command)
    assert not asyncio.run(firewall.intact())
    asyncio.run(firewall.replace([], []))
    assert asyncio.run(firewall.intact())


def test_a_table_put_back_by_somebody_else_is_not_ours(firewall: Nftables) -> None:
    """A firewall script that saves all rules and loads them again leaves a look-alike, which is noticed."""
    saved = run("nft", "list", "ruleset")
    run("nft", "-f", "-", text="flush ruleset\n" + saved)
    assert has_table()
    assert not asyncio.run(firewall.intact())


@pytest.mark.usefixtures("foreign_table")
def test_other_tables_are_left_alone(firewall: Nftables) -> None:
    """Neither our verbs touch another program's table nor do its changes look like changes of ours."""
    before = run("nft", "list", "table", "ip", "another")
    ban(firewall, *KINDS)
    run("nft", "add element ip another s { 192.0.2.10 }")
    assert asyncio.run(firewall.intact())
    run("nft", "delete element ip another s { 192.0.2.10 }")
    asyncio.run(firewall.replace([], []))
    asyncio.run(firewall.lift())
    assert run("nft", "list", "table", "ip", "another") == before


def test_the_next_process_takes_over(firewall: Nftables) -> None:
    """Another process's replace swaps in its own bans where a killed one had left its table."""
    ban(firewall, "203.0.113.5", "198.51.100.0/24")
    asyncio.run(Nftables().replace([], [Block.of(network("203.0.113.6"), None)]))
    assert banned().keys() == {"203.0.113.6"}
    assert not asyncio.run(firewall.intact())


def test_the_error_has_the_words_of_nft(firewall: Nftables) -> None:
    """A change that the kernel refuses raises its reason, in one short line however long the script was."""
    run("nft", "delete table inet appguard")
    hosts = [Block.of(IPv4Network(0x0A000000 + number), None) for number in range(1000)]
    with pytest.raises(FirewallError, match="No such file or directory") as caught:
        asyncio.run(firewall.change(hosts, []))
    assert len(str(caught.value)) < nft_script.WORDS_MOST + 10
    assert "\n" not in str(caught.value)


def test_a_flood_of_words_is_cut(tmp_path: Path) -> None:
    """However much a program says, the error is a short one."""
    talking = tmp_path / "nft"
    talking.write_text("#!/bin/sh\nexec >&2\nprintf 'Error: %20000s' x\nexit 1\n")
    talking.chmod(0o755)
    with pytest.raises(FirewallError, match="Error") as caught:
        asyncio.run(Nftables(program=str(talking)).replace([], []))
    assert len(str(caught.value)) < nft_script.WORDS_MOST + 10


def test_a_missing_nft_is_said(tmp_path: Path) -> None:
    """Without the program the error says what to install."""
    with pytest.raises(FirewallError, match="install the package nftables"):
        asyncio.run(Nftables(program=str(tmp_path / "nft")).replace([], []))


def test_a_program_that_is_none_is_said(tmp_path: Path) -> None:
    """A file that cannot be executed is an error of the firewall, not a crash."""
    broken = tmp_path / "nft"
    broken.write_bytes(b"\x7fELF")
    broken.chmod(0o755)
    with pytest.raises(FirewallError, match="does not start"):
        asyncio.run(Nftables(program=str(broken)).replace([], []))


def test_an_nft_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that does not end is killed, and an error says so."""
    monkeypatch.setattr(nft_script, "PATIENCE", 0.2)
    hanging = tmp_path / "nft"
    hanging.write_text("#!/bin/sh\nexec sleep 4321\n")
    hanging.chmod(0o755)
    with pytest.raises(FirewallError, match="did not end within"):
        asyncio.run(Nftables(program=str(hanging)).replace([], []))
    assert not any("sleep 4321" in command for command in processes().values())


TRY = """
import asyncio
from appguard.errors import AppGuardError
from appguard.firewalls.nft_watch import TAKEN_AT_ONCE, Watch
from appguard.firewalls.nftables import Nftables

async def main() -> None:
    firewall = Nftables()
    for verb in (firewall.replace([], []), firewall.change([], []), firewall.dropped(), firewall.lift()):
        try:
            print("done", await verb)
        except AppGuardError as error:
            print(type(error).__name__, error)

asyncio.run(main())
"""


def tried_with(*capabilities: str) -> list[str]:
    """Give what each verb led to in a process with these capabilities alone, of an ordinary user if the lab has one."""
    kept = ",".join(("-all", *(f"+{name}" for name in capabilities)))
    stripped = ["setpriv", f"--inh-caps={kept}", f"--bounding-set={kept}"]
    become = User(65534, capabilities=capabilities).prefix() if has_user(65534) else stripped
    command = [*become, sys.executable, "-c", TRY]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_without_the_capability_the_error_names_it() -> None:
    """A process without CAP_NET_ADMIN is told so by every verb that needs it."""
    replaced, changed, dropped, lifted = tried_with()
    for said in (replaced, dropped, lifted):
        assert said.startswith(f"{FirewallPermissionError.__name__} ")
        assert "CAP_NET_ADMIN" in said
    assert changed == "done None"  # nothing was to be changed


def test_the_capability_alone_is_enough() -> None:
    """A process with CAP_NET_ADMIN and nothing else can do everything."""
    assert tried_with("net_admin") == ["done None", "done None", "done 0", "done None"]
