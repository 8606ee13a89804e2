"""How many failures a second does one Redis count for a fleet, in batches and singly, and what does it keep of them?

A process sends what daemons send (`fail.lua`), pipelined, for some seconds: failures of addresses drawn from a
range, maxretry 5. "One by one" is the same with a batch of one. Redis' own time per failure is its CPU time in the run.
The bans are checked: as many as there must be, if every failure was counted once. Prints a table and writes JSON.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import redis

from appguard.address import parse_address, parse_network
from appguard.ban import Ban
from appguard.event import LOGIN_FAIL, Event
from appguard.jail import Jail
from appguard.stores.fleet_failures import TOTAL, Failed, fields_of
from appguard.stores.redis_commands import Script
from tests.redis_server import RedisServer, redis_server

RESULT = Path(__file__).parent / "results/fleet_failures.json"
JAIL = Jail("login", maxretry=5, findtime="10m", bantime="1h", scope="fleet")
ADDRESSES = 100_000
EVIDENCE = '203.0.113.5 - - [20/Nov/2026:09:11:02 +0000] "POST /login HTTP/1.1" 401 153 "-" "curl/8"'
SENDERS = 1
FACTS, CHANGES = "appguard:b:{main}:facts", "appguard:b:{main}:changes"


def failed(address: str, now: float) -> Failed:
    """Make a failure as a daemon tells it, with a line of evidence."""
    event = Event(LOGIN_FAIL, now, parse_address(address))
    offer = Ban(parse_network(address), "login", now, now + 3600, "", 0, (EVIDENCE,), automatic=True)
    return Failed(JAIL, address, event, offer, "", f"{TOTAL} x authn_login_fail in 600 s")


def send(port: int, batch: int, number: int, seed: int, answers: Any) -> None:
    """Prepare calls, wait for the start, send them; give when that began and ended, and who failed how often."""
    chance, now = random.Random(seed), time.time()
    calls: list[tuple[list[str], list[object]]] = []
    told: Counter[str] = Counter()
    for call in range(number // batch):
        addresses = [f"198.18.{n // 250 % 250}.{n % 250 + 1}" for n in chance.choices(range(ADDRESSES), k=batch)]
        told.update(addresses)
        index = {each: at for at, each in enumerate(dict.fromkeys(addresses), 1)}
        packed = msgspec.msgpack.encode([fields_of(failed(each, now), index[each], 0.0, "web-1") for each in addresses])
        counters = [f"appguard:d:{{main}}:failures:login:{each}" for each in index]
        keys = [FACTS, CHANGES, f"appguard:d:{{main}}:batch:{seed}", *counters]
        calls.append((keys, [20_000, call, 5, 600_000, "ban", packed]))
    client: Any = redis.Redis(port=port)
    client.response_callbacks.clear()
    script = Script("fail")
    script.call(client, [FACTS, CHANGES, f"appguard:d:{{main}}:batch:warm-{seed}"], [20_000, 0, 5, 1, "ban", b"\x90"])
    answers.put(None)
    began = time.time()
    for at in range(0, len(calls), 10):
        pipeline = client.pipeline(transaction=False)
        for keys, arguments in calls[at : at + 10]:
            script.call(pipeline, keys, arguments)
        pipeline.execute()
    answers.put((began, time.time(), told))


def measure(server: RedisServer, batch: int, number: int) -> dict[str, float]:
    """Give failures per second, Redis' microseconds for one, bytes for one counter, and the bans it made and missed."""
    server.command("FLUSHALL")
    client: Any = redis.Redis(port=server.port)
    memory = client.info("memory")["used_memory"]
    answers: multiprocessing.Queue[Any] = multiprocessing.Queue()
    senders = [
        multiprocessing.Process(target=send, args=(server.port, batch, number // SENDERS, seed, answers))
        for seed in range(SENDERS)
    ]
    for sender in senders:
        sender.start()
    for _ in senders:
        answers.get()
    cpu = _cpu(client)
    ended = [answers.get() for _ in senders]
    spent = _cpu(client) - cpu
    for sender in senders:
        sender.join()
    told = sum((each[2] for each in ended), Counter[str]())
    seconds = max(each[1] for each in ended) - min(each[0] for each in ended)
    total, banned = told.total(), client.hlen(FACTS) - 1
    must = sum(times >= JAIL.maxretry for times in told.values())
    counters = sum(times % JAIL.maxretry > 0 for times in told.values())
    kept = client.info("memory")["used_memory"] - memory
    return {
        "batch": batch,
        "failures_per_second": total / seconds,
        "redis_us_per_failure": spent / total * 1e6,
        "bytes_per_address": kept / max(1, counters + banned),
        "bans": banned,
        "bans_that_must_be": must,
    }


def _cpu(client: Any) -> float:
    found = client.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--failures", type=int, default=200_000)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with TemporaryDirectory() as directory, redis_server(Path(directory)) as server:
        rows = [measure(server, 1, arguments.failures // 10), measure(server, 100, arguments.failures)]
    print("batch  failures/s  Redis us each  bytes/address   bans  must be")
    for row in rows:
        print(
            f"{row['batch']:5.0f}  {row['failures_per_second']:10,.0f}  {row['redis_us_per_failure']:13.1f}"
            f"  {row['bytes_per_address']:13.0f}  {row['bans']:5.0f}  {row['bans_that_must_be']:7.0f}"
        )
    ratio = rows[1]["failures_per_second"] / rows[0]["failures_per_second"]
    print(f"in batches of 100 {ratio:.1f} times as many as one by one")
    host = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps({"host": host, "rows": rows, "ratio": ratio}, indent=2) + "\n")


if __name__ == "__main__":
    main()
