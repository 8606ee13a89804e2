"""Failures told by several hosts to a real Redis: counted together, each once, and banned in the same call."""

import asyncio
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from redis import Redis

from appguard.address import Grouping, parse_address, parse_network
from appguard.event import LOGIN_FAIL, LOGIN_SUCCESS, Event
from appguard.jail import Jail
from appguard.jail_window import JailWindow
from appguard.pipeline import Outcome, Shared
from appguard.shared_counting import SharedCounting
from appguard.stores.fleet_counted import MOMENT, FleetCounted
from appguard.stores.fleet_failures import Failed
from appguard.stores.redis_bans import RedisBanSet
from appguard.stores.redis_commands import Script
from tests.fleet_counting import ATTACKER, FIVE, OTHER, counting
from tests.lab import wait_until
from tests.redis_server import RedisServer, redis_server
from tests.replicas import CHANGES, FACTS, facts_kept
from tests.slow_relay import slow_relay

COUNTER = "appguard:d:{main}:failures:login:"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """Give a running server."""
    with redis_server(tmp_path) as running:
        yield running


def changes(server: RedisServer) -> int:
    """Give how many changes of the ban set Redis has told."""
    return int(server.command("XLEN", CHANGES)[1:])


def test_three_and_two_are_five(server: RedisServer) -> None:
    """Three failures on one host and two on another are one ban, with who told the last one as its maker."""
    with counting(server.uri) as (alpha, beta):
        alpha.fail(ATTACKER, 3)
        beta.fail(ATTACKER)
        beta.fail(OTHER, 4)
        assert not alpha.decided
        assert not beta.decided
        assert changes(server) == 0
        beta.fail(ATTACKER)
        assert [(each.ban.key, each.is_new) for each in beta.decided] == [(ATTACKER, True)]
        ban = beta.decided[0].ban
        assert ban.reason == "5 x authn_login_fail in 600 s on all hosts"
        assert (ban.failures, ban.host) == (5, "web+0")
        assert ban.evidence == ("a line", "a line")
        assert ban.end is not None
        assert ban.end - ban.start == pytest.approx(3600, abs=1)
        wait_until(lambda: alpha.bans.get(parse_address(ATTACKER)), 5, "not told")
        assert beta.bans.get(parse_address(ATTACKER)) is not None
        assert not alpha.decided
        assert changes(server) == 1


def test_what_is_sent_again_counts_nothing(server: RedisServer) -> None:
    """Connections cut before every answer: each batch goes again, and what is counted is what there was."""
    with counting(server.uri, Jail("login", maxretry=200, findtime="10m", bantime="1h", scope="fleet")) as (
        alpha,
        beta,
    ):
        sent: list[int] = []

        def cut(script: Script, times: int = 2) -> Script:
            real = script.call

            def call(client: Any, keys: Sequence[str], arguments: Sequence[object]) -> Any:
                answer = real(client, keys, arguments)
                sent.append(int(str(arguments[1])))
                if sent.count(sent[-1]) <= times:
                    server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                    raise ConnectionResetError("cut before the answer was read")
                return answer

            script.call = call  # type: ignore[method-assign]  # a network that fails when it hurts most
            return script

        cut(alpha.failures.script)
        for _ in range(4):
            alpha.fail(ATTACKER, 30)
        assert any(sent.count(number) == 3 for number in sent)
        beta.fail(ATTACKER, 79)
        assert not (alpha.decided or beta.decided)
        beta.fail(ATTACKER)
        assert [each.ban.failures for each in beta.decided] == [200]
        assert changes(server) == 1


def test_a_lost_answer_still_tells_who_was_banned(server: RedisServer) -> None:
    """Of a batch that is sent again the answer is the one that was lost, to the last byte."""
    with counting(server.uri) as (alpha, _):
        answers: list[bytes] = []
        real = alpha.failures.script.call

        def call(client: Any, keys: Sequence[str], arguments: Sequence[object]) -> Any:
            answers.extend(real(client, keys, arguments) for _ in range(2))
            return answers[-1]

        alpha.failures.script.call = call  # type: ignore[method-assign]  # sends everything twice
        for _ in range(5):
            alpha.fail(ATTACKER)
        assert answers[::2] == answers[1::2]
        assert len(alpha.decided) == 1
        assert changes(server) == 1


