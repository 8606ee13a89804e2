"""How soon is a ban seen, in the workers of its host, in another host's replica and kernel; what do many bans cost?

Eight workers ask every millisecond, as an app with a thousand requests a second does. The other host is a process of
its own with a real Redis between; its kernel is the lab's. Then the replica's snapshot, the memory for each ban in a
worker and in Redis, and the look-up of an address among many bans beside a method that does nothing: of a client that
comes again, as most do, whose place in the table the processor has used a moment ago, and of one that is new to the
worker. Prints the targets with what was measured, and writes JSON.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import time
import tracemalloc
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from itertools import chain
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import cast

from appguard.address import Address, parse_address
from appguard.ban import Ban, Fact
from appguard.bouncer import Bouncer
from appguard.firewalls.base import Block
from appguard.firewalls.nftables import Nftables
from appguard.judge import Judge
from appguard.stores.fact_lines import fact_line
from appguard.stores.local import PublishedBans, Publisher
from appguard.stores.published_file import HEADER
from appguard.stores.published_table import PublishedTable
from appguard.stores.redis_bans import RedisBanSet
from appguard.stores.redis_commands import Script
from appguard.stores.redis_connection import connect_to
from appguard.stores.redis_records import fields_of
from appguard.stores.redis_uri import parse_redis_uri
from tests.bouncing import running
from tests.forked import forked
from tests.lab import wait_until
from tests.redis_server import redis_server
from tests.replicas import CHANGES, FACTS

RESULT = Path(__file__).parent / "results/ban_set.json"
WORKERS = 8
BANS = 200
APART = 0.01  # seconds between bans
ASKED_EVERY = 0.001
HOUR = 3600.0
OLD, NEW = 0x0A000000, 0x0B000000
SMALL, BIG = 20_000, 250_000  # bans, where a table is small and where it is big
CHUNK, ASKED = 250, 100_000
AT_ONCE = 1_000
TARGETS = {
    "worker p99 ms": 2.0,
    "replica p99 ms": 10.0,
    "kernel p99 ms": 20.0,
    "snapshot of 100000 s": 0.3,
    "snapshot of 1000000 s": 4.0,
    f"worker bytes at {SMALL}": 110.0,
    f"worker bytes at {BIG}": 16.0,
    "Redis bytes": 300.0,
    "lookup us": 0.1,
}


def network(number: int, first: int = NEW) -> IPv4Network:
    """Give the network of one address."""
    return IPv4Network(first + number)


def address(number: int, first: int = NEW) -> Address:
    """Give one address."""
    return parse_address(str(IPv4Address(first + number)))


def ban_of(number: int, first: int = NEW) -> Ban:
    """Make a ban that starts now."""
    now = time.time()
    return Ban(network(number, first), "login", now, now + HOUR, failures=5, automatic=True, version=int(now * 1e6))


def p99(delays: Sequence[float]) -> float:
    """Give the 99th percentile in milliseconds."""
    return 1000 * quantiles(delays, n=100, method="inclusive")[98]


def seen_by(get: Callable[[Address], Ban | None], ready: Path) -> list[float]:
    """Ask for one ban after another until it is there; give how old each was."""
    found: list[float] = []
    get(address(0))
    ready.touch()
    for number in range(BANS):
        asked = address(number)
        while (ban := get(asked)) is None:
            time.sleep(ASKED_EVERY)
        found.append(time.time() - ban.start)
    return found


def ban_one_by_one(ban: Callable[[Ban], object], ready: Sequence[Path]) -> None:
    """Ban at a rate when all are ready."""
    wait_until(lambda: all(path.exists() for path in ready), 20, "not ready")
    for number in range(BANS):
        ban(ban_of(number))
        time.sleep(APART)


def in_workers(directory: Path) -> float:
    """Measure the way from the daemon's publishing to eight workers."""
    publisher = Publisher(directory)
    publisher.publish_all([])
    ready = [directory / f"ready{number}" for number in range(WORKERS)]
    with ExitStack() as stack:
        workers = [stack.enter_context(forked(partial(seen_by, PublishedBans(directory).get, path))) for path in ready]
        ban_one_by_one(lambda ban: publisher.publish([Fact(ban.network, ban.version, ban)], lambda: ()), ready)
        found = list(chain.from_iterable(cast("list[float]", worker.answer()) for worker in workers))
    publisher.close()
    return p99(found)


