"""Every option of a limit through FastAPI, Starlette, Flask, Django sync and Django async: the same answers."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from appguard import Limit, Request
from tests.frameworks.sites import RIGHT, SITES, WRONG, Site

BOB = "198.51.100.7"
IN = {"X-Password": "wonderland"}


@pytest.fixture(params=SITES, name="make")
def make_site(request: pytest.FixtureRequest) -> Callable[..., Site]:
    """Give the maker of the site in each framework."""
    made: Callable[..., Site] = SITES[request.param]
    return made


def guarded(make: Callable[..., Site], *limits: Limit, **more: object) -> Site:
    """Give a site with limits and nothing else."""
    return make(store="memory://", limits=limits, event_log="logger", **more)


def as_user(name: str, **more: str) -> Mapping[str, str]:
    """Give the headers of a login."""
    return {"X-User": name, **more}


@pytest.mark.parametrize("count", ["auth_failure", "4xx", [401]])
@pytest.mark.parametrize("path", ["/login", ""])
@pytest.mark.parametrize("burst", [0, 5])
def test_five_wrong_passwords(make: Callable[..., Site], count: str | list[int], path: str, burst: int) -> None:
    """Right logins use up nothing; after five wrong ones nobody gets in from there, by a right one either."""
    ask = guarded(make, Limit("5/hour", path=path, count=count, burst=burst))  # type: ignore[arg-type]
    assert [ask("POST", "/login", IN).status for _ in range(20)] == [200] * 20
    assert [ask("POST", "/login").status for _ in range(5)] == [401] * 5
    assert [ask("POST", "/login", headers).status for headers in ({}, IN)] == [429, 429]
    assert ask(path="/").status == (200 if path else 429)
    assert ask("POST", "/login", IN, peer=BOB).status == 200


def test_basic_credentials(make: Callable[..., Site]) -> None:
    """A wrong one repeated counts once, a right one never, and different wrong ones fill the limit."""
    ask = guarded(make, Limit("2/hour", count="auth_failure"))
    assert [ask(path="/basic", headers={"Authorization": WRONG}).status for _ in range(9)] == [401] * 9
    assert [ask(path="/basic", headers={"Authorization": RIGHT}).status for _ in range(9)] == [200] * 9
    assert [ask(path="/basic").status for _ in range(9)] == [401] * 9
    other = {"Authorization": "Basic Ym9iOmJvYg=="}
    assert [ask(path="/basic", headers=other).status for _ in range(2)] == [401, 429]
    assert ask(path="/basic", headers={"Authorization": RIGHT}).status == 429


def test_lock_out_of_a_user(make: Callable[..., Site]) -> None:
    """After three wrong passwords from anywhere a user, however spelled, is locked, and a right one shows nothing."""
    ask = guarded(make, Limit("3/hour", key="user", count="auth_failure"))
    addresses = [f"192.0.2.{number}" for number in range(1, 4)]
    assert [ask("POST", "/login", as_user("alice"), peer=peer).status for peer in addresses] == [401] * 3
    for name in ("alice", " ALICE ", "\uff41lice".encode().decode("latin-1")):
        for headers in (as_user(name), as_user(name, **IN)):
            refused = ask("POST", "/login", headers, peer=BOB)
            assert (refused.status, refused.text) == (
                429,
                "Too many requests. Try again in 3600 s.\n",
            ) or "\xef" in name
    assert [ask("POST", "/login", as_user("bob", **IN)).status for _ in range(9)] == [200] * 9
    assert ask().status == 200


def test_lock_out_of_a_user_by_basic_credentials(make: Callable[..., Site]) -> None:
    """Where the request itself names the user, a locked one's guess does not reach the app."""
    ask = guarded(make, Limit("1/hour", key="user", count="auth_failure"))
    assert ask(path="/basic", headers={"Authorization": WRONG}).status == 401
    assert ask(path="/basic", headers={"Authorization": RIGHT}, peer=BOB).status == 429
    assert ask(path="/basic", headers={"Authorization": "Basic Ym9iOmJvYg=="}, peer=BOB).status == 401


def test_successes_may_be_counted(make: Callable[..., Site]) -> None:
    """Only logins that worked count."""
    ask = guarded(make, Limit("2/hour", path="/login", count="auth_success"))
    assert [ask("POST", "/login").status for _ in range(5)] == [401] * 5
    assert [ask("POST", "/login", IN).status for _ in range(3)] == [200, 200, 429]


def test_scanner_is_counted_by_its_404s(make: Callable[..., Site]) -> None:
    """What was found does not count; what was not does, and then nothing is served."""
    ask = guarded(make, Limit("3/hour", count=[404]))
    assert [ask().status for _ in range(9)] == [200] * 9
    assert [ask(path=f"/{number}.php").status for number in range(4)] == [404, 404, 404, 429]
    assert (ask().status, ask(peer=BOB).status) == (429, 200)


