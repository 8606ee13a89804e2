"""Following the ban set over the control socket, and the bouncer that does so as a process apart."""

import asyncio
import json
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from appguard import bouncer_process, following
from appguard.address import parse_network
from appguard.ban import Ban
from appguard.bouncer_process import BouncerProcess
from appguard.config import daemon_config
from appguard.control import FOLLOWERS_PER_USER, serve
from appguard.errors import StoreError
from appguard.followed_bans import ask as ask_as_bouncer
from appguard.following import News
from tests.control import DictionaryDaemon, ask, connected, run, serving
from tests.daemon import Place, in_kernel, running_daemon, web_jail
from tests.lab import Process, User, running, wait_until
from tests.netns import has_table, holds
from tests.netns import run as run_in_lab

DAEMON = User(4711)
BOUNCER = User(4712, groups=(4711, 0), capabilities=("net_admin",))
APART = '[firewall]\nkind = "apart"\n'
ANSWER = b'{"cursor": "0", "whole": true, "enforcing": true, "facts": []}'
AT_ONCE = 5.0  # seconds on a busy machine; far less than the 25 an answer without news takes


@pytest.fixture
def place(open_tmp_path: Path) -> Iterator[Place]:
    """Give the directories of a daemon without privilege, and take the bouncer's table away afterwards."""
    place = Place(open_tmp_path, DAEMON)
    place.configure(web_jail(place), APART)
    yield place
    if has_table():
        run_in_lab("nft", "delete", "table", "inet", "appguard")


def follow(path: Path, cursor: object = "") -> dict[str, Any]:
    """Ask once as a follower does."""
    status, reply = ask(path, "GET", f"/v1/bans?follow={cursor}")
    assert status == 200, reply
    return reply


def bouncer_of(place: Place, *options: str) -> Process:
    """Start the bouncer with the daemon's settings, as its own user with its one capability."""
    return Process("bouncer", [*place.command("bouncer"), *options], user=BOUNCER)


def kernel_has(*addresses: str) -> bool:
    """Say whether the kernel shuts out these and no others."""
    return in_kernel().keys() == set(addresses)


# The endpoint.


def test_a_follower_gets_everything_then_every_change_at_once(path: Path) -> None:
    """First all bans in brief, then each ban and each lift the moment it happens."""
    run(path, "ban", "203.0.113.5", "--for", "1h", "--jail", "abuse", "--reason", "ticket 17")
    first = follow(path)
    assert (first["whole"], first["enforcing"]) == (True, True)
    (fact,) = first["facts"]
    assert fact == ["203.0.113.5", "abuse", pytest.approx(time.time() + 3600, abs=60)]
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(follow, path, first["cursor"])
        assert ask(path, "POST", "/v1/bans", '{"address": "2001:db8:5::/64"}')[0] == 200
        second = waiting.result(AT_ONCE)
        waiting = threads.submit(follow, path, second["cursor"])
        assert ask(path, "DELETE", "/v1/bans/203.0.113.5")[0] == 200
        third = waiting.result(AT_ONCE)
    assert (second["whole"], [key for key, _, _ in second["facts"]]) == (False, ["2001:db8:5::/64"])
    assert (third["whole"], third["facts"]) == (False, [["203.0.113.5", None, None]])
    both = follow(path, first["cursor"])
    assert both["facts"] == [*second["facts"], *third["facts"]]


@pytest.mark.parametrize("cursor", ["", "x", "0-0-0", "0" * 16 + "-0-0", "%00", "-1", "9" * 5000])
def test_a_cursor_of_another_life_gets_everything(path: Path, cursor: str) -> None:
    """A cursor this daemon never gave is answered at once, with all bans."""
    ask(path, "POST", "/v1/bans", '{"address": "203.0.113.5"}')
    answer = follow(path, cursor)
    assert (answer["whole"], len(answer["facts"])) == (True, 1)


