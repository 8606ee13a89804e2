"""The roles of `contrib/redis/appguard.acl` on a real server: each can do what it must, and nothing else."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from struct import pack
from typing import Any

import msgspec
import pytest

from appguard.address import parse_address, parse_network
from appguard.ban import Ban, Fact
from appguard.event import LOGIN_FAIL, Event
from appguard.jail import Jail
from appguard.limit import Hit, Limit
from appguard.safelisted import Safelisted
from appguard.stores.fleet_failures import Decided, Failed, FleetFailures
from appguard.stores.fleet_failures import fields_of as failure_fields
from appguard.stores.fleet_roster import FleetRoster
from appguard.stores.redis import RedisStore
from appguard.stores.redis_bans import RedisBanSet
from appguard.stores.redis_commands import Script
from appguard.stores.redis_records import fields_of as fact_fields
from tests.lab import wait_until
from tests.redis_roles import RolesServer, roles_server
from tests.replicas import CHANGES, FACTS

ATTACKER = "203.0.113.5"
FIVE = Limit("5/minute")
ALWAYS = {"auth", "hello", "quit", "reset"}  # what Redis lets everybody do
CONNECTING = {"select", "client|setname", "cluster|slots", "time"} | ALWAYS
READING = {"hget", "hscan", "xread", "xrange", "xrevrange", "xlen"}
MAY = {
    "app": CONNECTING | READING | {"eval", "evalsha", "get", "mget", "set", "setrange"},
    "daemon": CONNECTING | READING | {"eval", "evalsha", "get", "set", "hgetall", "hset", "hsetnx", "hdel", "xadd"},
    "admin": CONNECTING
    | (READING - {"xread"})
    | {"scan", "type", "ttl", "get", "hgetall", "hlen", "memory|usage", "del", "unlink", "info", "ping"},
}
MINE, OTHERS = "appguard:l:shop:{192.0.2.1}:5/minute", "appguard:l:blog:{192.0.2.1}:5/minute"
COUNTED, LET_OFF = "appguard:d:{main}:failures:login:203.0.113.5", "appguard:d:{main}:safelist"
MINE_NOT = "appguard:x:{main}"
BAN = "1 0 0 {}"
SCRIPT = "return redis.call(unpack(ARGV))"
TABLE: dict[tuple[str, ...], set[str]] = {  # command: who may
    ("SET", MINE, "x"): {"app"},
    ("SET", OTHERS, "x"): set(),
    ("GET", MINE): {"app", "admin"},
    ("GET", OTHERS): {"admin"},
    ("DEL", MINE): {"admin"},
    ("DEL", OTHERS): {"admin"},
    ("HGET", FACTS, ATTACKER): {"app", "daemon", "admin"},
    ("HSET", FACTS, ATTACKER, BAN): {"daemon"},
    ("HDEL", FACTS, ATTACKER): {"daemon"},
    ("DEL", FACTS): {"admin"},
    ("XADD", CHANGES, "*", "network", ATTACKER, "fact", BAN): {"daemon"},
    ("XTRIM", CHANGES, "MAXLEN", "0"): set(),
    ("EVAL", SCRIPT, "0", "SET", MINE, "x"): {"app"},
    ("EVAL", SCRIPT, "0", "SET", OTHERS, "x"): set(),
    ("EVAL", SCRIPT, "1", OTHERS, "SET", OTHERS, "x"): set(),
    ("EVAL", SCRIPT, "0", "HSET", FACTS, ATTACKER, BAN): {"daemon"},
    ("EVAL", SCRIPT, "0", "XADD", CHANGES, "*", "a", "b"): {"daemon"},
    ("SET", COUNTED, "x"): {"daemon"},
    ("GET", COUNTED): {"daemon", "admin"},
    ("DEL", COUNTED): {"admin"},
    ("HSET", LET_OFF, ATTACKER, "x"): {"daemon"},
    ("HGETALL", LET_OFF): {"daemon", "admin"},
    ("EVAL", SCRIPT, "0", "SET", COUNTED, "x"): {"daemon"},
    ("EVAL", SCRIPT, "0", "HSET", LET_OFF, ATTACKER, "x"): {"daemon"},
    ("EVAL", SCRIPT, "0", "SET", MINE_NOT, "x"): set(),
    ("SET", "session:1", "x"): set(),
    ("GET", "session:1"): set(),
    ("SCAN", "0"): {"admin"},
    ("KEYS", "*"): set(),
    ("FLUSHALL",): set(),
    ("CONFIG", "GET", "*"): set(),
    ("SCRIPT", "FLUSH"): set(),
    ("ACL", "LIST"): set(),
    ("CLIENT", "KILL", "TYPE", "normal"): set(),
    ("PUBLISH", "x", "y"): set(),
    ("REPLICAOF", "NO", "ONE"): set(),
    ("SHUTDOWN",): set(),
}


@pytest.fixture
def roles(tmp_path: Path) -> Iterator[RolesServer]:
    """Give a running server with the roles."""
    with roles_server(tmp_path) as running:
        yield running


def hit(client: str) -> tuple[Hit, ...]:
    """Give one hit of a client."""
    return (Hit(f"{client} {FIVE.name}", FIVE),)


@pytest.mark.parametrize("role", ["app", "daemon", "admin"])
def test_role_may_send_these_commands_only(roles: RolesServer, role: str) -> None:
    """Of all commands the server knows a role may send exactly those that it needs."""
    about_commands = {each for each in roles.commands(role) if each.startswith("command|")}  # what `command` tells too
    assert roles.commands(role) - about_commands == MAY[role]


@pytest.mark.parametrize("command", TABLE)
def test_role_by_command(roles: RolesServer, command: tuple[str, ...]) -> None:
    """Who may touch which keys, also from within a script: the app its own counters, the daemon the ban set."""
    outcomes = {role: roles.outcome(role, *command) for role in ("app", "daemon", "admin")}
    allowed = TABLE[command]
    assert outcomes == {role: "ok" if role in allowed else "denied" for role in outcomes}


def test_roles_can_do_their_work(roles: RolesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing but its role the daemon bans and lifts, the app counts and follows, the admin resets."""
    monkeypatch.setattr("appguard.stores.redis_counters.BUDGET", 5.0)  # of a busy machine
    daemon = RedisBanSet(roles.uri("daemon"))
    nobody = tmp_path / "nobody"
    with (
        RedisStore(roles.uri("app"), "shop", "closed", directory=nobody) as app,
        RedisStore(roles.uri("admin"), "shop", directory=nobody) as admin,
    ):
        try:
            assert daemon.wait_synced(5)
            assert app.wait_synced(5)
            assert daemon.ban(Ban.of(ATTACKER, bantime="1h"))
            wait_until(lambda: app.get(parse_address(ATTACKER)), 5, "the app does not follow")
            assert daemon.unban(parse_network(ATTACKER))
            wait_until(lambda: app.get(parse_address(ATTACKER)) is None, 5, "the app does not follow")
            admitted = [app.check(hit("192.0.2.1")).refused is None for _ in range(6)]
            assert admitted == [True] * 5 + [False]
            admin.reset("192.0.2.1")
            assert app.check(hit("192.0.2.1")).refused is None
            assert daemon.complaint == app.complaint == ""
            share_everything(roles, daemon)
        finally:
            daemon.close()
    denied = [entry[5] for entry in roles.client("root").execute_command("ACL", "LOG")]
    assert denied == []