def test_only_what_lies_within_findtime_counts(server: RedisServer) -> None:
    """Old failures have left the window and late ones are weighed by their own time, by the clock of Redis."""
    with counting(server.uri, skews=(300.0, -300.0)) as (alpha, beta):
        beta.fail(ATTACKER, 2)
        alpha.fail(ATTACKER, 2, ago=590)
        beta.fail(OTHER, 4)
        alpha.fail(OTHER, ago=5)
        assert [each.ban.key for each in alpha.decided] == [OTHER]
        assert not beta.decided
        beta.fail(ATTACKER)
        assert [each.ban.key for each in beta.decided] == [ATTACKER]


def test_nobody_is_banned_again_for_what_was_forgiven(server: RedisServer) -> None:
    """After a lift by a person only what happens later counts, also what comes late from another host."""
    with counting(server.uri) as (alpha, beta):
        began = time.time()
        alpha.fail(ATTACKER, 5)
        assert len(alpha.decided) == 1
        assert alpha.bans.unban(parse_network(ATTACKER))
        wait_until(lambda: changes(server) == 2, 5, "the lift was not told")
        beta.fail(ATTACKER, 4, ago=time.time() - began + 1)
        beta.fail(ATTACKER, 4)
        assert not beta.decided
        beta.fail(ATTACKER)
        assert len(beta.decided) == 1


def test_a_host_that_has_counted_enough_alone_bans_after_redis_forgot(server: RedisServer) -> None:
    """Redis loses its counters: who fails often enough on one host is banned all the same, and once."""
    with counting(server.uri) as (alpha, beta):
        alpha.fail(ATTACKER, 4)
        server.command("FLUSHALL")
        alpha.fail(ATTACKER)
        assert [each.ban.key for each in alpha.decided] == [ATTACKER]
        beta.fail(ATTACKER)
        assert not beta.decided
        wait_until(lambda: ATTACKER in (facts_kept(server.uri) or {}), 5, "not kept")


def test_all_addresses_of_a_user_are_banned(server: RedisServer) -> None:
    """A jail by user bans every address that the user's failures came from, on whichever host."""
    jail = Jail("login", maxretry=3, findtime="10m", bantime="1h", key="user", scope="fleet")
    with counting(server.uri, jail) as (alpha, beta):
        alpha.fail(ATTACKER, user="alice")
        alpha.fail("203.0.113.9", user="bob")
        beta.fail(OTHER, user="alice")
        beta.fail("203.0.113.7", user="alice")
        assert sorted(each.ban.key for each in beta.decided) == [ATTACKER, OTHER, "203.0.113.7"]
        assert b"alice" not in server.command("KEYS", "*")


def test_a_login_ends_what_was_counted_for_its_user(server: RedisServer) -> None:
    """Who logs in on one host was no attacker: the failures told by another are forgotten."""
    jail = Jail("login", maxretry=3, findtime="10m", bantime="1h", key="user", scope="fleet")
    with counting(server.uri, jail) as (alpha, beta):
        alpha.fail(ATTACKER, 2, user="alice")
        success = Event(LOGIN_SUCCESS, time.time(), parse_address(OTHER), user="alice")
        assert beta.window.clears(success)
        beta.failures.put(Failed(jail, beta.window.key(success), success))
        wait_until(lambda: beta.answered == 1, 5, "not answered")
        alpha.window.forget("alice")
        alpha.fail(ATTACKER, 2, user="alice")
        assert not alpha.decided
        alpha.fail(ATTACKER, user="alice")
        assert len(alpha.decided) == 1