def test_a_cursor_out_of_the_future_gets_everything(path: Path) -> None:
    """A cursor of this life, but of a place or a switch that has not come yet, is answered with all bans."""
    life, number, switches = follow(path)["cursor"].split("-")
    assert follow(path, f"{life}-{int(number) + 1}-{switches}")["whole"]
    assert follow(path, f"{life}-{number}-{int(switches) + 1}")["whole"]


def test_a_switch_of_enforcement_reaches_who_waits_and_who_was_away(path: Path) -> None:
    """`enforce off` answers a waiting follower at once, and one that asks with an older cursor later."""
    cursor = follow(path)["cursor"]
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(follow, path, cursor)
        assert ask(path, "PUT", "/v1/enforce", '{"on": false}')[0] == 200
        told = waiting.result(AT_ONCE)
    assert (told["whole"], told["enforcing"], told["facts"]) == (False, False, [])
    assert follow(path, cursor) == told


def test_without_news_the_answer_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower whom nothing is to be told gets its own cursor back when it has waited long enough."""
    monkeypatch.setattr(following, "WAIT", 0.2)
    first = follow(path)
    began = time.monotonic()
    known = {key: value for key, value in first.items() if key != "protected"}
    assert follow(path, first["cursor"]) == known | {"whole": False}
    assert time.monotonic() - began >= 0.2


def test_followers_leave_room_for_verbs(path: Path) -> None:
    """One user has only so many waiting followers; verbs go on working, and a follower that is gone makes room."""
    request = f"GET /v1/bans?follow={follow(path)['cursor']} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    with ExitStack() as waiting:
        for _ in range(FOLLOWERS_PER_USER):
            waiting.enter_context(connected(path, request))
        wait_until(lambda: ask(path, "GET", "/v1/bans?follow=")[0] == 429, 5, "the places are taken")
        assert ask(path, "GET", "/v1/bans")[0] == 200
        assert ask(path, "GET", "/v1/status")[0] == 200
    wait_until(lambda: ask(path, "GET", "/v1/bans?follow=")[0] == 200, 5, "the places are free again")


def test_waiting_followers_do_not_delay_the_end(open_tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A daemon that stops answers those who wait, and ends without a complaint and without waiting for them."""
    path = open_tmp_path / "control.sock"
    daemon = DictionaryDaemon()
    with ThreadPoolExecutor() as threads:
        with serving(daemon, path):
            cursor = follow(path)["cursor"]
            waiting = threads.submit(follow, path, cursor)
            assert ask(path, "GET", "/v1/status")[0] == 200
            wait_until(lambda: daemon.following.asked != daemon.following.asked, 5, "the follower waits")
            began = time.monotonic()
        assert time.monotonic() - began < AT_ONCE
        if not waiting.exception(AT_ONCE):
            assert waiting.result()["cursor"] == cursor
    assert not [record.getMessage() for record in caplog.records if record.name.startswith("uvicorn")]


def test_before_all_bans_are_back_followers_alone_are_answered(open_tmp_path: Path) -> None:
    """While a daemon fills its ban set after a restart, a follower gets what is saved; verbs wait until it is done."""
    path = open_tmp_path / "control.sock"
    saved = ("203.0.113.5", "login", None)

    async def told() -> News:
        async with asyncio.timeout(AT_ONCE):
            while True:
                with suppress(StoreError):
                    return await ask_as_bouncer(path, "")
                await asyncio.sleep(0.01)

    async def scene() -> None:
        daemon = DictionaryDaemon()
        daemon.following.begin_restore(lambda: [saved])
        server = asyncio.create_task(serve(daemon, path))
        assert list((await told()).facts) == [saved]
        verbs = [asyncio.create_task(asyncio.to_thread(ask, path, "GET", verb)) for verb in ("/v1/status", "/v1/bans")]
        assert list((await told()).facts) == [saved]
        assert not any(verb.done() for verb in verbs)
        daemon.following.end_restore()
        assert [status for status, _ in await asyncio.gather(*verbs)] == [200, 200]
        server.cancel()
        with suppress(asyncio.CancelledError):
            await server

    asyncio.run(scene())


