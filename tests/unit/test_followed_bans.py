"""What the bouncer apart takes from the daemon, and what it leaves out: the daemon's answer is input from outside."""

import asyncio

import msgspec
import pytest

from appguard.address import network_text, parse_network
from appguard.ban import Ban, Brief, Fact
from appguard.errors import StoreError
from appguard.followed_bans import TAKEN_AT_ONCE, FollowedBans, read_answer
from appguard.following import Following, News
from appguard.stores.memory import MemoryBanSet
from appguard.stores.replica import Replica

FIRST, SECOND, THIRD = ((f"203.0.113.{number}", "login", 2_000_000_000.0 + number) for number in (1, 2, 3))


def told(*facts: Brief, whole: bool = True) -> News:
    """Give an answer of the daemon."""
    body = {"cursor": "c", "whole": whole, "enforcing": True, "facts": facts}
    return read_answer(msgspec.json.encode(body))


def keys(bans: FollowedBans) -> set[str]:
    """Give whose bans are made."""
    return {ban.key for ban in bans.snapshot().bans}


@pytest.mark.parametrize(
    "brief",
    [
        ("203.0.113", "login", None),
        ("203.0.113.5; flush ruleset", "login", None),
        ("203.0.113.5 tcp/x", "login", None),
        ("", "login", None),
        ("203.0.113.5", "a b", None),
        ("203.0.113.5", "", None),
        ("203.0.113.5", "login", -5.0),
        ("203.0.113", None, None),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_what_is_no_ban_is_left_out(brief: Brief, whole: bool) -> None:
    """A ban of no network, or in the name of no jail, is left out; the sound one beside it is taken."""
    bans = FollowedBans()
    bans.tell(told(brief, FIRST, whole=whole))
    assert bans.take_some()
    assert [fact.key for fact in bans.follow(0).facts] == [FIRST[0]]
    assert keys(bans) == {FIRST[0]}


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
        b'{"cursor":"c","whole":true,"enforcing":true,"facts":[17]}',
        b'{"cursor":"c","whole":true,"enforcing":true,"facts":[["203.0.113.5","login"]]}',
        b'{"cursor":"c","whole":true,"enforcing":true,"facts":[["203.0.113.5","login","soon"]]}',
        b'{"cursor":"c","whole":true,"enforcing":true,"facts":[["203.0.113.5","login",1e999]]}',
        b'{"cursor":"c","whole":true,"enforcing":true,"facts":[["203.0.113.5","login",NaN]]}',
        b'{"cursor":"c","whole":true,"enforcing":true,"facts":[' + b'{"a":' * 10_000,
    ],
)
def test_what_is_no_answer_is_an_error(body: bytes) -> None:
    """An answer that lacks anything, enforcement above all, is an error and changes nothing."""
    with pytest.raises(StoreError, match="not understood"):
        read_answer(body)


def test_the_daemon_is_always_right() -> None:
    """A lift, and a whole answer without a ban, take out what was told before; what is known is not told again."""
    bans = FollowedBans()
    bans.tell(told(FIRST, SECOND))
    assert bans.take_some()
    assert keys(bans) == {FIRST[0], SECOND[0]}
    bans.tell(told((FIRST[0], None, None), SECOND, whole=False))
    assert [(fact.key, fact.ban) for fact in bans.follow(0).facts] == [(FIRST[0], None)]
    bans.tell(told(THIRD))
    assert bans.take_some()
    assert {fact.key: fact.ban is None for fact in bans.follow(0).facts} == {SECOND[0]: True, THIRD[0]: False}
    longer = (THIRD[0], THIRD[1], None)
    bans.tell(told(longer, whole=False))
    assert [ban.brief for ban in bans.snapshot().bans] == [longer]
    assert bans.follow(0).facts == ()


def test_a_long_list_is_made_some_at_a_time_and_what_is_new_wins() -> None:
    """Bans of a whole answer are held in brief; one lifted or changed before its turn is not made as it was."""
    many = [(f"10.0.{number >> 8}.{number & 255}", "login", 2_000_000_000.0) for number in range(2 * TAKEN_AT_ONCE)]
    bans = FollowedBans()
    bans.tell(told(*many, FIRST))
    rest = bans.rest()
    assert next(rest) == many[0]
    lifted, changed = (many[1][0], None, None), (many[2][0], "web", None)
    bans.tell(told(lifted, changed, many[3], whole=False))
    assert [fact.key for fact in bans.follow(0).facts] == [lifted[0], changed[0]]
    assert list(rest) == [*many[3:], FIRST]
    assert not bans.take_some()
    assert keys(bans) == {changed[0], FIRST[0], *(key for key, _, _ in many[-TAKEN_AT_ONCE + 1 :])}
    while not bans.take_some():
        pass
    assert {ban.brief for ban in bans.snapshot().bans} == {many[0], changed, *many[3:], FIRST}
    assert not list(bans.rest())


