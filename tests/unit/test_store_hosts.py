"""Where the hosts of a store are: as the URI writes them, or as the resolver says, now and again."""

import threading

import pytest

from appguard.address import parse_address
from appguard.names import Addresses
from appguard.store_hosts import AGAIN, StoreHosts
from tests.lab import wait_until
from tests.threads import no_more_threads


class Resolver:
    """A resolver that says what it is told to, when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.answers: dict[str, str] = {}
        self.asked = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def clock(self) -> float:
        """Give the time."""
        return self.now

    def resolve(self, host: str) -> Addresses:
        """Give the addresses of a host, if it is known."""
        self.may_answer.wait(10)
        self.asked += 1
        return tuple(map(parse_address, self.answers.get(host, "").split()))


def stores(hosts: StoreHosts) -> tuple[str, ...]:
    """Give the addresses as text."""
    return tuple(each.text for each in hosts.facts().stores)


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("redis://:secret@203.0.113.9:6379/0", ("203.0.113.9",)),
        ("rediss+sentinel://203.0.113.9,[2001:db8::9]:26379/main/0", ("203.0.113.9", "2001:db8::9")),
        ("redis+cluster://203.0.113.9,203.0.113.8", ("203.0.113.8", "203.0.113.9")),
        ("redis://127.0.0.1", ()),  # nobody bans loopback anyway
        ("redis+unix:///run/redis.sock", ()),
        ("memory://", ()),
        ("", ()),
    ],
)
def test_addresses_are_taken_as_they_are(uri: str, found: tuple[str, ...]) -> None:
    """Addresses in a URI of any form need no resolver; other stores have no host."""
    assert stores(StoreHosts(uri, Resolver().resolve)) == found


def test_without_a_thread_to_spare_names_are_looked_up_later(caplog: pytest.LogCaptureFixture) -> None:
    """Where the system refuses another thread, what is known is given and the rest is tried again."""
    resolver = Resolver()
    hosts = StoreHosts("redis+cluster://redis,203.0.113.9", resolver.resolve, resolver.clock)
    resolver.answers["redis"] = "203.0.113.7"
    with no_more_threads():
        assert stores(hosts) == ("203.0.113.9",)
    assert "can't start new thread" in caplog.text
    resolver.now += AGAIN
    wait_until(lambda: stores(hosts) == ("203.0.113.7", "203.0.113.9"), 5, "the name is not found")


def test_names_are_looked_up_again_and_last_answers_stay() -> None:
    """A slow resolver keeps nobody waiting; a name that moves is followed; no answer takes nothing away."""
    resolver = Resolver()
    resolver.may_answer.clear()
    hosts = StoreHosts("redis+cluster://redis,203.0.113.9", resolver.resolve, resolver.clock)
    assert stores(hosts) == ("203.0.113.9",)
    resolver.answers["redis"] = "203.0.113.7"
    resolver.may_answer.set()
    wait_until(lambda: stores(hosts) == ("203.0.113.7", "203.0.113.9"), 5, "the name is not found")
    resolver.answers["redis"] = "203.0.113.6 2001:db8::6"
    assert stores(hosts) == ("203.0.113.7", "203.0.113.9")
    resolver.now += AGAIN
    wait_until(lambda: stores(hosts) == ("203.0.113.6", "203.0.113.9", "2001:db8::6"), 5, "the name has moved")
    resolver.answers.clear()
    resolver.now += AGAIN
    asked = resolver.asked
    wait_until(lambda: stores(hosts) and resolver.asked > asked, 5, "it is asked again")
    assert stores(hosts) == ("203.0.113.6", "203.0.113.9", "2001:db8::6")