# The process.


@pytest.mark.lab
def test_a_line_becomes_a_kernel_ban_without_a_privileged_daemon(place: Place) -> None:
    """The daemon has no capability, the bouncer exactly one; bans and lifts are in the kernel at once."""
    with running_daemon(place) as daemon, running(bouncer_of(place)) as bouncer:
        bouncer.wait_for("AppGuard bouncer is up")
        assert (capabilities(daemon), capabilities(bouncer)) == (0, 1 << 12)
        place.append("203.0.113.5", 3)
        daemon.wait_for("[probes] Ban 203.0.113.5")
        wait_until(lambda: kernel_has("203.0.113.5"), AT_ONCE, bouncer.output)
        assert place.run("ban", "2001:db8:1::5", "--for", "1h").returncode == 0
        wait_until(lambda: kernel_has("203.0.113.5", "2001:db8:1::/64"), AT_ONCE, bouncer.output)
        assert place.run("unban", "203.0.113.5").returncode == 0
        wait_until(lambda: kernel_has("2001:db8:1::/64"), AT_ONCE, bouncer.output)
        apart = {"name": f"a bouncer apart (process {bouncer.pid})", "error": "", "dropped": None}
        assert place.ask("status")["firewalls"] == [apart]
        assert f"Firewall:\ta bouncer apart (process {bouncer.pid}), enforcing, 1 ban\n" in place.run("status").stdout
        bouncer.send(signal.SIGTERM)
        assert bouncer.wait() == 0
        assert "Traceback" not in bouncer.output()
    assert kernel_has("2001:db8:1::/64")


