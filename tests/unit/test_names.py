"""Host names and their addresses: asked for by threads, remembered, bounded."""

import logging
from collections.abc import Iterator
from threading import Event as Flag
from threading import Lock

import pytest

from appguard.address import parse_address
from appguard.names import FOUND_SECONDS, NOT_FOUND_SECONDS, THREADS, WAITING_MOST, Addresses, Names, system_addresses
from tests.lab import wait_until
from tests.threads import no_more_threads

FOUND = (parse_address("203.0.113.5"),)


class Resolver:
    """A resolver that answers when it is let, and counts what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go = Flag()
        self.go.set()
        self._lock = Lock()

    def resolve(self, host: str) -> Addresses:
        """Answer as a resolver would."""
        with self._lock:
            self.asked.append(host)
        self.go.wait(10)
        return () if host.startswith("no.") else FOUND


@pytest.fixture
def resolver() -> Resolver:
    """Give a resolver."""
    return Resolver()


@pytest.fixture
def now() -> list[float]:
    """Give a clock's time, to be changed."""
    return [0.0]


@pytest.fixture
def names(resolver: Resolver, now: list[float]) -> Iterator[Names]:
    """Give names that ask it."""
    made = Names(resolver.resolve, lambda: now[0])
    yield made
    resolver.go.set()
    made.close()


def answers(names: Names, host: str) -> Addresses:
    """Ask and wait for the answer."""
    found: list[Addresses] = []
    names.ask(host, found.append)
    return wait_until(lambda: found, 10, "no answer")[0]


def test_a_name_is_asked_for_once_and_remembered(names: Names, resolver: Resolver, now: list[float]) -> None:
    """Also that there is no such name, though not for as long; case does not matter."""
    assert answers(names, "a.example.com") == answers(names, "A.Example.COM") == FOUND
    assert answers(names, "no.example.com") == answers(names, "no.example.com") == ()
    assert resolver.asked == ["a.example.com", "no.example.com"]
    now[0] = NOT_FOUND_SECONDS
    assert (answers(names, "a.example.com"), answers(names, "no.example.com")) == (FOUND, ())
    assert resolver.asked[2:] == ["no.example.com"]
    now[0] = FOUND_SECONDS
    assert answers(names, "a.example.com") == FOUND
    assert resolver.asked[3:] == ["a.example.com"]


@pytest.mark.parametrize(
    "text",
    ["", "localhost", "203.0.113.5", "1.2.3", "0x7f.1", "127.0x1", "2001:db8::1", "a..b", "-a.example.com", "a.b c"],
)
def test_what_is_no_host_name_is_not_asked_for(names: Names, resolver: Resolver, text: str) -> None:
    """A resolver would take some of these for addresses, and nobody's domain has the others."""
    for asked in (text, f"{text}\n", "a" * 64 + ".example.com", "a." * 130 + "com", "ä.example.com"):
        names.ask(asked, lambda _: pytest.fail("answered"))
    assert answers(names, "a.example.com") == FOUND
    assert resolver.asked == ["a.example.com"]


def test_a_flood_of_names_is_bounded(names: Names, resolver: Resolver, caplog: pytest.LogCaptureFixture) -> None:
    """While the resolver does not answer, so many questions wait, the rest are dropped, and it is said once."""
    resolver.go.clear()
    found: list[Addresses] = []
    with caplog.at_level(logging.WARNING, "appguard"):
        for number in range(THREADS):
            names.ask(f"a{number}.example.com", found.append)
        wait_until(lambda: len(resolver.asked) == THREADS, 10, "not asked")
        for number in range(WAITING_MOST + 7):
            names.ask(f"b{number}.example.com", found.append)
    assert names.dropped == 7
    assert len([message for message in caplog.messages if "wait for their addresses" in message]) == 1
    resolver.go.set()
    wait_until(lambda: len(found) == WAITING_MOST + THREADS, 10, "not all answered")


def test_without_a_thread_to_spare_a_question_waits(names: Names, caplog: pytest.LogCaptureFixture) -> None:
    """Where the system refuses another thread that is said once, and the next question starts one for all."""
    found: list[Addresses] = []
    with no_more_threads():
        for number in range(3):
            names.ask(f"a{number}.example.com", found.append)
    assert (len(caplog.messages), found) == (1, [])
    assert answers(names, "b.example.com") == FOUND
    wait_until(lambda: found == [FOUND] * 3, 10, "not all answered")


def test_questions_that_waited_for_a_thread_until_no_more_had_room_are_answered(names: Names) -> None:
    """The next question starts a thread also where it finds no room itself."""
    found: list[Addresses] = []
    with no_more_threads():
        for number in range(WAITING_MOST):
            names.ask(f"a{number}.example.com", found.append)
    names.ask("b.example.com", lambda _: None)
    wait_until(lambda: len(found) == WAITING_MOST, 10, "not all answered")


def test_the_system_resolver() -> None:
    """A name in the hosts file has its addresses; one that there is not, or cannot be, has none."""
    assert {address.text for address in system_addresses("localhost")} <= {"127.0.0.1", "::1"}
    assert system_addresses("localhost")
    assert system_addresses("no-such-name.invalid") == ()
    assert system_addresses("a" * 300) == ()