def test_what_has_ended_is_forgotten() -> None:
    """Of bans that end nothing is told, and they are not kept."""
    now = [1_000.0]
    bans = FollowedBans(lambda: now[0])
    bans.tell(told(("203.0.113.1", "login", 1_010.0), whole=False))
    now[0] = 1_010.0
    bans.tell(told(whole=False))
    assert not keys(bans)


def test_while_bans_are_restored_followers_are_told_what_is_saved() -> None:
    """Who asks for all gets what is saved and what is new, at once; then changes; then what did not come back."""

    async def scene() -> None:
        ban_set = MemoryBanSet()
        following = Following(ban_set)
        following.begin_restore(lambda: [THIRD, SECOND])
        assert ban_set.ban(Ban.of(FIRST[0], bantime=-1))
        first = await following.news("", 1)
        assert (first.whole, [key for key, _, _ in first.facts]) == (True, [FIRST[0], THIRD[0], SECOND[0]])
        assert not following.loaded.is_set()
        assert ban_set.unban(parse_network(FIRST[0]))
        second = await following.news(first.cursor, 1, is_done=False)
        assert (second.whole, second.facts) == (False, [(FIRST[0], None, None)])
        assert not following.loaded.is_set()
        waiting = asyncio.create_task(following.news(second.cursor, 1))
        await following.loaded.wait()
        assert not waiting.done()
        ban_set.restore([Ban(parse_network(SECOND[0]), "login", 0.0, SECOND[2], version=1)])
        following.end_restore()
        third = await waiting
        assert (third.whole, third.facts) == (False, [(THIRD[0], None, None), SECOND])
        following.tell()
        assert ban_set.ban(Ban.of(FIRST[0], bantime=-1))
        fourth = await following.news(third.cursor, 1)
        assert (fourth.whole, [key for key, _, _ in fourth.facts]) == (False, [FIRST[0]])

    asyncio.run(scene())


def test_what_was_lifted_elsewhere_while_this_host_was_away_is_told_when_all_is_back() -> None:
    """A saved ban that the ban set does not take back, as it knows of a later lift, stays with no follower."""

    async def scene() -> None:
        saved, lifted = (Ban(parse_network(key), "login", 0.0, end, version=1) for key, _, end in (SECOND, THIRD))
        ban_set = Replica()
        ban_set.merge(Fact.lifting(lifted, 2))
        following = Following(ban_set)
        following.begin_restore(lambda: [THIRD, SECOND])
        first = await following.news("", 1)
        assert [key for key, _, _ in first.facts] == [THIRD[0], SECOND[0]]
        ban_set.restore([saved, lifted])
        following.came_back([saved, lifted])
        following.end_restore()
        second = await following.news(first.cursor, 1)
        assert (second.whole, second.facts) == (False, [(THIRD[0], None, None), SECOND])

    asyncio.run(scene())


def test_who_is_still_at_it_has_done_nothing() -> None:
    """A switch counts as done when a follower asks on without saying that it is busy."""

    async def scene() -> None:
        following = Following(MemoryBanSet())
        following.switch(False)
        cursor = (await following.news("", 1)).cursor
        done = asyncio.create_task(following.done())
        busy = asyncio.create_task(following.news(cursor, 1, is_done=False))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not done.done()
        asking = asyncio.create_task(following.news(cursor, 1))
        await done
        following.close()
        await asyncio.gather(busy, asking)

    asyncio.run(scene())


def test_what_is_protected_is_told_once() -> None:
    """A new follower is told what else is let in; who knows it is not told again, until it changes."""

    async def scene() -> list[bytes]:
        following = Following(MemoryBanSet())
        following.protect((), [(parse_network("192.0.2.1"), "an address of web-2")])
        first = await following.news("", 1)
        following.tell()
        following.protect((), ())
        second = await following.news(first.cursor, 1)
        following.close()
        third = await following.news(second.cursor, 1)
        return [msgspec.json.encode(_head(news)) for news in (first, second, third)]

    first, second, third = [read_answer(body) for body in asyncio.run(scene())]
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