def api_key(request: Request) -> str:
    """Give the key that a request sends."""
    return request.header("X-API-Key")


@pytest.mark.parametrize("key", ["api_key", "header:X-Api-Key", api_key])
def test_by_api_key(make: Callable[..., Site], key: str | Callable[[Request], str]) -> None:
    """Each key has its own amount wherever it comes from; without one the address counts, and each apart."""
    ask = guarded(make, Limit("2/hour", name="keys", key=key))
    assert [ask(headers={"X-API-Key": "one"}, peer=peer).status for peer in ("192.0.2.1", BOB, BOB)] == [200, 200, 429]
    assert [ask(headers={"X-API-Key": "two"}).status for _ in range(3)] == [200, 200, 429]
    assert [ask().status for _ in range(3)] == [200, 200, 429]
    assert ask(peer=BOB).status == 200


def test_functions_see_the_request(make: Callable[..., Site]) -> None:
    """Cost, rate and exemption are asked for each request, with the client, the method, the path and the headers."""
    seen: list[tuple[str, str, str]] = []

    def cost(request: Request) -> int:
        seen.append((request.address, request.method, request.path))
        return 5 if request.path == "/denied" else 1

    def rate(request: Request) -> str:
        return "100/hour" if request.header("X-Plan") == "gold" else "10/hour"

    ask = guarded(make, Limit(rate, cost=cost, exempt=lambda request: request.header("X-Monitor") == "yes"))
    assert [ask(path="/denied").status for _ in range(3)] == [403, 403, 429]
    assert seen[0] == ("203.0.113.5", "GET", "/denied")
    assert ask(headers={"X-Monitor": "yes"}).status == 200
    gold = {"X-Plan": "gold"}
    assert [ask(path="/denied", headers=gold).status for _ in range(21)] == [403] * 20 + [429]
    assert ask(headers={"X-Plan": "gold"}).status == 429


def fail(_request: Request) -> str:
    """Fail as a user's function may."""
    raise RuntimeError("database is down")


def test_failing_functions_fail_no_request(make: Callable[..., Site], caplog: pytest.LogCaptureFixture) -> None:
    """The address, the usual cost and no exemption hold instead, and the log says why, once each."""
    limit = Limit("2/hour", name="odd", key=fail, cost=fail, exempt=fail)  # type: ignore[arg-type]
    ask = guarded(make, limit, Limit(fail, name="no rate"))
    assert [ask().status for _ in range(3)] == [200, 200, 429]
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert sorted(error.partition(" failed: ")[0] for error in errors) == [
        "limit no rate: its rate",
        "limit odd: its cost",
        "limit odd: its exempt",
        "limit odd: its key",
    ]
    assert all(error.endswith("RuntimeError: database is down") for error in errors)


def test_dry_run_counts_and_logs_and_refuses_nothing(
    make: Callable[..., Site], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What it would refuse stands in the log once a second; no event tells a jail of it."""
    log = tmp_path / "events.jsonl"
    limits = [Limit("2/hour", dry_run=True), Limit("2/hour", key="user", count="auth_failure", dry_run=True)]
    ask = make(store="memory://", limits=limits, event_log=str(log))
    assert [ask().status for _ in range(9)] == [200] * 9
    lines = [record.getMessage() for record in caplog.records if "dry run" in record.getMessage()]
    assert lines == ["limit 2/hour, in dry run, would refuse 203.0.113.5 GET '/'"]
    assert [ask("POST", "/login", as_user("alice"), peer=BOB).status for _ in range(5)] == [401] * 5
    assert "of auth_failure, in dry run, would refuse 198.51.100.7 POST '/login'" in caplog.text
    assert "rate_limit" not in log.read_text()


def test_burst(make: Callable[..., Site]) -> None:
    """So many at once, and then the wait of one token."""
    ask = guarded(make, Limit("60/hour", burst=3))
    assert [ask().status for _ in range(4)] == [200, 200, 200, 429]
    assert ask().headers["retry-after"] in ("59", "60")


def test_get_includes_head_and_shared_limits_count_together(make: Callable[..., Site]) -> None:
    """A HEAD is a GET without its body; limits of one shared name are one bucket, another name is another."""
    ask = guarded(
        make,
        Limit("2/hour", path="/", methods=["GET"], shared="pages"),
        Limit("2/hour", path="/denied", shared="pages"),
        Limit("2/hour", path="/nowhere"),
    )
    assert ask("HEAD").status in (200, 405)  # FastAPI's own answer
    assert [ask(path="/denied").status, ask().status, ask("HEAD").status] == [403, 429, 429]
    assert ask("POST").status in (200, 405)
    assert [ask(path="/nowhere").status for _ in range(3)] == [404, 404, 429]
