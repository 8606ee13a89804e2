"""The merge of facts in Redis, by the script itself on a real server."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from appguard.address import parse_network
from appguard.ban import Ban, Fact
from appguard.stores.redis_commands import Commands, Script
from appguard.stores.redis_connection import connect
from appguard.stores.redis_records import fields_of, parse_record
from appguard.stores.redis_uri import parse_redis_uri
from tests.redis_server import redis_server

FACTS, CHANGES = "appguard:b:{main}:facts", "appguard:b:{main}:changes"
NETWORK = parse_network("203.0.113.5")
SHORT, LONG, EVER = 86_400.0, 7 * 86_400.0, None  # none ends while the tests run


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Give a client of a running server."""
    with redis_server(tmp_path_factory.mktemp("merge")) as server:
        opened = connect(parse_redis_uri(server.uri), 5.0)
        yield opened
        opened.close()


def ban(version: int, lasts: float | None, *, automatic: bool = True) -> Fact:
    """Make a ban."""
    now = time.time()
    end = None if lasts is None else now + lasts
    return Fact(NETWORK, version, Ban(NETWORK, "login", now, end, automatic=automatic, version=version))


def lift(version: int) -> Fact:
    """Make a lift."""
    return Fact(NETWORK, version, None)


def tell(client: Commands, fact: Fact, how: str) -> tuple[bool, Fact | None]:
    """Tell one fact; give whether it changed anything, and what is kept."""
    changed, record = Script("merge").call(client, (FACTS, CHANGES), [100, *fields_of(fact, 0.0, how)])
    return bool(changed), parse_record(fact.key.encode(), record, 0.0)


@pytest.mark.parametrize(
    ("known", "told", "how", "kept"),
    [
        (ban(5, LONG), ban(6, SHORT), "new", 5),  # a jail only ever extends
        (ban(5, LONG), ban(6, SHORT), "again", 5),
        (ban(5, LONG), ban(6, SHORT), "history", 6),  # it was so
        (ban(5, SHORT), ban(6, LONG), "new", 6),
        (ban(5, LONG), ban(6, EVER), "new", 6),
        (ban(5, EVER), ban(6, LONG), "new", 5),
        (ban(5, LONG), ban(6, SHORT, automatic=False), "new", 6),  # a person's word
        (ban(5, LONG), lift(6), "new", 6),
        (ban(5, LONG), lift(4), "new", 6),  # decided now, by a host whose clock is late
        (ban(5, LONG), lift(4), "again", 5),
        (ban(5, LONG), lift(4), "history", 5),
        (lift(5), ban(4, LONG), "new", 6),
        (lift(5), ban(4, LONG), "again", 5),
        (lift(5), ban(4, LONG), "history", 5),
        (lift(5), ban(5, LONG), "history", 5),
        (lift(5), ban(6, SHORT), "history", 6),
        (lift(5), ban(6, -1.0), "new", 5),  # it has ended
    ],
)
def test_merge(client: Commands, known: Fact, told: Fact, how: str, kept: int) -> None:
    """Of a known and a told fact the right one is kept, told to all if it is another, and given to who told it."""
    client.execute_command("DEL", FACTS, CHANGES)
    assert tell(client, known, "new") == (True, _as_kept(known))
    is_changed, found = tell(client, told, how)
    assert is_changed == (kept != known.version)
    assert found is not None
    assert found.version == kept
    assert (found.ban is None) == ((told if is_changed else known).ban is None)
    assert client.execute_command("XLEN", CHANGES) == 1 + is_changed
    assert client.execute_command("HLEN", FACTS) == 2  # and the epoch


def _as_kept(fact: Fact) -> Fact:
    """Give a fact as Redis can keep it: ends in milliseconds."""
    if fact.ban is None or fact.ban.end is None:
        return fact
    return Fact(fact.network, fact.version, replace(fact.ban, end=round(fact.ban.end * 1000) / 1000))


def test_slices_are_swept_once_a_second(client: Commands) -> None:
    """What has ended and what was lifted long ago goes, what is in force and what was lifted lately stays."""
    client.execute_command("DEL", FACTS, CHANGES)
    old, new = int((time.time() - 40 * 86400) * 1_000_000), int(time.time() * 1_000_000)
    facts = {"192.0.2.1": f"{new} 1000 0 {{}}", "192.0.2.2": f"{old} -1 0 {{}}"}
    stay = {"192.0.2.3": f"{new} 0 0 {{}}", "192.0.2.4": f"{new} -1 0 {{}}", "192.0.2.5": "nonsense"}
    for network, record in (facts | stay | {"epoch": "7"}).items():
        client.execute_command("HSET", FACTS, network, record)
    assert Script("sweep").call(client, (FACTS,), [1000]) == 2
    assert Script("sweep").call(client, (FACTS,), [1000]) == 0
    left = client.execute_command("HKEYS", FACTS)
    assert {each.decode() for each in left} == set(stay) | {"epoch", "sweep"}