def capabilities(process: Process) -> int:
    """Give all capabilities a process has or could get, as the kernel's bits."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    sets = {line[:6]: int(line.split()[1], 16) for line in lines if line.startswith("Cap")}
    assert len(sets) == 5
    return sets["CapPrm"] | sets["CapEff"] | sets["CapInh"] | sets["CapBnd"] | sets["CapAmb"]


@pytest.mark.lab
def test_after_a_boot_the_kernel_has_the_bans_before_the_daemon_is_up(place: Place) -> None:
    """Started together, the bouncer has all saved bans in the kernel while the daemon still fills its ban set."""
    now, number = time.time(), 60_000
    hosts = [f"10.{each >> 16}.{each >> 8 & 255}.{each & 255}" for each in range(number)]
    place.remember(Ban(parse_network(host), "old", now, now + 3600) for host in hosts)
    with running(place.start(is_up=False)) as daemon, running(bouncer_of(place)) as bouncer:
        bouncer.wait_for("AppGuard bouncer is up", 60)
        assert all(holds(host) for host in hosts[::999])
        assert "AppGuard daemon is up" not in daemon.output()
        assert "ERROR" not in bouncer.output()
        daemon.wait_for(f"{number} bans", 60)
        assert place.run("unban", hosts[7]).returncode == 0
        wait_until(lambda: not holds(hosts[7]), AT_ONCE, bouncer.output)
        assert all(holds(host) for host in hosts[::999])


@pytest.mark.lab
def test_the_daemon_may_come_and_go(place: Place) -> None:
    """While the daemon is dead its bans stay; when it is back the bouncer is in step, lifts of its absence included."""
    daemon = place.start()
    with running(bouncer_of(place)) as bouncer:
        for address in ("203.0.113.5", "203.0.113.6"):
            assert place.run("ban", address, "--for", "1h").returncode == 0
        wait_until(lambda: kernel_has("203.0.113.5", "203.0.113.6"), AT_ONCE, bouncer.output)
        daemon.send(signal.SIGKILL)
        daemon.wait()
        daemon.stop()
        bouncer.wait_for("not in step with the daemon")
        assert kernel_has("203.0.113.5", "203.0.113.6")
        with running_daemon(place):
            bouncer.wait_for("in step with the daemon again")
            bouncer.send(signal.SIGSTOP)
            assert place.run("unban", "203.0.113.5").returncode == 0
            assert place.run("ban", "203.0.113.7").returncode == 0
            assert kernel_has("203.0.113.5", "203.0.113.6")
            bouncer.send(signal.SIGCONT)
            wait_until(lambda: kernel_has("203.0.113.6", "203.0.113.7"), AT_ONCE, bouncer.output)
        assert bouncer.status is None


@pytest.mark.lab
def test_the_bouncer_may_come_and_go(place: Place) -> None:
    """Started without a daemon, a bouncer leaves the kernel as it is; with one it is in step, whatever was missed."""
    with running_daemon(place) as daemon, running(bouncer_of(place)) as bouncer:
        assert place.run("ban", "203.0.113.5", "--for", "1h").returncode == 0
        wait_until(lambda: kernel_has("203.0.113.5"), AT_ONCE, bouncer.output)
        bouncer.send(signal.SIGKILL)
        bouncer.wait()
        assert place.run("unban", "203.0.113.5").returncode == 0
        assert place.run("ban", "203.0.113.6", "--for", "1h").returncode == 0
        daemon.send(signal.SIGTERM)
        daemon.wait()
    with running(bouncer_of(place)) as bouncer:
        bouncer.wait_for("the host goes on without", bouncer_process.READY_MOST + AT_ONCE)
        assert kernel_has("203.0.113.5")
        with running_daemon(place):
            wait_until(lambda: kernel_has("203.0.113.6"), AT_ONCE, bouncer.output)


@pytest.mark.lab
def test_bans_are_back_when_a_clock_that_was_ahead_is_right(place: Place) -> None:
    """What ended by a clock set ahead by mistake is in the kernel again, for the time it had left."""
    place.set_clock(0.0)
    with running_daemon(place), running(bouncer_of(place)) as bouncer:
        bouncer.wait_for("AppGuard bouncer is up")
        assert place.run("ban", "203.0.113.5", "--for", "1h").returncode == 0
        wait_until(lambda: kernel_has("203.0.113.5"), AT_ONCE, bouncer.output)
        place.set_clock(7200.0)
        wait_until(kernel_has, AT_ONCE, bouncer.output)
        place.set_clock(0.0)
        wait_until(lambda: kernel_has("203.0.113.5"), AT_ONCE, bouncer.output)
        assert 3500 < in_kernel()["203.0.113.5"] <= 3600


@pytest.mark.lab
def test_enforce_off_and_on_reach_the_bouncer(place: Place) -> None:
    """When `enforce off` returns, all is lifted; it holds over restarts of both; `enforce on` brings all back."""
    with running_daemon(place):
        with running(bouncer_of(place)) as bouncer:
            assert place.run("ban", "203.0.113.5", "--for", "1h").returncode == 0
            wait_until(lambda: kernel_has("203.0.113.5"), AT_ONCE, bouncer.output)
            assert place.run("enforce", "off").returncode == 0
            assert not has_table()
            assert place.run("enforce", "on").returncode == 0
            assert kernel_has("203.0.113.5")
        late = place.run("enforce", "off")
        assert late.returncode == 1
        assert "the bouncer apart has not done it within 5 s" in late.stderr
    with running_daemon(place), running(bouncer_of(place)) as bouncer:
        bouncer.wait_for("everything is lifted")
        assert not has_table()
        assert place.ask("status")["enforcing"] is False


@pytest.mark.lab
def test_status_says_when_nobody_enforces(place: Place) -> None:
    """Without a bouncer that asks, status says so and what to look at."""
    with running_daemon(place):
        assert "no bouncer has asked for the bans yet" in place.ask("status")["firewalls"][0]["error"]
        assert "no bouncer has asked" in place.ask("status", "probes")["enforced_by"]


@pytest.mark.lab
def test_a_forced_ban_does_not_travel(place: Place) -> None:
    """`--force` is refused with exit code 3: what has no privilege cannot make the bouncer cut off its host."""
    with running_daemon(place):
        refused = place.run("ban", "10.0.0.0/9", "--force")
        assert refused.returncode == 3
        assert "cannot be forced" in refused.stderr
        assert place.banned() == []


@pytest.mark.lab
def test_the_bouncer_judges_for_itself(place: Place, path: Path, daemon: DictionaryDaemon) -> None:
    """Told by the daemon to ban this host's address, the safelist or half the internet, it enforces only the rest."""
    place.configure("", f'safelist = ["198.51.100.0/24"]\n{APART}')
    run_in_lab("ip", "address", "add", "192.0.2.77/32", "dev", "lo")
    try:
        for network in ("192.0.2.77", "198.51.100.9", "0.0.0.0/1", "127.0.0.0/8", "203.0.113.5"):
            assert ask(path, "POST", "/v1/bans", json.dumps({"address": network}))[0] == 200
        with running(bouncer_of(place, "--socket", str(path))) as bouncer:
            wait_until(lambda: kernel_has("203.0.113.5"), AT_ONCE, bouncer.output)
            said = [line.text for line in bouncer.lines() if "is not enforced" in line.text]
        assert len(said) == 4
    finally:
        run_in_lab("ip", "address", "delete", "192.0.2.77/32", "dev", "lo")
    assert daemon.following.asked is not None