def test_different_values_are_counted_once(server: RedisServer) -> None:
    """A distinct jail counts different users, also where two hosts saw the same one."""
    jail = Jail("spray", maxretry=3, findtime="10m", bantime="1h", distinct="user", scope="fleet")
    with counting(server.uri, jail) as (alpha, beta):
        for host in (alpha, beta):
            for user in ("alice", "bob"):
                host.fail(ATTACKER, user=user)
        assert not (alpha.decided or beta.decided)
        beta.fail(ATTACKER, user="carol")
        assert [each.ban.reason for each in beta.decided] == [
            "authn_login_fail with 3 different user values in 600 s on all hosts"
        ]


@pytest.mark.parametrize(
    ("settings", "told", "counted"),
    [
        ({}, ["", "", ""], 3),
        ({"key": "user"}, ["alice", "alice", "bob"], 2),
        ({"key": "user+address"}, ["alice", "alice", "bob"], 2),
        ({"distinct": "user"}, ["alice", "alice", "bob"], 2),
    ],
)
def test_what_all_hosts_have_counted_can_be_asked(
    server: RedisServer, settings: dict[str, str], told: Sequence[str], counted: int
) -> None:
    """Whoever asks is told how much is counted under a key within findtime, on whichever host; old failures are not."""
    jail = Jail("login", maxretry=5, findtime="10m", bantime="1h", scope="fleet", **settings)  # type: ignore[arg-type]
    with counting(server.uri, jail, skews=(0.0, 300.0)) as (alpha, beta):
        alpha.fail(ATTACKER, ago=599, user="carol" if settings else "")
        for host, user in zip((alpha, beta, beta), told, strict=True):
            host.fail(ATTACKER, user=user)
        key = beta.window.key(Event(LOGIN_FAIL, beta.now(), parse_address(ATTACKER), user="alice"))
        asking = FleetCounted(server.uri, lambda: beta.bans.offset, clock=lambda: beta.now() + 5)
        assert asyncio.run(asking.ask([(jail, key), (jail, "nobody")])) == {
            ("login", key): counted,
            ("login", "nobody"): 0,
        }


def test_who_asks_a_silent_redis_is_told_nothing_soon(server: RedisServer) -> None:
    """While Redis hangs the answer is empty after a moment, once for each who asks, and whole again when it is back."""

    asking = FleetCounted(server.uri, lambda: 0.0)

    async def ask(times: int) -> list[Mapping[tuple[str, str], int]]:
        return [await asking.ask([(FIVE, ATTACKER)]) for _ in range(times)]

    server.freeze()
    try:
        began = time.monotonic()
        assert asyncio.run(ask(20)) == [{}] * 20  # one waits, the others do not stand in line behind it
        assert time.monotonic() - began < 10 * MOMENT
    finally:
        server.thaw()
    wait_until(lambda: asyncio.run(ask(1))[0] == {("login", ATTACKER): 0}, 5, "still not told")


def test_a_dry_run_bans_nobody(server: RedisServer) -> None:
    """A jail in dry run is told what all hosts have counted, and nothing is in the ban set."""
    jail = Jail("login", maxretry=3, findtime="10m", bantime="1h", dry_run=True, scope="fleet")
    with counting(server.uri, jail) as (alpha, beta):
        alpha.fail(ATTACKER, 2)
        beta.fail(ATTACKER)
        assert [each.ban.key for each in beta.decided] == [ATTACKER]
        assert changes(server) == 0


@pytest.mark.parametrize("key", ["address", "user"])
def test_a_dry_run_on_one_host_spends_nothing(server: RedisServer, key: str) -> None:
    """A host in dry run has seen enough, again and again: the next failure on another one is a ban, at once."""
    jail = Jail("login", maxretry=3, findtime="10m", bantime="1h", scope="fleet", key=key)
    with counting(server.uri, replace(jail, dry_run=True)) as (trying, _), counting(server.uri, jail) as (earnest, _):
        trying.fail(ATTACKER, 70, user="alice")
        assert {each.ban.key for each in trying.decided} == {ATTACKER}
        assert not earnest.decided
        assert changes(server) == 0
        earnest.fail(ATTACKER, user="alice")
        assert [each.ban.key for each in earnest.decided] == [ATTACKER]
        assert changes(server) == 1


