"""What the bouncer apart takes from the daemon, and what it leaves out: the daemon's answer is input from outside."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from appguard.address import network_text, parse_network
from appguard.errors import StoreError
from appguard.followed_bans import FollowedBans, read_answer, read_fact
from appguard.following import Following, News
from appguard.stores.memory import MemoryBanSet

GOOD: dict[str, Any] = {
    "network": "203.0.113.5",
    "jail": "login",
    "start": 1.0,
    "end": None,
    "reason": "",
    "failures": 5,
    "evidence": ["x" * 9999] * 99,
    "via": [],
    "ref": "AAAAAAAA",
    "automatic": True,
}


def fact_text(ban: object = GOOD, **changes: object) -> bytes:
    """Write a fact as the daemon does."""
    return json.dumps({"network": "203.0.113.5", "version": 7, "ban": ban} | changes).encode()


def test_a_sound_fact_is_read_and_cut() -> None:
    """A fact becomes the ban it tells, long texts cut."""
    fact = read_fact(fact_text())
    assert fact is not None and fact.ban is not None
    assert (fact.key, fact.version, fact.ban.version, fact.ban.automatic) == ("203.0.113.5", 7, 7, True)
    assert sum(map(len, fact.ban.evidence)) < 3000


@pytest.mark.parametrize(
    "record",
    [
        b"17",
        b"{}",
        fact_text(network="203.0.113"),
        fact_text(network="203.0.113.5; flush ruleset"),
        fact_text(version=-1),
        fact_text(version=1 << 63),
        fact_text(version="7"),
        fact_text(ban=17),
        *(
            fact_text(ban=GOOD | change)
            for change in (
                {"jail": "a b"},
                {"jail": ""},
                {"end": "soon"},
                {"end": -5.0},
                {"start": -1},
                {"failures": -1},
                {"automatic": "yes"},
                {"evidence": [17]},
            )
        ),
        fact_text(ban=GOOD).replace(b"1.0", b"1e999"),
        fact_text(ban=GOOD).replace(b"1.0", b"NaN"),
    ],
)
def test_what_is_no_fact_is_left_out(record: bytes) -> None:
    """A record that is none is left out; the sound one beside it is taken."""
    assert read_fact(record) is None
    body = b'{"cursor":"c","whole":true,"enforcing":true,"facts":[' + record + b"," + fact_text() + b"]}"
    if b"NaN" not in record:  # which is no JSON at all
        assert [fact.key for fact in read_answer(body).facts] == ["203.0.113.5"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"cursor":"c","whole":true,"enforcing":true}',
        b'{"cursor":"c","whole":true,"facts":[]}',
        b'{"cursor":"c","whole":1,"enforcing":true,"facts":[]}',
        b'{"cursor":"c\\r\\nX: y","whole":true,"enforcing":true,"facts":[]}',
        b'{"cursor":"' + b"c" * 200 + b'","whole":true,"enforcing":true,"facts":[]}',
        b'{"cursor":"\xff","whole":true,"enforcing":true,"facts":[]}',
        b'{"a":' * 10_000,
        b'{"cursor":"c","whole":true,"enforcing":true,"facts":[' + b'{"a":' * 10_000,
    ],
)
def test_what_is_no_answer_is_an_error(body: bytes) -> None:
    """An answer that lacks anything, enforcement above all, is an error and changes nothing."""
    with pytest.raises(StoreError, match="not understood"):
        read_answer(body)


def test_the_daemon_is_always_right() -> None:
    """A lift with an old version, and a whole answer without a ban, take out what was told before."""
    bans = FollowedBans()
    told = '{"cursor":"c","whole":%s,"enforcing":true,"facts":[%s]}'
    lift = fact_text(ban=None, version=1).decode()
    for whole, facts, expected in (("true", fact_text().decode(), 1), ("false", lift, 0)):
        bans.take(read_answer((told % (whole, facts)).encode()))
        assert len(bans.snapshot().bans) == expected
    bans.take(read_answer((told % ("false", fact_text().decode())).encode()))
    cursor = bans.snapshot().cursor
    bans.take(read_answer((told % ("true", "")).encode()))
    assert bans.snapshot().bans == ()
    changes = bans.follow(cursor)
    assert changes is not None and [(fact.key, fact.ban) for fact in changes.facts] == [("203.0.113.5", None)]


def test_what_is_protected_is_told_once() -> None:
    """A new follower is told what else is let in; who knows it is not told again, until it changes."""

    async def told() -> list[bytes]:
        following = Following(MemoryBanSet())
        following.protect((), [(parse_network("192.0.2.1"), "an address of web-2")])
        first = await following.news("", 1)
        following.tell()
        following.protect((), ())
        second = await following.news(first.cursor, 1)
        following.close()
        third = await following.news(second.cursor, 1)
        return [msgspec.json.encode(_head(news)) for news in (first, second, third)]

    first, second, third = [read_answer(body) for body in asyncio.run(told())]
    assert first.protected is not None
    assert [(str(network), what) for network, what in first.protected[1]] == [("192.0.2.1/32", "an address of web-2")]
    assert second.protected == ((), ())
    assert third.protected is None
    assert not third.whole


def test_protections_that_are_none_are_an_error() -> None:
    """An answer with something that is no network is no answer: everything stays as it was."""
    body = b'{"cursor":"c","whole":true,"enforcing":true,"facts":[],"protected":[[["x","y"]],[]]}'
    with pytest.raises(StoreError, match="not understood"):
        read_answer(body)


def _head(news: News) -> dict[str, object]:
    """Write an answer as the control API does."""
    head: dict[str, object] = {"cursor": news.cursor, "whole": news.whole, "enforcing": news.enforcing, "facts": []}
    if news.protected is not None:
        head["protected"] = [[(network_text(net), what) for net, what in part] for part in news.protected]
    return head
