"""`appguard ban --ports`: a person's ban of some ports alone, through the whole daemon."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from appguard.address import parse_address
from appguard.firewalls.nft_ports import LISTS_MOST
from appguard.stores.local import LocalStore
from tests.daemon import Place, running_daemon
from tests.lab import wait_until
from tests.netns import run

pytestmark = pytest.mark.lab


@pytest.fixture
def place(open_tmp_path: Path) -> Iterator[Place]:
    """Give a daemon without jails that enforces with nftables."""
    place = Place(open_tmp_path)
    place.configure("")
    with running_daemon(place):
        yield place
    run("nft", "flush ruleset")


def held(ports: str) -> bool:
    """Say whether the kernel has rules for such a list of ports."""
    return f"elements = {{ {ports} }}" in run("nft", "list", "table", "inet", "appguard")


def test_a_ban_of_ports_is_of_those_alone(place: Place) -> None:
    """The kernel has the ports, apps do not refuse an address banned from SSH, and unban lifts all its bans."""
    made = place.run("ban", "203.0.113.5", "--ports", "ssh, 8000-8010", "--protocol", "tcp")
    assert made.stdout.startswith("Banned 203.0.113.5 from tcp 22, 8000-8010 alone"), made.stdout + made.stderr
    assert held("22, 8000-8010")
    place.run("ban", "203.0.113.5", "--ports", "https")
    assert {ban["ports"]: ban["enforced_by"] for ban in place.ask("list")["bans"]} == {
        "tcp/22,8000-8010": ["kernel"],
        "tcp+udp/443": ["kernel", "app"],
    }
    with LocalStore(place.runtime) as app:
        assert wait_until(lambda: app.get(parse_address("203.0.113.5")), 5, "the app does not know of the ban")
        place.run("unban", "203.0.113.5")
        wait_until(lambda: app.get(parse_address("203.0.113.5")) is None, 5, "the app still has the ban")
    assert place.ask("list")["bans"] == []


def test_what_are_no_ports_is_a_usage_error(place: Place) -> None:
    """A wrong port is refused in words, by the command and by the daemon."""
    said = place.run("ban", "203.0.113.5", "--ports", "22,70000")
    assert said.returncode == 2
    assert "--ports: 70000-70000: expected ports from 0 to 65535" in said.stderr
    assert place.run("ban", "203.0.113.5", "--protocol", "icmp").returncode == 2


def test_a_forced_ban_of_ports_is_enforced_and_confirmed(place: Place) -> None:
    """A ban by force is known by its network and ports, and lasts when that is confirmed as the command says."""
    forced = place.run("ban", "198.0.0.0/12", "--ports", "22", "--protocol", "tcp", "--for", "1h", "--force")
    assert "appguard confirm '198.0.0.0/12 tcp/22'" in forced.stdout, forced.stdout + forced.stderr
    (ban,) = place.ask("list")["bans"]
    assert (ban["unconfirmed"], ban["enforced_by"]) == (True, ["kernel"])
    place.run("confirm", "198.0.0.0/12 tcp/22")
    (ban,) = place.ask("list")["bans"]
    assert not ban["unconfirmed"]
    assert ban["end"] > ban["start"] + 3500


def test_more_lists_of_ports_than_the_kernel_is_given_do_not_count_as_enforced(place: Place) -> None:
    """Who is banned from ports of the list too many is refused in the status, and nothing is said to block him."""
    for number in range(LISTS_MOST + 1):
        place.run("ban", "203.0.113.5", "--ports", str(1000 + 2 * number), "--protocol", "tcp")
    enforced_by = {ban["ports"]: ban["enforced_by"] for ban in place.ask("list")["bans"]}
    last = f"tcp/{1000 + 2 * LISTS_MOST}"
    assert enforced_by.pop(last) == []
    assert all(by == ["kernel"] for by in enforced_by.values())
    (refused,) = place.ask("status")["refused"]
    assert refused["network"] == f"203.0.113.5 {last}"
    assert "64 other lists of ports" in refused["why"]