class Noting(Nftables):
    """The kernel, and how old each ban was when it was in force there."""

    def __init__(self, ban_set: RedisBanSet) -> None:
        super().__init__(transport="netlink")
        self._ban_set = ban_set
        self.delays: list[float] = []

    async def change(self, add: Sequence[Block], remove: Sequence[Block]) -> None:
        """Do it and note it."""
        await super().change(add, remove)
        now = time.time()
        facts = [self._ban_set.known(Fact(block.network, 0, None)) for block in add]
        self.delays += [now - fact.ban.start for fact in facts if fact and fact.ban]


def in_kernel(uri: str, ready: Path) -> list[float]:
    """Follow with a bouncer, as a daemon does, until all bans are in the kernel; give how old each was."""

    async def scene() -> list[float]:
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(bouncer.wake)

        ban_set = RedisBanSet(uri, on_change=wake)
        firewall = Noting(ban_set)
        bouncer = Bouncer(ban_set, firewall, Judge(), time.time)
        assert await asyncio.to_thread(ban_set.wait_synced, 10)
        async with running(bouncer):
            await bouncer.settle()
            ready.touch()  # noqa: ASYNC240 - nothing else runs yet
            async with asyncio.timeout(60):
                while len(firewall.delays) < BANS:  # noqa: ASYNC110 - the kernel tells nobody
                    await asyncio.sleep(0.05)
            await firewall.lift()
        await asyncio.to_thread(ban_set.close)
        return firewall.delays

    return asyncio.run(scene())


def in_replica(uri: str, ready: Path) -> list[float]:
    """Follow; give how old each ban was when the replica had it."""
    ban_set = RedisBanSet(uri)
    assert ban_set.wait_synced(10)
    return seen_by(ban_set.get, ready)


def on_another_host(follow: Callable[[str, Path], list[float]]) -> float:
    """Measure the way from a host that bans, over Redis, to another."""
    with TemporaryDirectory() as directory, redis_server(Path(directory)) as server:
        ready = Path(directory) / "ready"
        with forked(lambda: follow(server.uri, ready)) as other:
            ban_set = RedisBanSet(server.uri)
            assert ban_set.wait_synced(10)
            ban_one_by_one(ban_set.ban, [ready])
            found = cast("list[float]", other.answer())
            ban_set.close()
        return p99(found)


@contextmanager
def filled_redis(number: int) -> Generator[tuple[str, float]]:
    """Run a Redis with that many bans; give its URI and what each takes there in bytes."""
    with TemporaryDirectory() as directory, redis_server(Path(directory)) as server:
        client = connect_to(parse_redis_uri(server.uri), 30.0, FACTS)
        merge = Script("merge")

        def used() -> int:
            lines = server.command("INFO", "memory").decode().splitlines()
            return next(int(line.partition(":")[2]) for line in lines if line.startswith("used_memory:"))

        before = used()
        for first in range(0, number, AT_ONCE):
            bans = [ban_of(each, OLD) for each in range(first, min(number, first + AT_ONCE))]
            told = [fields_of(Fact(ban.network, ban.version, ban), 0.0, "new") for ban in bans]
            merge.call(client, (FACTS, CHANGES), [20_000, *chain.from_iterable(told)])
        client.close()
        yield server.uri, (used() - before) / number


def snapshot(uri: str) -> float:
    """Give the seconds until a new replica has all bans."""

    def follow() -> float:
        ban_set = RedisBanSet(uri)
        began = time.perf_counter()
        assert ban_set.wait_synced(60)
        return time.perf_counter() - began

    with forked(follow) as other:
        return cast("float", other.answer())