@pytest.mark.lab
def test_a_daemon_that_enforces_needs_no_bouncer(place: Place) -> None:
    """With another firewall than `apart` the bouncer ends with exit code 2 and names the setting: two would fight."""
    place.configure(web_jail(place), '[firewall]\nkind = "nftables"\n')
    with running(bouncer_of(place)) as bouncer:
        assert bouncer.wait() == 2
        assert 'set kind = "apart"' in bouncer.output()
    assert not has_table()


@pytest.mark.lab
def test_programs_neither_shorten_nor_lift_what_others_ban(place: Place) -> None:
    """An automatic ban leaves a longer one as it is, and `unban --jail` lifts only that jail's bans."""
    with running_daemon(place):
        assert place.run("ban", "203.0.113.5", "--for", "1h").returncode == 0
        short = ("203.0.113.5", "--for=60", "--jail", "shop")
        assert place.ask("ban", "--automatic", *short)["jail"] == "manual"
        assert place.run("unban", "203.0.113.5", "--jail", "shop").returncode == 1
        assert place.run("unban", "203.0.113.5", "--jail", "shop", "--missing-ok").returncode == 0
        assert place.banned() == ["203.0.113.5"]
        assert place.ask("ban", *short)["jail"] == "shop"
        assert place.run("unban", "203.0.113.5", "--jail", "shop", "--missing-ok").returncode == 0
        assert place.banned() == []


@pytest.mark.lab
def test_a_booting_host_waits_for_a_daemon_that_answers(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bouncer is ready when the kernel has the bans, also where the daemon takes long to tell of them."""
    monkeypatch.setattr(bouncer_process, "ABSENT_MOST", 0.1)
    monkeypatch.setattr(bouncer_process, "READY_MOST", 0.2)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place.control.parent / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())

        async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if b"follow= " in await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(1)
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + ANSWER)
            writer.close()
            await writer.wait_closed()

        async def scene() -> None:
            server = await asyncio.start_unix_server(tell, place.control)
            task = asyncio.create_task(BouncerProcess(daemon_config(place.config), place.control).run())
            assert await asyncio.to_thread(manager.recv, 100) == b"READY=1"
            assert has_table()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            server.close()
            await server.wait_closed()

        asyncio.run(scene())
