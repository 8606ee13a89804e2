"""Redis servers that stand in for each other: a Sentinel group and a Cluster, of real processes on loopback."""

import re
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

from redis.crc import key_slot

from tests.lab import free_port, wait_until
from tests.redis_server import RedisServer

SERVICE = "appguard"
REPLICATION = (
    "--masteruser",
    "copier",
    "--masterauth",
    "copying",
    "--repl-diskless-sync-delay",
    "0",
    "--repl-ping-replica-period",
    "1",
)
COPIER = ("--user", *["copier", "on", ">copying", "+psync", "+replconf", "+ping"])
DOWN_AFTER_MS = 500
SENTINEL = f"""
sentinel monitor {SERVICE} 127.0.0.1 {{master}} 2
sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}
sentinel failover-timeout {SERVICE} 3000
"""
CLUSTER = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0")
SLOTS = 16384


class Pair:
    """A master and its replica, in the roles they began with."""

    def __init__(self, master: RedisServer, replica: RedisServer) -> None:
        self.master = master
        self.replica = replica

    def wait_until_copied(self, seconds: float = 5) -> None:
        """Wait until the replica holds all that the master has by now; what comes meanwhile may still be on its way."""
        by_now = re.search(rb"master_repl_offset:(\d+)", self.master.command("INFO", "replication"))
        assert by_now
        offset = max(int(by_now[1]), 1)  # 0 before there is a replica
        wait_until(lambda: self._copied() >= offset, seconds, lambda: f"copied {self._copied()} of {offset} bytes")

    def _copied(self) -> int:
        """Give how far the replica says it is, once a second; -1 before it has begun."""
        found = re.search(rb"slave0:.*state=online,offset=(\d+)", self.master.command("INFO", "replication"))
        return int(found[1]) if found else -1

    def part(self) -> None:
        """Cut the replica off: what the master acknowledges from now on is lost with it."""
        assert self.master.command("ACL", "SETUSER", "copier", "off") == b"+OK\r\n"
        self.master.command("CLIENT", "KILL", "TYPE", "replica")
        wait_until(lambda: b"connected_slaves:0" in self.master.command("INFO", "replication"), 5, "still copying")

    def fail_over(self) -> None:
        """End the master and wait until the replica has taken over."""
        self.master.kill()
        wait_until(lambda: b"role:master" in self.replica.command("INFO", "replication"), 20, "nobody took over")


class SentinelGroup(Pair):
    """A pair watched by three Sentinels."""

    def __init__(self, master: RedisServer, replica: RedisServer, sentinels: Sequence[RedisServer]) -> None:
        super().__init__(master, replica)
        self.sentinels = sentinels
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in sentinels)
        self.uri = f"redis+sentinel://{hosts}/{SERVICE}/0"


@contextmanager
def sentinel_group(directory: Path) -> Generator[SentinelGroup]:
    """Run master, replica and three Sentinels for the length of the block."""
    with ExitStack() as stack:
        master = _started(stack, RedisServer(directory, options=(*REPLICATION, *COPIER)))
        options = (*REPLICATION, *COPIER, "--replicaof", "127.0.0.1", str(master.port))
        replica = _started(stack, RedisServer(directory, options=options))
        settings = SENTINEL.format(master=master.port)
        sentinels = [_started(stack, RedisServer(directory, sentinel=settings)) for _ in range(3)]
        group = SentinelGroup(master, replica, sentinels)
        group.wait_until_copied(20)
        wait_until(lambda: all(_sees_all(each) for each in sentinels), 20, "the Sentinels did not find each other")
        yield group


def _sees_all(sentinel: RedisServer) -> bool:
    seen = sentinel.command("SENTINEL", "MASTER", SERVICE)
    return b"num-other-sentinels\r\n$1\r\n2" in seen and b"num-slaves\r\n$1\r\n1" in seen


class Cluster:
    """Three shards, each a master and a replica."""

    def __init__(self, shards: Sequence[Pair]) -> None:
        self.shards = shards
        self.uri = f"redis+cluster://{','.join(f'127.0.0.1:{shard.master.port}' for shard in shards)}"

    def shard_of(self, key: str) -> Pair:
        """Give the shard that holds a key."""
        return self.shards[min(key_slot(key.encode()) // (SLOTS // len(self.shards)), len(self.shards) - 1)]


@contextmanager
def cluster(directory: Path) -> Generator[Cluster]:
    """Run a Cluster of three masters and three replicas for the length of the block."""
    with ExitStack() as stack:
        buses = [free_port() for _ in range(6)]
        servers = [_node(stack, directory, bus) for bus in buses]
        masters, replicas = servers[:3], servers[3:]
        for at, master in enumerate(masters):
            first = at * (SLOTS // 3)
            last = SLOTS - 1 if at == 2 else first + SLOTS // 3 - 1
            assert master.command("CLUSTER", "ADDSLOTSRANGE", str(first), str(last)) == b"+OK\r\n"
            master.command("CLUSTER", "SET-CONFIG-EPOCH", str(at + 1))
        for one, other in combinations(range(6), 2):  # gossip would take longer
            servers[one].command("CLUSTER", "MEET", "127.0.0.1", str(servers[other].port), str(buses[other]))
        wait_until(lambda: all(_knows(each, 6) for each in servers), 20, "the nodes did not meet")
        shards = [Pair(master, replica) for master, replica in zip(masters, replicas, strict=True)]
        for shard in shards:
            name = shard.master.command("CLUSTER", "MYID").split(b"\r\n")[1].decode()
            wait_until(partial(_follows, shard.replica, name), 10, "no replica")
        for shard in shards:
            shard.wait_until_copied(20)
        wait_until(lambda: all(_is_whole(each) for each in servers), 20, "the Cluster did not come up")
        yield Cluster(shards)


@dataclass(frozen=True, slots=True)
class Group:
    """Servers that stand in for each other: how all are reached, and the pair that holds a key."""

    uri: str
    pair: Pair


@contextmanager
def group_of(kind: str, directory: Path, key: str) -> Generator[Group]:
    """Run a Sentinel group or a Cluster for the length of the block."""
    if kind == "sentinel":
        with sentinel_group(directory) as sentinels:
            yield Group(sentinels.uri, sentinels)
    else:
        with cluster(directory) as shards:
            yield Group(shards.uri, shards.shard_of(key))


def _node(stack: ExitStack, directory: Path, bus: int) -> RedisServer:
    own = ("--cluster-config-file", f"{bus}.nodes", "--cluster-port", str(bus))
    return _started(stack, RedisServer(directory, options=(*CLUSTER, *own, *REPLICATION, *COPIER)))


def _started(stack: ExitStack, server: RedisServer) -> RedisServer:
    server.start()
    stack.callback(server.kill)
    return server


def _knows(server: RedisServer, number: int) -> bool:
    return f"cluster_known_nodes:{number}\r\n".encode() in server.command("CLUSTER", "INFO")


def _is_whole(server: RedisServer) -> bool:
    return b"cluster_state:ok" in server.command("CLUSTER", "INFO")


def _follows(server: RedisServer, name: str) -> bool:
    return server.command("CLUSTER", "REPLICATE", name) == b"+OK\r\n"
