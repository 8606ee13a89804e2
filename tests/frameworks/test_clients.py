"""Whose request it is: the socket's peer, the client behind a trusted proxy, or unknown and then said aloud, once."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

import pytest
from django.core.handlers.asgi import ASGIHandler
from fastapi import FastAPI, Request

from appguard import AppGuard, report_auth_failure
from appguard.config import AppOptions
from tests.frameworks.asgi_client import ALICE, MALLORY, Caller, EventFile, Headers
from tests.frameworks.sites import django_handler

PROXY = ("10.1.2.3", 40000)
LIMITED = [200, 429]
UNLIMITED = [200, 200]


class Shop:
    """An app whose page reports a failed login each time; one request per hour and client."""

    def __init__(self, directory: Path, **options: Unpack[AppOptions]) -> None:
        app = FastAPI()
        app.add_api_route("/", self._page)
        self.events = EventFile(directory / "events.jsonl")
        settings: AppOptions = {"limits": ["1/hour"], "event_log": str(self.events), **options}
        self.app = AppGuard(app, **settings)

    @staticmethod
    async def _page(request: Request) -> None:
        report_auth_failure(request)

    def statuses(self, peer: tuple[str, int] | None, headers: Headers = ()) -> list[int]:
        """Send two requests from a peer."""
        return Caller(self.app, peer).statuses(2, headers=headers)

    def clients(self) -> list[object]:
        """Give the addresses of the failed logins recorded."""
        return [event["source_ip"] for event in self.events.read() if event["event"] == "authn_login_fail"]

    def via(self) -> object:
        """Give the proxies of the first event."""
        return self.events.read()[0].get("via", [])


class Said(logging.Handler):
    """Keeps what is logged, the start line excepted."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        if not record.getMessage().startswith("AppGuard protects"):
            self.records.append(record)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[list[logging.LogRecord]]:
    """Give what AppGuard logs."""
    said = Said()
    logger = logging.getLogger("appguard")
    logger.addHandler(said)
    with caplog.at_level(logging.INFO, "appguard"):
        yield said.records
    logger.removeHandler(said)


def test_a_header_forged_from_outside_changes_nothing(tmp_path: Path, said: list[logging.LogRecord]) -> None:
    """A stranger's forwarding headers are not looked at: no new client, no new bucket, no complaint."""
    shop = Shop(tmp_path)
    caller = Caller(shop.app, (MALLORY, 1))
    for number, header in enumerate(["x-forwarded-for", "forwarded", "x-real-ip"]):
        assert caller.get(headers={header: f"192.0.2.{number}"}).status == (429 if number else 200)
    assert shop.clients() == [MALLORY]
    assert said == []


def test_a_trusted_proxy_is_believed_from_the_right(tmp_path: Path) -> None:
    """The client is the right-most hop that is no trusted proxy; what stands left of it was written by strangers."""
    shop = Shop(tmp_path, trusted_proxies=["10.0.0.0/8"])
    forged = {"x-forwarded-for": f"192.0.2.1, {ALICE}"}
    assert shop.statuses(PROXY, forged) == LIMITED
    assert shop.statuses(PROXY, {"x-forwarded-for": f"192.0.2.2, {ALICE}"}) == [429, 429]
    assert shop.statuses(PROXY, {"x-forwarded-for": MALLORY}) == LIMITED
    assert shop.clients() == [ALICE, MALLORY]
    assert shop.via() == ["10.1.2.3"]


def test_all_headers_of_a_chain_of_proxies_are_walked(tmp_path: Path) -> None:
    """Several header lines are one list, and all trusted proxies on the way are remembered, the nearest first."""
    shop = Shop(tmp_path, trusted_proxies=["10.0.0.0/8", "2001:db8:f::1"])
    shop.statuses(PROXY, [("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-For", f"{ALICE}:5123, [2001:db8:f::1]:443")])
    assert shop.clients() == [ALICE]
    assert shop.via() == ["10.1.2.3", "2001:db8:f::1"]


def test_the_forwarded_header_is_read_where_it_is_configured(tmp_path: Path) -> None:
    """`forwarding_header="forwarded"` reads RFC 7239 and no longer X-Forwarded-For."""
    shop = Shop(tmp_path, trusted_proxies=["10.0.0.0/8"], forwarding_header="forwarded")
    shop.statuses(PROXY, {"forwarded": f'for=192.0.2.1, for="{ALICE}:99";proto=https', "x-forwarded-for": MALLORY})
    assert shop.clients() == [ALICE]


@pytest.mark.parametrize("peer", ["127.0.0.1", "10.1.2.3", "172.17.0.1", "192.168.0.9", "::1", "fd00::1"])
def test_a_private_peer_that_forwards_but_is_not_trusted(
    tmp_path: Path, said: list[logging.LogRecord], peer: str
) -> None:
    """Its clients are unknown: no limit, no event, and one ERROR with the exact line to add."""
    shop = Shop(tmp_path)
    for number in range(3):
        assert shop.statuses((peer, 1), {"x-forwarded-for": f"192.0.2.{number}"}) == UNLIMITED
    assert shop.events.read() == []
    (error,) = said
    assert error.levelno == logging.ERROR
    assert f'add trusted_proxies=["{peer}"]' in error.getMessage()


def test_a_private_peer_that_forwards_nothing_is_a_client(tmp_path: Path) -> None:
    """Somebody on the local network who comes without a proxy is limited like anybody."""
    shop = Shop(tmp_path)
    assert shop.statuses(("192.168.0.9", 1)) == LIMITED
    assert shop.clients() == ["192.168.0.9"]


