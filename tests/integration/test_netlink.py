"""Talking to nf_tables over netlink: what the kernel refuses is said clearly, and what does not fit is divided."""

import asyncio
import gc
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from appguard.address import Network
from appguard.errors import ConfigError, FirewallError, FirewallPermissionError
from appguard.firewalls import netlink
from appguard.firewalls.base import Block
from appguard.firewalls.netlink import Message, SetFullError, commit
from appguard.firewalls.nft_messages import (
    add_hosts,
    ban_networks,
    by_kind,
    remove_hosts,
    remove_table,
    table_identity,
)
from appguard.firewalls.nft_ports import PortLists
from appguard.firewalls.nftables import Nftables
from appguard.firewalls.open import kinds_of, open_firewall
from tests.lab import wait_until
from tests.netns import banned, elements, holds, network, run

pytestmark = pytest.mark.lab

TABLE = "appguard"
HOST, OTHER = "203.0.113.5", "203.0.113.6"


@pytest.fixture
def firewall() -> Iterator[Nftables]:
    """Give nftables with our table empty, and take the table away."""
    made = Nftables(transport="netlink")
    asyncio.run(made.replace([], []))
    yield made
    asyncio.run(made.lift())


def adding(*texts: str) -> list[Message]:
    """Give the messages that add hosts for ten minutes."""
    now = time.time()
    return list(add_hosts(TABLE, by_kind([Block.of(network(text), now + 600) for text in texts], now), PortLists()))


@pytest.mark.usefixtures("firewall")
def test_a_batch_is_one_transaction() -> None:
    """Where one message of a batch is refused, those before and after it change nothing."""
    missing = list(remove_hosts(TABLE, [Block.of(network(OTHER), None)], PortLists(), destroy=False))[1:]
    with pytest.raises(FirewallError):
        commit([*adding(HOST), *missing, *adding("203.0.113.7")])
    assert not banned()
    commit([*adding(HOST), *adding("203.0.113.7")])
    assert banned().keys() == {HOST, "203.0.113.7"}


@pytest.mark.usefixtures("firewall")
def test_a_kept_socket_tells_each_answer_to_its_question() -> None:
    """One socket for many batches and questions, also refused ones: every answer belongs to what was asked last."""
    missing = list(remove_hosts(TABLE, [Block.of(network(OTHER), None)], PortLists(), destroy=False))[1:]
    with netlink.keeping():
        for _ in range(3):
            with pytest.raises(FirewallError, match="ban4: No such file"):
                commit([*missing, *missing, *adding(HOST)])
            assert not holds(HOST)
            commit(adding(HOST))
            assert holds(HOST)
            assert not holds(OTHER)
            commit(list(remove_hosts(TABLE, [Block.of(network(HOST), None)], PortLists(), destroy=False)))
        assert not banned()


def test_who_does_not_listen_is_told_nothing() -> None:
    """While we load a table nothing of it is told, and what happens afterwards is."""
    with netlink.listen() as link:
        netlink.listen_not(link)
        commit(remove_table("appguard"))
        netlink.listen_again(link)
        assert netlink.hear(link, range(64)) == ([], True)
        commit(remove_table("appguard"))
        assert netlink.hear(link, range(64))[0]


def test_what_there_is_to_hear_is_read_some_at_a_time() -> None:
    """So much may have been told that to read it takes long: who asks for some finds the rest where it was."""
    with netlink.listen() as link:
        for _ in range(3):
            commit(remove_table("appguard"))
        some, is_whole = netlink.hear(link, range(64), 1)
        rest, _ = netlink.hear(link, range(64))
        assert is_whole
        assert 0 < len(some) < len(rest)


def test_what_a_question_raises_keeps_nothing_alive() -> None:
    """An error is not part of a cycle, which would keep the locals of all callers until the garbage is collected."""
    held: list[weakref.ref[Network]] = []

    def look(mine: Network) -> None:
        held.append(weakref.ref(mine))
        assert table_identity("nobody's") is None

    gc.disable()
    try:
        look(network("203.0.113.5"))
        assert held[0]() is None
    finally:
        gc.enable()


@pytest.mark.usefixtures("firewall")
def test_what_is_refused_is_said() -> None:
    """A missing element, a missing table and an overlap each lead to an error that names the set and the reason."""
    with pytest.raises(FirewallError, match="ban4: No such file or directory"):
        commit(list(remove_hosts(TABLE, [Block.of(network(HOST), None)], PortLists(), destroy=False))[1:])
    commit(list(ban_networks(TABLE, "ban4_net", [(network("198.51.100.0/24"), 600.0, "")])))
    with pytest.raises(FirewallError, match="ban4_net: File exists"):
        commit(list(ban_networks(TABLE, "ban4_net", [(network("198.51.0.0/16"), 600.0, "")])))
    commit(remove_table(TABLE))
    with pytest.raises(FirewallError, match="ban4: No such file or directory"):
        commit(adding(HOST))


def test_a_full_set_is_named() -> None:
    """A set that takes no more leads to an error of its own, with the set's name."""
    asyncio.run(Nftables(transport="netlink", size=1).replace([], []))
    with pytest.raises(SetFullError, match="ban4 is full") as caught:
        commit(adding(HOST, OTHER))
    assert caught.value.name == "ban4"
    commit(remove_table(TABLE))


COMMIT = """
from appguard.firewalls.netlink import commit
from appguard.firewalls.nft_messages import remove_table
from appguard.errors import FirewallPermissionError
try:
    commit(remove_table("appguard"))
except FirewallPermissionError as error:
    print(error)
"""