def share_everything(roles: RolesServer, bans: RedisBanSet) -> None:
    """With the role of the daemon count a failure that bans, and tell what is protected."""
    decided: list[Decided] = []
    learnt: list[list[Safelisted]] = []
    failures = FleetFailures(roles.uri("daemon"), bans, lambda sent, found: decided.extend(found))
    roster = FleetRoster(roles.uri("daemon"), "one", lambda: bans.offset, lambda hosts, found: learnt.append(found))
    jail, now = Jail("login", maxretry=1, scope="fleet"), time.time()
    network = parse_network("203.0.113.9")
    try:
        failures.start()
        roster.tell("one", [(network, "its own")])
        roster.put((Safelisted(network, now + 60, "ours", "one", int(now * 1_000_000)),))
        roster.start()
        event = Event(LOGIN_FAIL, now, parse_address(ATTACKER))
        failures.put(Failed(jail, ATTACKER, event, Ban(parse_network(ATTACKER), "login", now, now + 600)))
        wait_until(lambda: decided, 5, lambda: failures.complaint)
        wait_until(lambda: any(learnt), 5, lambda: roster.complaint)
    finally:
        failures.close()
        roster.close()


def test_hostile_app_cannot_ban(roles: RolesServer, tmp_path: Path) -> None:
    """An app that bans with the role of one that may not changes nothing for others, and says what is wrong."""
    daemon = RedisBanSet(roles.uri("daemon"))
    with RedisStore(roles.uri("app"), "shop", directory=tmp_path) as app:
        try:
            assert daemon.wait_synced(5)
            assert daemon.ban(Ban.of("198.51.100.7", bantime="1h"))
            wait_until(lambda: app.get(parse_address("198.51.100.7")), 5, "the app does not follow")
            app.ban(Ban.of(ATTACKER, bantime="1h"))
            app.unban(parse_network("198.51.100.7"))
            wait_until(lambda: "permission" in app.complaint, 5, "no word of it")
            assert [ban.key for ban in daemon.snapshot().bans] == ["198.51.100.7"]
        finally:
            daemon.close()


