"""How long until the kernel holds a ban, beside `nft -f -`, ipset and fail2ban; and loads and healing.

One ban: the firewall alone, and the whole bouncer from its ban set on, with 0, 10 000 and 100 000 bans in the kernel.
fail2ban's own code runs its installed nftables action, in a process of its Python that has started long before. Each
works alone in the lab's kernel, so that none pays for the others' sets. Prints tables and writes JSON.
"""

import argparse
import asyncio
import json
import logging
import os
import platform
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from statistics import median, quantiles

from appguard.ban import Ban
from appguard.bouncer import Bouncer
from appguard.firewalls.base import Block
from appguard.firewalls.netlink import keeping, listen
from appguard.firewalls.nftables import Nftables
from appguard.judge import Judge
from appguard.stores.memory import MemoryBanSet
from tests.bouncing import running
from tests.netns import holds, run

RESULT = Path(__file__).parent / "results/ban_latency.json"
ACTIVE = (0, 10_000, 100_000)
BULK = (10_000, 100_000, 1_000_000)
OLD, NEW = 0x0A000000, 0x0B000000  # where the addresses of active and of new bans begin
HOUR = 3600.0
TARGETS = (
    "p50 <= 0.2 ms and p99 <= 2 ms at 100 000; 10 000 <= 0.1 s, 100 000 <= 1 s, 1 000 000 <= 10 s; healed <= 100 ms"
)
FAIL2BAN = """
import json, sys, time
sys.path.insert(0, "/usr/lib/python3/dist-packages")
from fail2ban.client.actionreader import ActionReader
from fail2ban.server.action import CommandAction
reader = ActionReader("nftables", "bench", {"name": "bench", "port": "http,https"}, basedir="/etc/fail2ban")
reader.read()
reader.getOptions({})
action = CommandAction(None, "bench")
for command in reader.convert():
    if command[0] == "multi-set":
        for key, value in command[4]:
            setattr(action, key, value)
action.start()
for line in sys.stdin:
    began = time.perf_counter()
    action.ban({"ip": line.strip(), "family": "inet4", "failures": 5, "time": time.time(), "matches": ""})
    print(time.perf_counter() - began, flush=True)
"""


def host(number: int, first: int = NEW) -> IPv4Network:
    """Give one address."""
    return IPv4Network(first + number)


def text(number: int, first: int = NEW) -> str:
    """Give one address as text."""
    return str(host(number, first).network_address)


def blocks(number: int, first: int = OLD) -> list[Block]:
    """Give that many blocks of an hour."""
    end = time.time() + HOUR
    return [Block.of(host(each, first), end) for each in range(number)]


def bans(number: int) -> list[Ban]:
    """Give that many bans of an hour."""
    now = time.time()
    return [Ban(host(each, OLD), "bench", now, now + HOUR) for each in range(number)]


async def timed(times: int, act: Callable[[int], Awaitable[object]]) -> list[float]:
    """Do it so often; give the milliseconds of each."""
    found: list[float] = []
    for number in range(times):
        began = time.perf_counter()
        await act(number)
        found.append(1000 * (time.perf_counter() - began))
    return found


def by_firewall(transport: str, active: int, times: int) -> list[float]:
    """Ban by our firewall alone; as the bouncer does, it keeps its socket."""

    async def scene() -> list[float]:
        firewall = Nftables(transport=transport)
        await firewall.replace([], blocks(active))
        found = await timed(times, lambda number: firewall.change([Block.of(host(number), time.time() + HOUR)], []))
        assert holds(text(times - 1))
        await firewall.lift()
        return found

    with keeping():
        return asyncio.run(scene())


def by_bouncer(active: int, times: int) -> list[float]:
    """Ban by the bouncer, from the ban set on."""
    ban_set = MemoryBanSet()
    ban_set.restore(bans(active))
    whole = Bouncer(ban_set, Nftables(), Judge())

    async def ban(number: int) -> None:
        ban_set.ban(Ban(host(number), "bench", time.time(), time.time() + HOUR))
        await whole.settle()

    async def scene() -> list[float]:
        await whole.settle()
        return await timed(times, ban)

    with keeping():
        found = asyncio.run(scene())
    assert holds(text(times - 1))
    run("nft", "flush ruleset")
    return found


def by_ipset(active: int, times: int) -> list[float]:
    """Ban by ipset, a process each."""
    adds = "".join(f"add bench {text(each, OLD)}\n" for each in range(active))
    run("ipset", "restore", text=f"create bench hash:ip timeout 3600 maxelem 2000000\n{adds}")
    found: list[float] = []
    for number in range(times):
        began = time.perf_counter()
        subprocess.run(["ipset", "add", "bench", text(number), "timeout", "3600"], check=True)
        found.append(1000 * (time.perf_counter() - began))
    run("ipset", "destroy", "bench")
    return found


