"""Hooks hear of what happens and are not felt by requests; Prometheus counts the same."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from appguard import Ban, Event, Jail
from appguard.hooks import WAITING_MOST, Hooks
from tests.frameworks.sites import Site, flask_site, starlette_site
from tests.lab import wait_until

ENDED = "the hooks' thread does not end"


def is_idle() -> bool:
    """Say whether no thread calls hooks any more."""
    return not any(thread.name == "appguard-hooks" for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """End with no thread that calls hooks."""
    yield
    wait_until(is_idle, 5, ENDED)


@pytest.mark.parametrize("make", [starlette_site, flask_site])
def test_hooks_hear_of_all_three(make: Callable[..., Site]) -> None:
    """A failed login, the ban it leads to and a refusal by a limit are each told once, with what is known of it."""
    failures, bans, refusals = list[Event](), list[Ban](), list[Event]()
    ask = make(
        store="memory://",
        limits=["3/minute"],
        jails=[Jail("login", maxretry=2)],
        event_log="logger",
        on_auth_failure=failures.append,
        on_ban=bans.append,
        on_limit=refusals.append,
    )
    for _ in range(2):
        assert ask("POST", "/login", {"X-User": "alice"}).status == 401
    assert [ask("GET", "/", None, "198.51.100.7").status for _ in range(5)] == [200, 200, 200, 429, 429]
    wait_until(lambda: refusals and bans and is_idle(), 5, "the hooks are not called")
    assert [(event.kind, event.user, event.status) for event in failures] == [("authn_login_fail", "alice", 401)] * 2
    assert [(ban.key, ban.jail, ban.failures) for ban in bans] == [("203.0.113.5", "login", 2)]
    assert [(event.kind, event.address.text) for event in refusals] == [("excess_rate_limit_exceeded", "198.51.100.7")]


def test_a_hook_that_fails_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """Each call fails, requests go on, and the log says so once."""
    calls: list[int] = []

    def broken(number: int) -> None:
        calls.append(number)
        raise LookupError("no such channel")

    hooks = Hooks({"on_ban": broken})
    for number in range(3):
        hooks.call("on_ban", number)
    wait_until(lambda: len(calls) == 3 and is_idle(), 5, ENDED)
    assert [record.getMessage() for record in caplog.records] == ["hook on_ban failed: LookupError: no such channel"]


def test_a_slow_hook_delays_nobody_and_holds_little(caplog: pytest.LogCaptureFixture) -> None:
    """While a hook hangs, calls return at once; what waits is bounded, and the log says when some is missed."""
    is_free, heard = threading.Event(), list[int]()

    def hanging(number: int) -> None:
        heard.append(number)
        is_free.wait(10)

    hooks = Hooks({"on_limit": hanging})
    hooks.call("on_limit", 0)
    wait_until(lambda: heard == [0], 5, "the hook is not called")
    begun = time.monotonic()
    for number in range(1, WAITING_MOST + 10):
        hooks.call("on_limit", number)
    assert time.monotonic() - begun < 5
    assert heard == [0]
    is_free.set()
    wait_until(is_idle, 5, ENDED)
    assert heard == list(range(WAITING_MOST + 1))
    assert len(caplog.records) == 1
    assert "hook on_limit is too slow" in caplog.text


def test_without_a_hook_nothing_is_called() -> None:
    """No hook is no thread, and nothing to tell is no call."""
    heard: list[int] = []
    Hooks[int]({"on_ban": None}).call("on_ban", 1)
    Hooks({"on_ban": heard.append}).call("on_ban", None)
    assert is_idle()
    assert heard == []


def counted(series: str, /, **labels: str) -> float:
    """Give what Prometheus would be told."""
    return REGISTRY.get_sample_value(series, labels) or 0.0


def test_prometheus_counts() -> None:
    """Refusals by limit, ban and trap, events by kind and bans by jail are counted for each app."""
    app = "metrics-shop"
    ask = starlette_site(
        name=app, store="memory://", limits=["4/minute"], traps=["/.env"], jails=[Jail("login", maxretry=2)]
    )
    for _ in range(2):
        ask("POST", "/login")
    for _ in range(3):
        ask()
    for path in ("/", "/", "/", "/", "/", "/", "/.env"):
        ask("GET", path, None, "198.51.100.7")
    assert counted("appguard_refused_total", app=app, reason="ban", name="login") == 3
    assert counted("appguard_refused_total", app=app, reason="limit", name="4/minute") == 2
    assert counted("appguard_refused_total", app=app, reason="trap", name="") == 1
    assert counted("appguard_events_total", app=app, event="authn_login_fail") == 2
    assert counted("appguard_events_total", app=app, event="guard_probe") == 1
    assert counted("appguard_bans_total", app=app, jail="login") == 1


def test_refusals_for_want_of_a_store_are_counted_apart() -> None:
    """They are no limit's doing."""
    dead = "redis://127.0.0.1:1/0"
    ask = starlette_site(name="dead-shop", counters=dead, limits=["4/minute"], on_store_error="closed")
    assert [ask().status for _ in range(6)] == [503] * 6
    assert counted("appguard_refused_total", app="dead-shop", reason="store", name="") == 6


def refused_statuses() -> list[int]:
    """Give what an app answers to requests that are too many."""
    ask = starlette_site(name="shared-shop", store="memory://", limits=["1/minute"])
    return [ask().status for _ in range(3)]


def test_counters_that_cannot_be_written_fail_no_request(tmp_path: Path) -> None:
    """Without the directory in which processes share counters requests are refused as ever; the log says it once."""
    code = "from tests.unit.test_hooks import refused_statuses; print(refused_statuses())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["PROMETHEUS_MULTIPROC_DIR"] = str(tmp_path / "gone")
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout == "[200, 429, 429]\n"
    assert told.stderr.count("not all is counted for Prometheus") == 1


FIRST_EVENTS = """
import sys
from threading import Barrier, Thread
from appguard.address import parse_address
from appguard.event import Event
from appguard.metrics import Metrics

sys.setswitchinterval(1e-6)
metrics, barrier = Metrics("shop"), Barrier(8)
event = Event("authn_login_fail", 0.0, parse_address("203.0.113.5"))


def tell():
    barrier.wait()
    metrics.event(event)


threads = [Thread(target=tell) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
from prometheus_client import REGISTRY
print(REGISTRY.get_sample_value("appguard_events_total", {"app": "shop", "event": "authn_login_fail"}))
"""


def test_prometheus_counts_the_first_events_of_threads() -> None:
    """Threads that come at once in a fresh process make the counters once: none fails, and every event is counted."""
    told = subprocess.run([sys.executable, "-c", FIRST_EVENTS], capture_output=True, text=True, check=True)
    assert (told.stdout, told.stderr) == ("8.0\n", "")