HOSTS, SENT = "appguard:d:{main}:hosts", "appguard:d:{main}:batch:0123456789abcdef"
OF_OTHERS = (FACTS, CHANGES, HOSTS, LET_OFF, COUNTED, SENT, OTHERS)  # every key the scripts touch, but its own counters
WRITES = (
    ("SET", "{}", "x"),
    ("HSET", "{}", ATTACKER, BAN),
    ("HDEL", "{}", ATTACKER),
    ("XADD", "{}", "*", "network", ATTACKER, "fact", BAN),
    ("DEL", "{}"),
    ("UNLINK", "{}"),
    ("PEXPIRE", "{}", "1"),
    ("RENAME", "{}", MINE),
    ("COPY", MINE, "{}", "REPLACE"),
    ("GETDEL", "{}"),
    ("SET", MINE, "x"),  # its own, which it may
)


def kept(roles: RolesServer) -> dict[bytes, bytes]:
    """Give all that the server holds beside the counters of the app itself."""
    with roles.client("root") as root:
        keys = [key for key in root.execute_command("KEYS", "*") if not key.startswith(b"appguard:l:shop:")]
        return {key: root.execute_command("DUMP", key) for key in keys}


@pytest.fixture
def busy(roles: RolesServer) -> Iterator[RolesServer]:
    """Give a server with something at every key that daemons and another app use."""
    with roles.client("root") as root:
        fact = f'{int(time.time() * 1e6)} 0 0 {{"jail":"login","start":1}}'
        root.execute_command("HSET", FACTS, "198.51.100.7", fact, "epoch", "1")
        root.execute_command("XADD", CHANGES, "*", "network", "198.51.100.7", "fact", fact)
        root.execute_command("HSET", HOSTS, "0123456789abcdef", "99999999999999 {}", "version", "1-1")
        root.execute_command("HSET", LET_OFF, "198.51.100.8", '5 0 [null,"","",5,false]')
        for key in (COUNTED, SENT, OTHERS):
            root.execute_command("SET", key, "counted")
    yield roles


@pytest.mark.parametrize("key", OF_OTHERS)
def test_hostile_app_writes_to_no_key_of_others(busy: RolesServer, key: str) -> None:
    """Neither by a command nor from a script, with the key declared or not, does an app change what is not its own."""
    before = kept(busy)
    for template in WRITES:
        command = [word.format(key) if word == "{}" else word for word in template]
        own = key not in command
        for sent in (
            command,
            ["EVAL", SCRIPT, "0", *command],
            ["EVAL", SCRIPT, "1", key, *command],
            ["EVAL", SCRIPT, "1", MINE, *command],
        ):
            may = own and sent[:4] != ["EVAL", SCRIPT, "1", key]
            assert busy.outcome("app", *sent) == ("ok" if may else "denied"), sent
    assert kept(busy) == before


