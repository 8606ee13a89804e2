"""How soon do a thousand hosts know of a ban, and what does it cost Redis? Hosts simulated on one real Redis.

Each host is a coroutine on a connection of its own that speaks the protocol of a replica: once a second TIME, the epoch
and its last entry, and in between it waits for the stream. Each ban is told in a call of its own, by the script that
daemons use. All hosts share one processor with each other, so propagation is an upper bound; the cost for Redis is
not touched by that. Prints a table and writes JSON.
"""

import argparse
import asyncio
import json
import os
import platform
import resource
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Any

import hiredis

from appguard.ban import Ban, Fact
from appguard.stores.redis_bans import BLOCK, PAGE, STREAM_MOST
from appguard.stores.redis_commands import Commands, Script
from appguard.stores.redis_connection import connect_to
from appguard.stores.redis_records import fields_of
from appguard.stores.redis_uri import parse_redis_uri
from tests.redis_server import RedisServer, redis_server
from tests.replicas import CHANGES, FACTS

RESULT = Path(__file__).parent / "results/fleet.json"
SIZES = (10, 100, 300, 1_000)
MERGE = Script("merge")
HOUR = 3600.0
LOOK = 0.05  # seconds
IDLE = 2.0  # seconds in which nothing is banned


@dataclass(frozen=True, slots=True)
class Measured:
    """What a fleet of some size met: milliseconds from telling a ban to its host knowing it, and Redis' CPU."""

    hosts: int
    bans: int
    seen: int
    median_ms: float
    p99_ms: float
    redis_cpu: float  # of one processor
    idle_cpu: float
    microseconds_per_ban_and_host: float


class Host(asyncio.Protocol):
    """One simulated host; `delays` are seconds from the telling of a ban to its host's knowing it."""

    def __init__(self) -> None:
        self._last = b"0-0"
        self._replies = hiredis.Reader()
        self._talking = self._talk()
        self.delays: list[float] = []
        self.is_following = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say the first thing."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(_packed(next(self._talking)))

    def data_received(self, data: bytes) -> None:
        """Go on with what Redis answers."""
        self._replies.feed(data)
        while (reply := self._replies.gets()) is not False:
            self._transport.write(_packed(self._talking.send(reply)))

    def _talk(self) -> Generator[tuple[str | bytes | int, ...], Any]:
        """Give commands and take their replies, as `RedisBanSet` does; what is read is not parsed."""
        found = yield "XREVRANGE", CHANGES, "+", "-", "COUNT", 1
        self._last = found[0][0] if found else b"0-0"
        block = int(BLOCK * 1000)
        while True:
            check_at = time.monotonic() + BLOCK
            yield ("TIME",)
            yield "HGET", FACTS, "epoch"
            yield "XRANGE", CHANGES, self._last, self._last
            self.is_following.set()
            while time.monotonic() < check_at:
                reply = yield "XREAD", "COUNT", PAGE, "BLOCK", block, "STREAMS", CHANGES, self._last
                self._note(reply[0][1] if reply else ())

    def _note(self, entries: Sequence[tuple[bytes, list[bytes]]]) -> None:
        now = time.time()
        for entry, fields in entries:
            self.delays.append(now - int(fields[3].partition(b" ")[0]) / 1_000_000)
            self._last = entry

    def close(self) -> None:
        """Follow no more."""
        self._transport.close()


def _packed(words: tuple[str | bytes | int, ...]) -> bytes:
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def tell(client: Commands, number: int) -> None:
    """Tell one ban as a daemon does; its version is the time."""
    now = time.time()
    version = int(now * 1_000_000)
    network = IPv4Network(0x0A000000 + number)
    ban = Ban(network, "login", now, now + HOUR, failures=5, automatic=True, version=version)
    MERGE.call(client, (FACTS, CHANGES), [STREAM_MOST, *fields_of(Fact(network, version, ban), 0.0, "new")])


def tell_all(uri: str, rate: int, seconds: float) -> int:
    """Tell bans at a rate, in a process of its own; give how many."""
    client = connect_to(parse_redis_uri(uri), 30.0, FACTS)
    begun = time.monotonic()
    told = 0
    while (elapsed := time.monotonic() - begun) < seconds:
        while told < elapsed * rate:
            tell(client, told)
            told += 1
        time.sleep(0.2 / rate)
    client.close()
    return told


def cpu_of(server: RedisServer) -> float:
    """Give the seconds of a processor that Redis has used."""
    lines = server.command("INFO", "cpu").decode().splitlines()
    return sum(float(line.partition(":")[2]) for line in lines if line.startswith(("used_cpu_sys:", "used_cpu_user:")))


async def measure(server: RedisServer, size: int, rate: int, seconds: float) -> Measured:
    """Measure one fleet."""
    loop = asyncio.get_running_loop()
    hosts = [(await loop.create_connection(Host, "127.0.0.1", server.port))[1] for _ in range(size)]
    for host in hosts:
        await asyncio.wait_for(host.is_following.wait(), 60)
    used = cpu_of(server)
    await asyncio.sleep(IDLE)
    idle = (cpu_of(server) - used) / IDLE
    used, begun = cpu_of(server), time.monotonic()
    with ProcessPoolExecutor(1) as other:
        bans = await loop.run_in_executor(other, tell_all, server.uri, rate, seconds)
    for _ in range(int(3 * seconds / LOOK)):
        if sum(len(host.delays) for host in hosts) >= bans * size:
            break
        await asyncio.sleep(LOOK)
    busy, took = cpu_of(server) - used, time.monotonic() - begun
    for host in hosts:
        host.close()
    delays = sorted(delay * 1000 for host in hosts for delay in host.delays)
    cuts = quantiles(delays, n=100)
    each = max(0.0, busy - idle * took) / (bans * size) * 1_000_000
    return Measured(size, bans, len(delays), cuts[49], cuts[98], busy / took, idle, each)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES, metavar="HOSTS")
    parser.add_argument("--rate", type=int, default=100, help="bans per second of the whole fleet")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(f"{arguments.rate} bans/s   hosts    seen of bans x hosts   median ms   p99 ms   Redis CPU (idle)   us each")
    found: list[Measured] = []
    for size in arguments.sizes:
        with TemporaryDirectory() as directory, redis_server(Path(directory)) as server:
            seen = asyncio.run(measure(server, size, arguments.rate, arguments.seconds))
        found.append(seen)
        cpu = f"{seen.redis_cpu:8.1%} ({seen.idle_cpu:.1%})"
        times = f"{seen.median_ms:11.1f} {seen.p99_ms:8.1f}"
        whole = seen.bans * size
        print(f"{size:19} {seen.seen:9} of {whole:9} {times}   {cpu:>16} {seen.microseconds_per_ban_and_host:9.1f}")
    host = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps({"host": host, "fleets": [asdict(each) for each in found]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