def test_a_missing_capability_is_not_a_missing_answer() -> None:
    """The refusal of one without CAP_NET_ADMIN, which comes in answer to the mark of a batch, is told as what it is."""
    stripped = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    done = subprocess.run([*stripped, sys.executable, "-c", COMMIT], capture_output=True, text=True, check=True)
    assert "needs CAP_NET_ADMIN" in done.stdout
    assert "Operation not permitted" in done.stdout
    assert issubclass(FirewallPermissionError, FirewallError)


def test_a_small_socket_buffer_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no buffer can be made large, as in a user namespace, a load goes in as many batches as it takes."""
    monkeypatch.setattr(netlink, "SEND_BUFFER", 40_000)
    assert netlink.room() < 80_000
    firewall = Nftables(transport="netlink")
    hosts = [Block.of(IPv6Network((0x20010DB8 << 96 | number << 64, 64)), None) for number in range(2_500)]
    wide = [Block.of(IPv4Network((0x0A000000 + 512 * number, 24)), None) for number in range(6_000)]
    asyncio.run(firewall.replace([], [*hosts, *wide]))
    assert (len(elements("ban6_64")), len(elements("ban4_net"))) == (2_500, 6_000)
    asyncio.run(firewall.change([*hosts[1:], *wide], [hosts[0], wide[-1]]))
    assert (len(elements("ban6_64")), len(elements("ban4_net"))) == (2_499, 6_000)
    asyncio.run(firewall.lift())


def test_nft_is_the_fallback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the kernel does not give the table back over netlink, nft does everything, and that is said once."""
    elsewhere = tmp_path / "nft"  # puts the table that is asked about where it is not found
    elsewhere.write_text('#!/bin/sh\nexec sed s/appguard_pattern/elsewhere/ | exec /usr/sbin/nft "$@"\n')
    elsewhere.chmod(0o755)
    firewall = Nftables(program=str(elsewhere))
    asyncio.run(firewall.replace([], [Block.of(network(HOST), None)]))
    asyncio.run(firewall.change([Block.of(network(OTHER), None)], []))
    assert banned().keys() == {HOST, OTHER}
    asyncio.run(firewall.replace([], []))
    assert asyncio.run(firewall.intact())
    assert caplog.text.count("bans go through nft, each a process") == 1
    run("nft", "flush ruleset")
    forced = Nftables(program=str(elsewhere), transport="netlink")
    with pytest.raises(FirewallError):
        asyncio.run(forced.replace([], []))
    run("nft", "flush ruleset")


def test_no_process_for_a_ban(tmp_path: Path) -> None:
    """After its first replace the firewall bans, lifts and is made anew without nft, which may even be gone."""
    program = tmp_path / "nft"
    program.symlink_to("/usr/sbin/nft")
    firewall = Nftables(program=str(program))
    asyncio.run(firewall.replace([], []))
    program.unlink()
    asyncio.run(firewall.change([Block.of(network(HOST), None), Block.of(network("198.51.100.0/24"), None)], []))
    assert banned().keys() == {HOST, "198.51.100.0/24"}
    made = run("nft", "-s", "list", "table", "inet", TABLE)
    run("nft", "flush ruleset")
    asyncio.run(firewall.replace([network("192.0.2.7")], [Block.of(network(OTHER), None)]))
    assert banned().keys() == {OTHER}
    assert elements("allow4").keys() == {"192.0.2.7"}
    assert without_elements(run("nft", "-s", "list", "table", "inet", TABLE)) == without_elements(made)
    asyncio.run(firewall.lift())


def without_elements(listing: str) -> list[str]:
    """Give the lines of a listing but for the elements of sets."""
    return [line for line in listing.splitlines() if "elements = " not in line]


def test_a_ban_is_seen_alone_and_ends(firewall: Nftables) -> None:
    """One element is found by a question about it alone, and no longer when its time has passed."""
    asyncio.run(firewall.change([Block.of(network(HOST), time.time() + 1), Block.of(network(OTHER), None)], []))
    assert holds(HOST)
    assert not holds("203.0.113.7")
    wait_until(lambda: not holds(HOST), 5, "it goes on")
    assert holds(OTHER)


def test_the_settings() -> None:
    """The settings choose transport and size; those of another firewall are refused."""
    firewall = open_firewall("nftables", {"transport": "nft", "size": 1})
    asyncio.run(firewall.replace([], []))
    with pytest.raises(FirewallError, match="Too many open files"):
        asyncio.run(firewall.change([Block.of(network(HOST), None), Block.of(network(OTHER), None)], []))
    asyncio.run(firewall.lift())
    with pytest.raises(ConfigError, match="only kind = 'nftables' has that, not 'dry_run'"):
        kinds_of({"kind": ("dry_run",), "transport": "nft"})


@pytest.mark.parametrize("transport", ["netlink", "nft"])
def test_what_a_killed_load_left_is_removed(transport: str) -> None:
    """The second table of a load whose process was killed goes with the next replace, and with lift."""
    firewall = Nftables(transport=transport)
    run("nft", "add table inet appguard_second")
    asyncio.run(firewall.replace([], []))
    assert "appguard_second" not in run("nft", "list", "tables")
    run("nft", "add table inet appguard_second")
    asyncio.run(firewall.lift())
    assert "appguard" not in run("nft", "list", "tables")