@pytest.mark.parametrize("peer", [None, ("", 0)])
def test_a_unix_socket_peer(tmp_path: Path, said: list[logging.LogRecord], peer: tuple[str, int] | None) -> None:
    """Without a setting its clients are unknown, and one ERROR gives the setting."""
    shop = Shop(tmp_path)
    assert shop.statuses(peer, {"x-forwarded-for": ALICE}) == UNLIMITED
    assert shop.events.read() == []
    (error,) = said
    assert error.levelno == logging.ERROR
    assert 'add trusted_proxies=["unix:"]' in error.getMessage()


@pytest.mark.parametrize("peer", [None, ("", 0)])
def test_a_unix_socket_peer_that_is_trusted(
    tmp_path: Path, said: list[logging.LogRecord], peer: tuple[str, int] | None
) -> None:
    """With `unix:` whoever connects over the socket is believed."""
    shop = Shop(tmp_path, trusted_proxies=["unix:"])
    assert shop.statuses(peer, {"x-forwarded-for": f"192.0.2.1, {ALICE}"}) == LIMITED
    assert shop.clients() == [ALICE]
    assert said == []


def test_a_trusted_unix_socket_peer_that_forwards_nothing(tmp_path: Path, said: list[logging.LogRecord]) -> None:
    """The ERROR does not give the setting that is there, but what the proxy lacks."""
    shop = Shop(tmp_path, trusted_proxies=["unix:"])
    assert shop.statuses(None) == UNLIMITED
    (error,) = said
    assert error.levelno == logging.ERROR
    assert "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;" in error.getMessage()
    assert 'trusted_proxies=["unix:"]' not in error.getMessage()


def test_the_test_client_is_no_reason_to_complain(tmp_path: Path, said: list[logging.LogRecord]) -> None:
    """A user's own suite sees no limit, no event, and nothing above INFO."""
    shop = Shop(tmp_path)
    assert shop.statuses(("testclient", 50000)) == UNLIMITED
    assert shop.events.read() == []
    assert [record.levelno for record in said] == [logging.INFO]


@pytest.mark.parametrize("hop", ["unknown", "_hidden", "", f"{ALICE}, ", "1.2.3", "::ffff:1.2.3.4.5"])
def test_a_trusted_proxy_that_forwards_no_address(tmp_path: Path, said: list[logging.LogRecord], hop: str) -> None:
    """The client is unknown, never the hop to the left of what cannot be read."""
    shop = Shop(tmp_path, trusted_proxies=["10.0.0.0/8"])
    assert shop.statuses(PROXY, {"x-forwarded-for": hop}) == UNLIMITED
    assert shop.events.read() == []
    (error,) = said
    assert error.levelno == logging.ERROR
    assert "which is no address" in error.getMessage()


@pytest.mark.parametrize(("configured", "sent"), [("x-forwarded-for", "forwarded"), ("forwarded", "x-forwarded-for")])
def test_a_trusted_proxy_that_sends_the_other_header(
    tmp_path: Path, said: list[logging.LogRecord], configured: str, sent: str
) -> None:
    """All clients would look like the proxy: they are unknown instead, and the ERROR names the setting."""
    shop = Shop(tmp_path, trusted_proxies=["10.0.0.0/8"], forwarding_header=configured)
    assert shop.statuses(PROXY, {sent: "for=192.0.2.1"}) == UNLIMITED
    assert shop.events.read() == []
    (error,) = said
    assert f"add forwarding_header='{sent}'" in error.getMessage()


def test_a_rewritten_peer_is_the_client(tmp_path: Path, said: list[logging.LogRecord]) -> None:
    """Where only the server trusts the proxy (port 0), its word is taken, also for a client in a private network."""
    shop = Shop(tmp_path)
    assert shop.statuses((ALICE, 0), {"x-forwarded-for": ALICE}) == LIMITED
    assert shop.statuses(("192.168.0.9", 0), {"x-forwarded-for": "192.168.0.9"}) == LIMITED
    assert shop.clients() == [ALICE, "192.168.0.9"]
    assert said == []


def test_django_sees_a_peer_that_the_server_has_rewritten() -> None:
    """Under ASGI its port is a number in Django's META: a client in a private network has its limit there too."""
    app = django_handler(ASGIHandler, {"limits": ["1/hour"], "store": "memory://", "event_log": "logger"})
    assert Caller(app, ("192.168.0.9", 0)).statuses(2, headers={"x-forwarded-for": "192.168.0.9"}) == LIMITED


@pytest.mark.parametrize("proxies", [["127.0.0.1"], ["unix:"]])
def test_trust_in_two_places_is_named_once(tmp_path: Path, said: list[logging.LogRecord], proxies: list[str]) -> None:
    """A server that rewrites the peer while AppGuard trusts proxies too gives one WARNING that says what to do."""
    shop = Shop(tmp_path, trusted_proxies=proxies)
    assert shop.statuses((ALICE, 0), {"x-forwarded-for": ALICE}) == LIMITED
    assert shop.statuses((MALLORY, 0), {"x-forwarded-for": MALLORY}) == LIMITED
    assert shop.clients() == [ALICE, MALLORY]
    (warning,) = said
    assert warning.levelno == logging.WARNING
    assert "uvicorn --no-proxy-headers" in warning.getMessage()


def test_a_proxy_the_server_did_not_know_of_is_not_the_client(tmp_path: Path) -> None:
    """The server stopped its walk at a load balancer that AppGuard trusts: the walk goes on to the client behind."""
    shop = Shop(tmp_path, trusted_proxies=["127.0.0.1", "10.0.0.0/8"])
    header = {"x-forwarded-for": f"192.0.2.1, {ALICE}, 10.1.2.3"}
    assert shop.statuses(("10.1.2.3", 0), header) == LIMITED
    assert shop.clients() == [ALICE]