def test_hostile_app_gets_nothing_done_with_the_daemons_scripts(busy: RolesServer) -> None:
    """The scripts with which daemons ban, lift, count, sweep and let off: the daemon's role may, an app's may not."""
    now = time.time()
    failed = Failed(
        Jail("login", maxretry=1, scope="fleet"),
        ATTACKER,
        Event(LOGIN_FAIL, now, parse_address(ATTACKER)),
        Ban(parse_network(ATTACKER), "login", now, now + 600),
    )
    batch = msgspec.msgpack.encode([failure_fields(failed, 1, 0.0, "web")])
    version = int(now * 1e6)
    entry = Safelisted(parse_network(ATTACKER), None, "mine", "web", version)
    banning = fact_fields(Fact.of(Ban(parse_network(ATTACKER), "manual", now, None, version=version)), 0.0, "new")
    lifting = fact_fields(Fact(parse_network("198.51.100.7"), version + 1, None), 0.0, "new")
    calls: dict[str, tuple[list[str], list[object]]] = {
        "merge": ([FACTS, CHANGES], [20_000, *banning, *lifting]),
        "sweep": ([FACTS], [1_000]),
        "fail": ([FACTS, CHANGES, SENT, COUNTED], [20_000, 1, 1, 600_000, "ban", batch]),
        "share": ([HOSTS, LET_OFF], ["", "web", 1000, "{}", entry.key, entry.version, 0, entry.to_text()]),
        "count": ([OTHERS], [pack(">5d", 5, 60_000, 0, 1, 1)]),
        "give_back": ([OTHERS], [version, pack(">4d", 5, 60_000, 0, 1)]),
    }
    lua = files("appguard.stores").joinpath("lua")
    assert set(calls) == {file.name.removesuffix(".lua") for file in lua.iterdir() if file.name.endswith(".lua")}
    before = kept(busy)
    for name, (keys, arguments) in calls.items():
        assert busy.outcome("app", *by_text(name, keys, arguments)) == "denied", name
    assert kept(busy) == before
    for name in ("count", "give_back"):
        assert busy.outcome("app", *by_text(name, [MINE], calls[name][1])) == "ok", name
    for name in ("fail", "share", "sweep", "merge"):
        before = kept(busy)
        assert busy.outcome("daemon", *by_text(name, *calls[name])) == "ok", name
        assert kept(busy) != before, name


def by_text(name: str, keys: Sequence[str], arguments: Sequence[object]) -> list[Any]:
    """Give the command that runs one of our scripts."""
    return list(Script(name).by_text(keys, arguments))


@pytest.mark.parametrize("name", ["bans", "x}:y", "*", "b:{main}:facts", "shop:x", "a\r\nFLUSHALL", "\udcff"])
def test_odd_names_do_no_harm(roles: RolesServer, tmp_path: Path, name: str) -> None:
    """Apps and clients of any name have counters of their own, which reset nobody else's."""
    with roles.client("root") as root:
        root.execute_command("SET", "appguard:b:{main}:facts:watch", "there")
    everything = roles.uri("app").replace(roles.uri("app").partition("@")[0], "redis://default:everything")
    with (
        RedisStore(everything, "shop", directory=tmp_path) as shop,
        RedisStore(everything, name, directory=tmp_path) as odd,
    ):
        for _ in range(5):
            assert shop.check(hit("192.0.2.1")).refused is None
            assert shop.check(hit(name.replace(" ", ""))).refused is None
            assert odd.check(hit("192.0.2.1")).refused is None
        odd.reset("*")
        odd.reset("192.0.2.1")
        shop.reset(name)
        assert shop.check(hit("192.0.2.1")).refused is not None
        assert shop.check(hit(name)).refused is None
        assert odd.check(hit("192.0.2.1")).refused is None
        with roles.client("root") as root:
            keys = {key for key in root.execute_command("KEYS", "*") if not key.startswith(b"appguard:l:")}
        assert keys <= {b"appguard:b:{main}:facts:watch", b"appguard:b:{main}:facts"}


def test_one_apps_role_does_not_reach_another_of_a_like_name(roles: RolesServer, tmp_path: Path) -> None:
    """An app called `shop:x` does not get into the keys that the role of `shop` opens."""
    with RedisStore(roles.uri("app"), "shop:x", "closed", directory=tmp_path) as store:
        assert store.check(hit("192.0.2.1")).refused is not None
        assert asyncio.run(_ask_once(store)) is not None


async def _ask_once(store: RedisStore) -> Hit | None:
    try:
        return (await store.check_async(hit("192.0.2.1"))).refused
    finally:
        await store.close_connections()