def test_a_dry_run_with_another_maxretry_spends_nothing(server: RedisServer) -> None:
    """A jail that is tried with a lower one on one host does not keep the others from theirs."""
    with counting(server.uri, replace(FIVE, dry_run=True, maxretry=2)) as (trying, _), counting(server.uri) as (one, _):
        trying.fail(ATTACKER, 4)
        assert {each.ban.key for each in trying.decided} == {ATTACKER}
        assert not one.decided
        one.fail(ATTACKER)
        assert [each.ban.key for each in one.decided] == [ATTACKER]


def test_what_a_dry_run_keeps_is_bounded(server: RedisServer) -> None:
    """A counter that nobody bans for does not grow with each failure."""
    with counting(server.uri, replace(FIVE, dry_run=True)) as (trying, _):
        for _ in range(12):
            trying.fail(ATTACKER, 100)
            assert int(server.command("STRLEN", COUNTER + ATTACKER)[1:]) <= 2 * 256 * 14


def test_a_redis_whose_clock_is_set_back_goes_on_counting(server: RedisServer) -> None:
    """What was counted an hour from now, as Redis has it since, counts, and puts no later failure out of the window."""
    with counting(server.uri) as (alpha, beta), Redis(port=server.port) as client:
        alpha.fail(ATTACKER, 3)
        packed = cast("bytes", client.get(COUNTER + ATTACKER))
        entries = struct.iter_unpack(">dIH", packed)
        later = [struct.pack(">dIH", time + 3_600_000, count, size) for time, count, size in entries]
        client.set(COUNTER + ATTACKER, b"".join(later))
        beta.fail(ATTACKER)
        assert not beta.decided
        beta.fail(ATTACKER)
        assert [each.ban.key for each in beta.decided] == [ATTACKER]


def test_a_dry_run_by_user_names_every_address(server: RedisServer) -> None:
    """All addresses that a user's failures came from would have been banned, each once."""
    jail = Jail("login", maxretry=2, findtime="10m", bantime="1h", key="user", dry_run=True, scope="fleet")
    with counting(server.uri, jail) as (alpha, beta):
        alpha.fail(ATTACKER, user="alice")
        beta.fail(OTHER, user="alice")
        assert sorted(each.ban.key for each in beta.decided) == [ATTACKER, OTHER]


def test_a_time_to_come_puts_no_failure_out_of_the_window(server: RedisServer) -> None:
    """A host whose clock was just set ahead tells one failure of an hour from now: it counts, and so do the others."""
    with counting(server.uri) as (alpha, beta):
        alpha.fail(ATTACKER, ago=-3600)
        beta.fail(ATTACKER, 3)
        assert not beta.decided
        beta.fail(ATTACKER)
        assert [each.ban.key for each in beta.decided] == [ATTACKER]


