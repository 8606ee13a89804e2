"""The command firewall: what its programs do to packets, what becomes of those that fail, and what they are told."""

import asyncio
import socket
import time
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from appguard.ban import Ban
from appguard.bouncer import Bouncer
from appguard.errors import ConfigError, FirewallError, FirewallPermissionError
from appguard.firewalls.base import Block
from appguard.firewalls.command import Command
from appguard.firewalls.open import open_firewall
from appguard.judge import Judge
from appguard.stores.memory import MemoryBanSet
from tests.blocklist import Blocklist, blocklist
from tests.docker_chains import PUBLISHED, docker_host
from tests.lab import wait_until
from tests.machine import Machine
from tests.netns import answers, joined, network, run

CONTRIB = Path(__file__).parents[2] / "contrib/firewalls"
HERE, HERE6 = "198.51.100.1", "2001:db8:a::1"
ATTACKER, ATTACKER6, OTHER = "198.51.100.2", "2001:db8:a::2", "198.51.100.3"
PORT = 80
WITHIN = 0.3


def do(*steps: Coroutine[object, object, None]) -> None:
    """Run the steps one after the other."""

    async def all_steps() -> None:
        for step in steps:
            await step

    asyncio.run(all_steps())


def block(text: str, seconds: float = 600, ports: str = "") -> Block:
    """Make a block that ends in so many seconds."""
    return Block.of(network(text), time.time() + seconds, ports)


@pytest.fixture(params=["iptables-nft", "iptables-legacy"])
def flavour(request: pytest.FixtureRequest) -> str:
    """Give both kinds of iptables."""
    return str(request.param)


@pytest.fixture
def ipset(flavour: str) -> Iterator[Command]:
    """Give the example of iptables and ipset, and take away what it made."""
    made = Command(command=[f"{CONTRIB}/appguard-ipset", flavour, f"ip6{flavour[2:]}"], look_every=0)
    do(made.replace([], []))
    yield made
    do(made.lift())


@pytest.fixture
def attacker() -> Iterator[Machine]:
    """Give a machine with addresses of both families."""
    there = [f"{ATTACKER}/24", f"{OTHER}/24", f"{ATTACKER6}/64"]
    with joined("attacker", [f"{HERE}/24", f"{HERE6}/64"], there) as machine:
        yield machine


@pytest.mark.lab
def test_ipset_shuts_out_a_client_and_nobody_else(ipset: Command, attacker: Machine) -> None:
    """The iptables example drops banned packets of both families, counts them, keeps the way out, and lifts."""
    with socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True):
        do(ipset.change([block(ATTACKER), block("2001:db8:a::/64")], []))
        assert not answers(attacker, HERE, PORT, ATTACKER, WITHIN)
        assert not answers(attacker, HERE6, PORT, ATTACKER6, WITHIN)
        assert answers(attacker, HERE, PORT, OTHER)
        assert asyncio.run(ipset.intact())
        assert asyncio.run(ipset.dropped())
        with attacker.open_socket(socket.AF_INET, socket.SOCK_STREAM) as theirs:
            theirs.bind((ATTACKER, 443))
            theirs.listen()
            socket.create_connection((ATTACKER, 443), timeout=5).close()
        do(ipset.replace([network(ATTACKER)], [block("198.51.100.0/24")]))
        assert answers(attacker, HERE, PORT, ATTACKER)
        assert not answers(attacker, HERE, PORT, OTHER, WITHIN)
        assert answers(attacker, HERE6, PORT, ATTACKER6)
        do(ipset.lift())
        assert answers(attacker, HERE, PORT, OTHER)


@pytest.mark.lab
def test_ipset_covers_published_ports(ipset: Command, flavour: str, attacker: Machine) -> None:
    """The iptables example covers a container's published port beside Docker's chains of the same flavour."""
    with docker_host(flavour) as container, container.open_socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("0.0.0.0", 8000))
        server.listen()
        assert answers(attacker, HERE, PUBLISHED, ATTACKER)
        do(ipset.change([block(ATTACKER)], []))
        assert not answers(attacker, HERE, PUBLISHED, ATTACKER, WITHIN)
        assert answers(attacker, HERE, PUBLISHED, OTHER)


@pytest.mark.lab
def test_ipset_forgets_by_itself_and_misses_its_rules(ipset: Command, flavour: str, attacker: Machine) -> None:
    """A ban of the iptables example ends in the kernel, and a foreign flush of its rules is seen."""
    with socket.create_server((HERE, PORT)):
        do(ipset.change([block(ATTACKER, 1)], []))
        assert not answers(attacker, HERE, PORT, ATTACKER, WITHIN)
        wait_until(lambda: answers(attacker, HERE, PORT, ATTACKER, WITHIN), 5, "the ban goes on")
    assert asyncio.run(ipset.intact())
    run(flavour, "-t", "mangle", "-F")
    assert not asyncio.run(ipset.intact())


def api(served: Blocklist, token: Path, *, look_every: float = 0) -> Command:
    """Give the HTTP example for an API."""
    token.write_text("secret")
    return Command(command=[f"{CONTRIB}/appguard-http", served.url, str(token)], look_every=look_every)


def test_what_has_ended_is_taken_out(tmp_path: Path) -> None:
    """An API that forgets nothing is told when bans end, and by a change of something else too."""
    with blocklist() as served:
        firewall = api(served, tmp_path / "token")
        do(firewall.replace([], [block("203.0.113.1", 0.5), block("203.0.113.2")]))
        wait_until(lambda: asyncio.run(firewall.intact()) and served.held() == {"203.0.113.2"}, 10, "it stays")
        do(firewall.change([block("203.0.113.3", 0.1)], []))
        wait_until(lambda: time.time() > served.ends["203.0.113.3/32"] if served.ends else False, 5, "no end")
        do(firewall.change([block("203.0.113.4")], []))
        assert served.held() == {"203.0.113.2", "203.0.113.4"}


