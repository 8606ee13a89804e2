"""nginx's own log, written by the real nginx under wrk and curl: every client that failed too often is banned once."""

from pathlib import Path

import pytest

from tests.daemon import running_daemon
from tests.traffic import LINES_PER_CLIENT, Traffic, Watching, replay_seconds

pytestmark = pytest.mark.lab

LINES = 20_000


@pytest.mark.parametrize("form", ["nginx", "nginx-json"])
def test_every_failing_client_is_banned_once_and_no_other(open_tmp_path: Path, form: str) -> None:
    """Live and replayed, the daemon counts the failures and bans the clients that awk finds in the same log."""
    traffic = Traffic(open_tmp_path / "nginx")
    traffic.log(form).touch()
    live = Watching(open_tmp_path / "live", traffic.log(form), form, reads_all=True)
    with traffic.nginx.running(), running_daemon(live.place) as daemon:
        traffic.drive(LINES)
        expected = traffic.count(form)
        live.must_find(expected, daemon)
    assert {"203.0.113.251", "203.0.113.254"} <= expected.banned
    assert not {"203.0.113.252", "203.0.113.253"} & expected.banned
    assert 100 < len(expected.banned) < 0.7 * LINES / LINES_PER_CLIENT  # a third of the clients never fail
    assert traffic.count("nginx") == traffic.count("nginx-json")
    replay_seconds(traffic, open_tmp_path / "replay", form)