def test_a_redis_that_refuses_to_count_is_said_once(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Redis answers and takes no write: it is no news at every attempt, and the host knows that it counts alone."""
    with counting(server.uri) as (alpha, _):
        server.command("CONFIG", "SET", "min-replicas-to-write", "1")
        alpha.put(_failure())
        wait_until(lambda: alpha.failures.complaint, 5, "no complaint")
        complaints: set[str] = set()
        until = time.monotonic() + 1.5

        def is_over() -> bool:
            complaints.add(alpha.failures.complaint)
            return time.monotonic() > until

        wait_until(is_over, 5, "time stands still")
        assert len(complaints) == 1
        assert sum("count failures together" in record.getMessage() for record in caplog.records) == 1
        server.command("CONFIG", "SET", "min-replicas-to-write", "0")
        wait_until(lambda: alpha.answered == 1, 5, "not counted after all")


FOREIGN = {
    "a list": ("RPUSH", "x"),
    "a hash": ("HSET", "x", "y"),
    "a text": ("SET", "x"),
    "a text as long as two entries": ("SET", "x" * 32),
}


@pytest.mark.parametrize("foreign", FOREIGN)
def test_what_a_stranger_put_where_a_counter_should_be_is_written_over(server: RedisServer, foreign: str) -> None:
    """A key of another kind, under a counter and under what was sent last, holds up nobody, not even its own client."""
    verb, *value = FOREIGN[foreign]
    with counting(server.uri) as (alpha, beta):
        alpha.fail(OTHER)
        last = next(key for key in server.command("KEYS", "*").decode().split() if ":batch:" in key)
        for key in (f"{COUNTER}{ATTACKER}", last):
            server.command("DEL", key)
            assert server.command(verb, key, *value)[:1] in b"+:"
        alpha.fail(ATTACKER, 2)
        beta.fail(ATTACKER, 3)
        assert [each.ban.key for each in beta.decided] == [ATTACKER]
        assert (alpha.failures.set_aside, beta.failures.set_aside, changes(server)) == (0, 0, 1)


def test_a_batch_that_redis_refuses_is_set_aside(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """A ban set that is no ban set refuses those who reach maxretry, which is said once; the others are counted."""
    with counting(server.uri) as (alpha, beta):
        alpha.fail(ATTACKER, 4)
        alpha.fail(OTHER, 4)
        server.command("DEL", FACTS)
        server.command("SET", FACTS, "foreign")
        for _ in range(3):
            beta.put(_failure())
            wait_until(lambda: "WRONGTYPE" in beta.failures.complaint, 5, "no complaint")
            beta.fail("203.0.113.7")
            assert beta.failures.complaint == ""
        assert beta.failures.set_aside == 3
        told = [record.getMessage() for record in caplog.records if "set aside" in record.getMessage()]
        assert len(told) == 1
        assert "jail login" in told[0]
        assert "WRONGTYPE" in told[0]
        server.command("DEL", FACTS)
        beta.fail(OTHER)
        assert OTHER in [each.ban.key for each in beta.decided]


def test_cut_connections_make_one_ban_of_each_crossing(server: RedisServer) -> None:
    """CLIENT KILL again and again while both hosts tell: every failure counts once, every attacker is banned once."""
    jail = Jail("login", maxretry=10, findtime="10m", bantime="1h", scope="fleet")
    with counting(server.uri, jail) as (alpha, beta):
        banned = [f"198.18.0.{number + 1}" for number in range(60)]
        spared = [f"198.18.1.{number + 1}" for number in range(60)]
        for at in range(5):
            for host in (alpha, beta):
                for address in banned if at == 4 else banned + spared:
                    host.put(_failure(address))
            for _ in range(3):
                server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        wait_until(lambda: alpha.answered + beta.answered == 5 * 120 + 4 * 120, 20, "not answered")
        assert sorted(each.ban.key for each in (*alpha.decided, *beta.decided)) == sorted(banned)
        assert {each.ban.failures for each in (*alpha.decided, *beta.decided)} == {10}
        assert changes(server) == 60
        alpha.fail(spared[0], 1)
        assert len((*alpha.decided, *beta.decided)) == 60
        beta.fail(spared[0], 1)
        assert len((*alpha.decided, *beta.decided)) == 61


def test_a_slow_redis_counts_everything(server: RedisServer) -> None:
    """Redis takes 200 ms for every answer: failures of both hosts are one ban each, known to both within 5 seconds."""
    with slow_relay(server.port) as relay, counting(f"redis://127.0.0.1:{relay.port}/0") as (alpha, beta):
        addresses = [f"198.18.0.{number + 1}" for number in range(100)]
        for times, host in ((3, alpha), (2, beta), (3, alpha)):
            for address in addresses * times:
                host.put(_failure(address))
        wait_until(lambda: len(alpha.decided) + len(beta.decided) == 100, 5, "not all are counted")
        wait_until(lambda: len(alpha.bans.snapshot().bans) == len(beta.bans.snapshot().bans) == 100, 5, "not all agree")
        wait_until(lambda: alpha.answered + beta.answered == 800, 5, "not answered")
        assert sorted(each.ban.key for each in (*alpha.decided, *beta.decided)) == sorted(addresses)
        assert changes(server) == 100
        assert not (alpha.failures.complaint or beta.failures.complaint)
        differing = {ban.key: ban.version for ban in alpha.bans.snapshot().bans}.items() ^ {
            ban.key: ban.version for ban in beta.bans.snapshot().bans
        }.items()
        print(f"divergences {len(differing)}")
        assert not differing


def test_a_full_redis_counts_later(server: RedisServer) -> None:
    """Redis has no room: nothing is set aside, and what both hosts saw meanwhile is one ban when it has room again."""
    with counting(server.uri) as (alpha, beta):
        alpha.fail(OTHER)
        server.command("CONFIG", "SET", "maxmemory", "1mb")
        for host in (alpha, beta):
            for _ in range(3):
                host.put(_failure())
            wait_until(lambda: "maxmemory" in host.failures.complaint, 5, "not full")  # noqa: B023  # asked at once
        server.command("CONFIG", "SET", "maxmemory", "200mb")
        wait_until(lambda: alpha.decided or beta.decided, 5, "not counted after all")
        assert changes(server) == 1
        assert (alpha.failures.set_aside, beta.failures.set_aside) == (0, 0)


def test_what_could_not_be_told_in_time_is_not_told(server: RedisServer) -> None:
    """Redis takes no writes for longer than findtime: what was to be counted then is not counted any more."""
    with counting(server.uri) as (alpha, beta):
        server.command("CONFIG", "SET", "min-replicas-to-write", "1")
        for _ in range(4):
            alpha.put(_failure())
        wait_until(lambda: alpha.failures.complaint, 5, "no complaint")
        alpha.skew = 601.0
        server.command("CONFIG", "SET", "min-replicas-to-write", "0")
        wait_until(lambda: not alpha.failures.complaint, 5, "it still complains")
        beta.fail(ATTACKER)
        alpha.fail(OTHER)
        assert not (alpha.decided or beta.decided)
        assert alpha.answered == 1


def test_what_could_not_be_told_is_told_later(server: RedisServer) -> None:
    """Redis is away while both hosts fail: they say so, and what they saw is counted together when it is back."""
    with counting(server.uri) as (alpha, beta):
        server.kill()
        alpha.put(_failure())
        wait_until(lambda: alpha.failures.complaint, 5, "no complaint")
        for _ in range(2):
            beta.put(_failure(OTHER))
            alpha.put(_failure(OTHER))
        server.start()
        beta.fail(OTHER, 1)
        wait_until(lambda: alpha.decided or beta.decided, 5, "not counted together")
        assert {each.ban.key for each in (*alpha.decided, *beta.decided)} == {OTHER}
        assert changes(server) == 1


def _failure(address: str = ATTACKER) -> Event:
    return Event(LOGIN_FAIL, time.time(), parse_address(address))


@pytest.mark.parametrize("user", ["bans", "x}:y", "*", "a\r\nFLUSHALL", "facts batch", "\udcff", "a" * 300])
def test_odd_user_names_do_no_harm(server: RedisServer, user: str) -> None:
    """Whatever a user is called, only that user is counted, under a key that says nothing."""
    jail = Jail("login", maxretry=3, findtime="10m", bantime="1h", key="user", distinct="address", scope="fleet")
    with counting(server.uri, jail) as (alpha, beta):
        for number, host in enumerate((alpha, beta, alpha)):
            host.fail(f"203.0.113.{number}", user="alice")
            if number < 2:
                host.fail(f"203.0.113.{number + 10}", user=user)
        banned = sorted(each.ban.key for each in alpha.decided)
        assert banned == ["203.0.113.0", "203.0.113.1", "203.0.113.2"]
        counter = b"appguard:d:{main}:failures:login:"
        wait_until(lambda: server.command("KEYS", "*").count(counter) == 1, 5, "alice's is kept")
        keys = server.command("KEYS", "*").split(b"\r\n")[2::2]
        assert [len(key) for key in keys if key.startswith(counter)] == [len(counter) + 32]
        assert {key.split(b":")[3] for key in keys} <= {b"failures", b"batch", b"facts", b"changes"}


def test_a_jail_of_some_ports_bans_from_those(server: RedisServer) -> None:
    """The ban of a jail with ports is about these, by user too, and says nothing of the others."""
    jail = Jail("ssh", maxretry=2, findtime="10m", bantime="1h", key="user", ports=["ssh"], scope="fleet")
    with counting(server.uri, jail) as (alpha, beta):
        alpha.fail(ATTACKER, user="alice")
        beta.fail(OTHER, user="alice")
        keys = sorted(each.ban.key for each in beta.decided)
        assert keys == [f"{ATTACKER} tcp+udp/22", f"{OTHER} tcp+udp/22"]
        wait_until(lambda: len(alpha.bans.snapshot().bans) == 2, 5, "not told")
        assert alpha.bans.get(parse_address(ATTACKER)) is None
        assert [ban.key for ban in alpha.bans.ported(parse_address(ATTACKER))] == keys[:1]


class Waiting:
    """One host's counting of a jail that bans at the first failure, while Redis takes no writes."""

    def __init__(self, server: RedisServer) -> None:
        self.window = JailWindow(Jail("login", maxretry=1, scope="fleet"), Grouping())
        self.bans = RedisBanSet(server.uri)
        self.counting = SharedCounting(server.uri, self.bans, time.time)
        self.banned: list[str] = []
        self.has_banned = asyncio.Event()
        self.counting.start(lambda ban, is_new: Outcome(bans=[ban]), self._take)
        wait_until(lambda: not self.counting.complaint, 5, "not connected")
        server.command("CLIENT", "PAUSE", "10000", "WRITE")

    def _take(self, outcome: Outcome) -> None:
        self.banned += [ban.key for ban in outcome.bans]
        if self.banned:
            self.has_banned.set()

    def fail(self, address: str) -> None:
        """Have a failure counted that this host would ban for."""
        event = Event(LOGIN_FAIL, time.time(), parse_address(address))
        bans = self.window.add(address, event, "a line")
        assert self.counting.share(Shared(self.window, address, event, bans[0], bans), bans[0])


def test_what_is_lifted_while_redis_is_slow_stays_lifted(server: RedisServer) -> None:
    """A person lifts a ban while the answer to another failure is awaited: the host does not ban again by itself."""

    async def slow() -> None:
        host = Waiting(server)
        host.fail(ATTACKER)
        host.fail(OTHER)
        host.counting.forget({ATTACKER})
        async with asyncio.timeout(5):
            await host.has_banned.wait()
        assert host.banned == [OTHER]
        server.command("CLIENT", "UNPAUSE")
        host.counting.close()

    asyncio.run(slow())


def test_what_redis_refuses_is_decided_here(server: RedisServer) -> None:
    """A ban set that is no ban set: a host that has counted enough for a ban makes it by itself, soon."""

    async def refused() -> None:
        host = Waiting(server)
        server.command("CLIENT", "UNPAUSE")
        server.command("DEL", FACTS)
        server.command("SET", FACTS, "foreign")
        host.fail(ATTACKER)
        async with asyncio.timeout(5):
            await host.has_banned.wait()
        assert host.banned == [ATTACKER]
        host.counting.close()

    asyncio.run(refused())


def test_what_redis_has_not_answered_at_the_end_is_banned_here(server: RedisServer) -> None:
    """A daemon that ends while Redis is slow makes the bans that it has counted enough for."""

    async def end() -> None:
        host = Waiting(server)
        host.fail(ATTACKER)
        host.counting.close()
        assert host.banned == [ATTACKER]

    asyncio.run(end())