def test_a_slow_api_is_not_asked_all_the_time(tmp_path: Path) -> None:
    """Whether it is intact is asked once in a while, and answered from memory in between."""
    with blocklist() as served:
        firewall = api(served, tmp_path / "token", look_every=60)
        do(firewall.replace([], [block("203.0.113.1")]))
        assert all(asyncio.run(firewall.intact()) for _ in range(5))
        assert served.requests == ["PUT", "GET"]


def test_a_failure_is_an_error_with_its_words(tmp_path: Path) -> None:
    """What the program says is in the error, the old bans stay known, and the verb can be repeated."""
    with blocklist() as served:
        firewall = api(served, tmp_path / "token")
        do(firewall.replace([], []))
        served.says = 503
        with pytest.raises(FirewallError, match="says 503"):
            do(firewall.change([block("203.0.113.1")], []))
        with pytest.raises(FirewallError, match=r"intact: exit status 1: .* says 503"):
            asyncio.run(firewall.intact())
        served.says = 0
        do(firewall.change([block("203.0.113.1")], []))
        assert served.held() == {"203.0.113.1"}


def program(path: Path, text: str) -> str:
    """Write a shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_missing_privilege_is_called_so(tmp_path: Path) -> None:
    """A program that was not permitted to do it is told apart from one that failed."""
    denied = Command(command=[program(tmp_path / "denied", "cat > /dev/null; echo Permission denied >&2; exit 4")])
    with pytest.raises(FirewallPermissionError, match="exit status 4: Permission denied"):
        do(denied.replace([], []))


def test_a_program_that_does_not_end_is_ended(tmp_path: Path) -> None:
    """A program that hangs is an error after its time and is not left behind."""
    hanging = Command(command=[program(tmp_path / "hanging", "exec sleep 1000")], patience=0.2)
    with pytest.raises(FirewallError, match=r"did not end within 0\.2 seconds"):
        do(hanging.replace([], []))


def test_what_a_program_has_started_is_ended_with_it(tmp_path: Path) -> None:
    """A script that waits for another program ends in time, and that program with it."""
    script = program(tmp_path / "script", f"sleep 30 & echo $! > {tmp_path}/pid; wait")
    hanging = Command(command=[script], patience=0.5)
    began = time.monotonic()
    with pytest.raises(FirewallError, match="did not end within"):
        do(hanging.replace([], []))
    assert time.monotonic() - began < 10
    child = Path("/proc", (tmp_path / "pid").read_text().strip(), "cmdline")
    wait_until(lambda: not child.exists() or not child.read_bytes(), 5, "it is left behind")


def test_what_a_program_is_told(tmp_path: Path) -> None:
    """The lines are those of docs/firewalls.md: a verb, a line for each thing, and `end`."""
    said = tmp_path / "said"
    firewall = Command(
        command=[
            program(
                tmp_path / "writes", f"tee -a {said} | sed -e s/ports/yes/ -e s/intact/yes/ -e s/dropped/7/ -e /end/d"
            )
        ],
        look_every=0,
    )
    do(
        firewall.replace(
            [network("192.0.2.0/24")], [block("203.0.113.5", 60), Block.of(network("2001:db8::/64"), None)]
        )
    )
    do(firewall.change([block("203.0.113.6", 60)], [block("203.0.113.5")]))
    ported = block("203.0.113.6", 60, "tcp/22,8000-8010")
    do(firewall.change([ported], []), firewall.change([], [ported]))
    assert asyncio.run(firewall.intact())
    assert asyncio.run(firewall.dropped()) == 7
    do(firewall.lift())
    assert said.read_text().split("end\n") == [
        "ports\n",
        "replace\nallow 192.0.2.0/24\nban 203.0.113.5/32 60\nban 2001:db8::/64 604800\n",
        "change\nunban 203.0.113.5/32\nban 203.0.113.6/32 60\n",
        "change\nban-ports 203.0.113.6/32 60 tcp/22,8000-8010\n",
        "change\nunban-ports 203.0.113.6/32 tcp/22,8000-8010\n",
        "intact\n",
        "dropped\n",
        "lift\n",
        "",
    ]


@pytest.mark.parametrize("answer", ["exit 2", "echo no"])
def test_what_a_program_does_not_hold_is_not_enforced(tmp_path: Path, answer: str) -> None:
    """A program that does not say that it holds bans of ports is told of none, and they do not count as enforced."""
    said = tmp_path / "said"
    script = program(tmp_path / "plain", f"tee -a {said} | grep -q ports && {answer}; exit 0")
    bans = MemoryBanSet()
    bouncer = Bouncer(bans, Command(command=[script]), Judge())
    for ports in ("", "tcp/22"):
        bans.ban(replace(Ban.of("203.0.113.5"), ports=ports))
    asyncio.run(bouncer.settle())
    assert bouncer.status.enforced == 1
    assert {key: why for key, (_, why) in bouncer.status.refused.items()} == {
        "203.0.113.5 tcp/22": f"{script} holds no bans of some ports alone"
    }
    assert "ban 203.0.113.5/32" in said.read_text()
    assert "ban-ports" not in said.read_text()


def test_a_command_is_needed() -> None:
    """Without a program the settings are refused, with the line to write."""
    with pytest.raises(ConfigError, match="needs command = "):
        open_firewall("command", {"kind": ("command",)})