def by_fail2ban(active: int, times: int) -> list[float]:
    """Ban by fail2ban's own code and its installed nftables action, after a first ban, which makes its table."""
    server = shutil.which("fail2ban-server")
    assert server, "fail2ban is not installed"
    python = Path(server).read_text().splitlines()[0].removeprefix("#!").strip()
    found: list[float] = []
    with subprocess.Popen(
        [python, "-c", FAIL2BAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        for number in range(times + 1):
            process.stdin.write(f"{text(number)}\n")
            process.stdin.flush()
            found.append(1000 * float(process.stdout.readline()))
            if not number and active:
                elements = ", ".join(text(each, OLD) for each in range(active))
                run("nft", "-f", "-", text=f"add element inet f2b-table addr-set-bench {{ {elements} }}\n")
        process.stdin.close()
    assert text(times) in run("nft", "list", "set", "inet", "f2b-table", "addr-set-bench")
    run("nft", "flush ruleset")
    return found[1:]


WAYS: dict[str, tuple[Callable[[int, int], list[float]], int]] = {
    "firewall over netlink": (partial(by_firewall, "netlink"), 1000),
    "bouncer over netlink": (by_bouncer, 1000),
    "firewall by nft -f -": (partial(by_firewall, "nft"), 60),
    "ipset": (by_ipset, 200),
    "fail2ban's nftables action": (by_fail2ban, 40),
}


def one_ban() -> dict[str, dict[str, dict[str, float]]]:
    """Measure one ban every way; print the table and how many times slower than the bouncer's netlink each is."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    print(f"one ban, milliseconds   {'':<8}" + "".join(f"{active:>10} active p50/p99" for active in ACTIVE))
    for name, (ban, times) in WAYS.items():
        found[name] = {str(active): summary(ban(active, times)) for active in ACTIVE}
        cells = (f"{each['p50_ms']:14.3f} / {each['p99_ms']:8.3f}" for each in found[name].values())
        print(f"  {name:<28}" + " ".join(cells))
    ours = found["firewall over netlink"]
    for name, each in found.items():
        ratios = (f"{each[active]['p50_ms'] / ours[active]['p50_ms']:9.1f}x" for active in ours)
        print(f"  {name:<28} p50 beside netlink {' '.join(ratios)}")
    return found


def summary(milliseconds: Sequence[float]) -> dict[str, float]:
    """Give the median, the 99th percentile and the longest."""
    p99 = quantiles(milliseconds, n=100, method="inclusive")[98]
    return {"p50_ms": median(milliseconds), "p99_ms": p99, "max_ms": max(milliseconds)}


def bulk(most: int) -> dict[str, dict[str, float]]:
    """Measure loads into a kernel without our table, in place of a table as large, and changes as large."""

    async def load(number: int, transport: str) -> dict[str, float]:
        firewall, load = Nftables(transport=transport), blocks(number)
        await firewall.replace([], [])
        await firewall.lift()
        fresh = await timed(1, lambda _: firewall.replace([], load))
        again = await timed(1, lambda _: firewall.replace([], load))
        await firewall.replace([], [])
        change = await timed(1, lambda _: firewall.change(load, []))
        assert holds(text(number - 1, OLD))
        await firewall.lift()
        return {"fresh_s": fresh[0] / 1000, "in_place_s": again[0] / 1000, "change_s": change[0] / 1000}

    found: dict[str, dict[str, float]] = {}
    print("a load, seconds                    fresh   in place     change")
    for transport in ("netlink", "nft"):
        for number in BULK:
            if number > most or (transport == "nft" and number > 100_000):
                continue
            found[f"{transport} {number}"] = each = asyncio.run(load(number, transport))
            print(f"  {transport:<8} {number:>10}" + "".join(f"{value:11.3f}" for value in each.values()))
    return found


class Flush:
    """Notes when somebody else's flush took effect, in a thread, because the loop is what is measured."""

    def __init__(self) -> None:
        self.time = 0.0
        self._link = listen()
        self._thread = threading.Thread(target=self._wait)
        self._thread.start()

    def _wait(self) -> None:
        with self._link:
            select.select([self._link], [], [])
            self.time = time.perf_counter()

    def seen(self) -> float:
        """Give the time of the flush."""
        self._thread.join()
        return self.time


def heal(number: int, times: int) -> dict[str, float]:
    """Measure from a foreign `nft flush ruleset` to all bans being back."""

    async def scene() -> list[float]:
        ban_set, firewall = MemoryBanSet(), Nftables()
        ban_set.restore(bans(number))
        whole = Bouncer(ban_set, firewall, Judge())
        await whole.settle()
        found: list[float] = []
        async with running(whole):
            for _ in range(times):
                await asyncio.sleep(0.3)  # the echo of what came before has been heard
                flush = Flush()
                nft = await asyncio.create_subprocess_exec("nft", "flush", "ruleset")
                while await firewall.intact():  # noqa: ASYNC110 - the kernel is asked
                    await asyncio.sleep(0.002)
                while not await firewall.intact():  # noqa: ASYNC110 - the kernel is asked
                    await asyncio.sleep(0.002)
                found.append(1000 * (time.perf_counter() - flush.seen()))
                assert all(holds(text(each, OLD)) for each in range(0, number, 99))
                await nft.wait()
        run("nft", "flush ruleset")
        return found

    found = summary(asyncio.run(scene()))
    print(f"foreign flush with {number} bans, all back: median {found['p50_ms']:.1f} ms, max {found['max_ms']:.1f} ms")
    return found


def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser(description="Measure how long until the kernel holds a ban.")
    parser.add_argument("--most", type=int, default=1_000_000, help="the largest load")
    options = parser.parse_args()
    most = options.most
    logging.getLogger("appguard").setLevel(logging.ERROR)  # each flush is said as a warning
    written = {
        "host": {"kernel": platform.release(), "python": sys.version.split()[0], "cpus": os.cpu_count()},
        "targets": TARGETS,
        "one_ban": one_ban(),
        "bulk": bulk(most),
        "heal": heal(10_000, 20),
    }
    print(f"targets: {TARGETS}")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(written, indent=2) + "\n")
    print(f"written to benchmarks/results/{RESULT.name}")


if __name__ == "__main__":
    main()