def write_published(directory: Path, number: int) -> None:
    """Write what a daemon with that many bans publishes."""
    one = fact_line(Fact(network(0), 1, ban_of(0)))
    _, key, *_ = one.split(b"\t")
    with (directory / "bans").open("wb") as file:
        file.write(HEADER)
        for each in range(number):
            file.write(one.replace(key, str(IPv4Address(OLD + 37 * each)).encode(), 1))
    (directory / "bans.seq").write_bytes(bytes(8))


def worker_bytes(directory: Path, number: int) -> float:
    """Give what a worker keeps for each ban."""
    write_published(directory, number)

    def read() -> float:
        reader = PublishedBans(directory)
        tracemalloc.start()
        reader.get(address(0))
        return tracemalloc.get_traced_memory()[0] / number

    with forked(read) as other:
        return cast("float", other.answer())


class Nothing:
    """What a look-up would cost that looks nowhere; with `touch`, at an address that was not just made."""

    def may_hold(self, address: Address) -> bool:
        """Do nothing."""
        return False

    def touch(self, address: Address) -> bool:
        """Have the address where the processor has what it used last."""
        return address.code + address.version < 0


def lookup(directory: Path, number: int) -> dict[str, float]:
    """Give the microseconds of looks among that many bans, and of a method that does nothing.

    The client of a look was asked about a moment ago, together with others, or never; its address is not new to the
    processor, because a request has just made it.
    """
    write_published(directory, number)
    table = PublishedTable(os.open(directory / "bans", os.O_RDONLY))
    table.read_on()
    reader = PublishedBans(directory)
    asked = [address(each, 0xC0000000) for each in random.sample(range(1 << 24), ASKED)]
    reader.get(asked[0])

    def may_hold(address: Address) -> bool:  # as `PublishedBans.get` looks, when it has seen that there is no news
        return table.marks[address.code % table.width] != 0 or address.version > table.version_at_most

    def took(find: Callable[[Address], object], chunk: Sequence[Address], is_known: bool) -> float:
        for each in chunk:
            Nothing().touch(each)
        for each in chunk if is_known else ():
            find(each)
        began = time.perf_counter()
        for each in chunk:
            find(each)
        return (time.perf_counter() - began) / CHUNK * 1_000_000

    def typical(find: Callable[[Address], object], *, is_known: bool) -> float:
        return median(took(find, asked[first : first + CHUNK], is_known) for first in range(0, ASKED, CHUNK))

    return {
        "lookup us": typical(may_hold, is_known=True),
        "lookup us, new client": typical(may_hold, is_known=False),
        "a request's look us": typical(reader.get, is_known=True),
        "a request's look us, new": typical(reader.get, is_known=False),
        "a method that does nothing": typical(Nothing().may_hold, is_known=True),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=1_000_000, help="bans of the largest set")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    found: dict[str, float] = {}

    def note(name: str, value: float) -> None:
        found[name] = value
        target = f"target {TARGETS[name]:g}" if name in TARGETS else ""
        print(f"  {name:<28} {value:10.3f}   {target}", flush=True)

    with TemporaryDirectory(dir="/dev/shm") as directory:
        note("worker p99 ms", in_workers(Path(directory)))
    note("replica p99 ms", on_another_host(in_replica))
    note("kernel p99 ms", on_another_host(in_kernel))
    for number in (100_000, arguments.most):
        with filled_redis(number) as (uri, each):
            note(f"snapshot of {number} s", snapshot(uri))
            note("Redis bytes", each)
    with TemporaryDirectory(dir="/dev/shm") as directory:
        for number in (SMALL, BIG):
            note(f"worker bytes at {number}", worker_bytes(Path(directory), number))
        looks = lookup(Path(directory), arguments.most)
        for name, value in looks.items():
            note(name, value)
        note("look-up beside nothing", looks["lookup us"] / looks["a method that does nothing"])
    host = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps({"host": host, "targets": TARGETS, "found": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
