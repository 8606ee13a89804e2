"""The files of contrib/nginx in a real nginx: it accepts them, and does with real requests what they say."""

import asyncio
import socket
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from appguard.address import parse_network
from appguard.event import LIMIT_EXCEEDED, LOGIN_FAIL, PROBE, TOKEN_FAIL, Event
from appguard.filters.nginx_json import NginxJsonFilter
from appguard.firewalls.base import Block
from appguard.firewalls.nginx_deny import NginxDeny
from appguard.sources.base import LINE_MOST
from tests.lab import free_port, wait_until
from tests.netns import run
from tests.nginx import CONTRIB, Nginx, contrib

pytestmark = pytest.mark.lab

BALANCER = "192.0.2.1"
CLIENT, OTHER = "203.0.113.5", "203.0.113.6"
CLIENT6, SAME_64, OTHER6 = "2001:db8:5:1::1", "2001:db8:5:1:f000::2", "2001:db8:5:2::1"
APP = """
server {{
    listen 127.0.0.1:{app};
    location = /login {{ return 401; }}
    location = /private {{ return 401; }}
    location = /gone {{ return 404; }}
    location / {{ return 200 "$http_x_forwarded_for $http_x_request_id"; }}
}}
server {{
    listen 127.0.0.1:{balancer};
    location / {{
        proxy_bind {address};
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_pass http://{address}:{site};
    }}
}}
server {{
    listen 127.0.0.1:{old};
    access_log {log} appguard;
    limit_req_status 503;
    limit_req zone=appguard_login;
    location / {{ empty_gif; }}
}}
"""


@pytest.fixture(scope="module", autouse=True)
def addresses() -> Iterator[None]:
    """Give the lab's loopback the addresses that clients and the balancer come from."""
    given = [f"{each}/32" for each in (BALANCER, CLIENT, OTHER)]
    given += [f"{each}/128" for each in (CLIENT6, SAME_64, OTHER6)]
    for each in given:
        run("ip", "address", "add", each, "dev", "lo", *(["nodad"] if ":" in each else []))
    yield
    for each in given:
        run("ip", "address", "delete", each, "dev", "lo")


class Site:
    """The example site as it ships, but for its ports and places, with an app and a load balancer."""

    def __init__(self, root: Path) -> None:
        self.port, self.app, self.balancer, self.old = (free_port() for _ in range(4))
        changes = {
            r"listen 80;": f"listen {self.port};",
            r"\[::\]:80": f"[::]:{self.port}",
            r"127\.0\.0\.1:8000": f"127.0.0.1:{self.app}",
            r"/var/log/nginx/": f"{root}/log/",
        }
        http = ("appguard-log.conf", "appguard-realip.conf", "appguard-limits.conf", "appguard-ban.conf")
        site = ("appguard-limits-site.conf", "appguard-ban-site.conf")
        ports = {"app": self.app, "balancer": self.balancer, "site": self.port, "old": self.old}
        around = APP.format(**ports, address=BALANCER, log=root / "log/appguard.log")
        self.nginx = Nginx(
            root,
            self.port,
            {f"conf.d/{name}": contrib(name) for name in http}
            | {f"snippets/{name}": contrib(name) for name in site}
            | {"sites-enabled/example.conf": contrib("example-site.conf", changes), "sites-enabled/app.conf": around},
        )

    def ask(self, path: str = "/", *, source: str = CLIENT, port: int = 0, **headers: str) -> HTTPResponse:
        """Send a request from an address and give the answer, which is read."""
        host = "::1" if ":" in source else "127.0.0.1"
        connection = HTTPConnection(host, port or self.port, timeout=5, source_address=(source, 0))
        try:
            method = "POST" if path.startswith("/login") else "GET"
            connection.request(method, path, headers={name.replace("_", "-"): text for name, text in headers.items()})
            answer = connection.getresponse()
            answer.read()
            return answer
        finally:
            connection.close()

    def send(self, request: bytes) -> bytes:
        """Send bytes as they are and give all that comes back."""
        with socket.create_connection(("127.0.0.1", self.port), 5, (CLIENT, 0)) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def events(self, lines: int) -> list[Event | None]:
        """Give what the filter makes of the log, once it has so many lines."""

        def read() -> list[bytes]:
            return self.nginx.log.read_bytes().splitlines()

        wait_until(lambda: len(read()) >= lines, 5, lambda: f"{lines} lines: {read()!r}")
        assert len(read()) == lines
        return [NginxJsonFilter().match(line, 0.0) for line in read()]


@pytest.fixture
def site(open_tmp_path: Path) -> Iterator[Site]:
    """Run the example site."""
    site = Site(open_tmp_path / "site")
    with site.nginx.running():
        yield site


def test_nginx_accepts_every_file(open_tmp_path: Path) -> None:
    """`nginx -t` has no complaint and no warning about the files together; one stands for another, and is left out."""
    site = Site(open_tmp_path / "site")
    assert "[warn]" not in site.nginx.check()
    used = {path.name for path in (site.nginx.root / "etc").rglob("*.conf")}
    assert {path.name for path in CONTRIB.glob("appguard-*.conf")} - used == {"appguard-syslog.conf"}


@pytest.mark.parametrize("name", ["log", "realip", "limits", "ban"])
def test_each_file_stands_alone(open_tmp_path: Path, name: str) -> None:
    """nginx accepts each file of http {} without the others, and with its part for a site."""
    part = CONTRIB / f"appguard-{name}-site.conf"
    files = {"conf.d/it.conf": contrib(f"appguard-{name}.conf")}
    if part.exists():
        files["snippets/it.conf"] = part.read_text()
        files["sites-enabled/it.conf"] = "server { listen 127.0.0.1:8080; include snippets/it.conf; }"
    assert "[warn]" not in Nginx(open_tmp_path / "one", 8080, files).check()


def test_over_the_limit_is_429_with_retry_after(site: Site) -> None:
    """A burst gets 429 with Retry-After, somebody else meanwhile 200, and every refusal is an event of the client."""
    answers = [site.ask() for _ in range(60)]
    assert site.ask(source=OTHER).status == 200
    counts = Counter(answer.status for answer in answers)
    assert set(counts) == {200, 429}
    assert counts[200] >= 41
    assert {answer.getheader("Retry-After") for answer in answers if answer.status == 429} == {"2"}
    assert not any(answer.getheader("Retry-After") for answer in answers if answer.status == 200)
    found = [event for event in site.events(61) if event]
    assert [(event.kind, event.address.text, event.status) for event in found] == [
        (LIMIT_EXCEEDED, CLIENT, 429)
    ] * counts[429]


def test_logins_are_limited_more_and_by_slash64(site: Site) -> None:
    """After five guesses of one /64 any address of it is refused, and another /64 not; each 401 is a failed login."""
    assert [site.ask("/login", source=CLIENT6).status for _ in range(5)] == [401] * 5
    refused = site.ask("/login", source=SAME_64)
    assert (refused.status, refused.getheader("Retry-After")) == (429, "2")
    assert site.ask("/login", source=OTHER6).status == 401
    found = Counter((event.kind, event.address.text) for event in site.events(7) if event)
    assert found == {(LOGIN_FAIL, CLIENT6): 5, (LIMIT_EXCEEDED, SAME_64): 1, (LOGIN_FAIL, OTHER6): 1}


def test_a_refusal_with_503_is_a_refusal(site: Site) -> None:
    """Where limit_req answers with its own 503, the event is the same."""
    assert [site.ask(port=site.old).status for _ in range(2)] == [200, 503]
    _, event = site.events(2)
    assert event is not None
    assert (event.kind, event.status, event.address.text) == (LIMIT_EXCEEDED, 503, CLIENT)


def test_the_client_behind_a_balancer_is_the_real_one(site: Site) -> None:
    """Behind the balancer the client is who connected to it, whatever it forwarded; the balancer is its way here."""
    site.ask("/gone", port=site.balancer)
    site.ask("/gone", port=site.balancer, X_Forwarded_For=f"{OTHER}, 198.51.100.7")
    site.ask("/gone", port=site.balancer, X_Forwarded_For=f"{OTHER}, {BALANCER}")
    for event in site.events(3):
        assert event is not None
        assert (event.kind, event.address.text, event.via) == (PROBE, CLIENT, (BALANCER,))


def test_the_client_behind_two_balancers_is_the_real_one(site: Site) -> None:
    """Where one balancer forwards to another, the client is who connected to the first, whatever it forwarded."""
    site.ask("/gone", source=BALANCER, X_Forwarded_For=f"{OTHER}, {CLIENT}, 2001:db8::1")
    (event,) = site.events(1)
    assert event is not None
    assert (event.address.text, event.via) == (CLIENT, (BALANCER,))


def test_who_is_no_balancer_forwards_nothing(site: Site) -> None:
    """A client that connects itself and pretends to have come through a balancer is that client."""
    site.ask("/gone", X_Forwarded_For=OTHER)
    (event,) = site.events(1)
    assert event is not None
    assert (event.address.text, event.via) == (CLIENT, ())


def test_the_app_hears_of_the_client_and_the_request_id(site: Site) -> None:
    """The app gets one address, the real client's, and the request id that the event has."""
    answer = site.send(
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.7\r\nX-Request-ID: mine\r\nConnection: close\r\n\r\n"
    )
    client, request_id = answer.split()[-2:]
    assert client == CLIENT.encode()
    site.events(1)
    assert b'"request_id":"' + request_id + b'"' in site.nginx.log.read_bytes()


def test_a_banned_client_gets_no_answer(site: Site) -> None:
    """A banned client's connection is closed without a byte, or has 403 through the balancer; others are served.

    What it still asks is no new failure: it is in the ordinary log and not in the daemon's. The ban ends.
    """
    firewall = NginxDeny(path=site.nginx.bans, reload=site.nginx.command("-s", "reload"), apart=0)
    request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert site.send(request).startswith(b"HTTP/1.1 200 ")
    asyncio.run(firewall.replace([], [Block.of(parse_network(CLIENT), None)]))
    wait_until(site.nginx.has_reloaded, 5, site.nginx.errors)
    assert site.send(request) == b""
    assert site.ask(port=site.balancer, X_Forwarded_For=OTHER).status == 403
    assert site.ask(port=site.balancer, source=OTHER).status == 200
    asyncio.run(firewall.lift())
    wait_until(site.nginx.has_reloaded, 5, site.nginx.errors)
    assert site.send(request).startswith(b"HTTP/1.1 200 ")
    assert ' 444 0 "-"' in (site.nginx.root / "log/access.log").read_text()
    assert ' 403 153 "-"' in (site.nginx.root / "log/access.log").read_text()
    assert not {'"status":"444"', '"status":"403"'} & set(site.nginx.log.read_text().split(","))


def basic(user: bytes) -> bytes:
    """Give the header of HTTP Basic for a user."""
    return b"Authorization: Basic " + b64encode(user + b":guess")


def test_credentials_make_a_401_a_failure(site: Site) -> None:
    """A 401 is a failed login with Basic, even for an empty name, a failed token with Bearer, and else a question."""
    sent = (basic(b"alice"), basic(b""), b"Authorization: bearer x", b"X: y", b"Authorization: Digest x")
    for header in sent:
        site.send(b"GET /private HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + header + b"\r\n\r\n")
    found = [event and (event.kind, event.user) for event in site.events(5)]
    assert found == [(LOGIN_FAIL, "alice"), (LOGIN_FAIL, ""), (TOKEN_FAIL, ""), None, None]


HOSTILE = (
    b'","status":"200","client":"198.51.100.66","x":"',
    b'\\","status":"200',
    b"\\",
    b"\xff\xfe\xed\xa0\x80",
    b"\x01\x7f\t\x1b[31m",
    b'{"time":1.000,"client":"198.51.100.66"',
)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_client_sends_forges_and_hides_nothing(site: Site, text: bytes) -> None:
    """Quotes, escapes, control characters and bytes that are no UTF-8 in what a client chooses fool nobody."""
    in_target = bytes(byte for byte in text if 32 < byte != 127)  # nginx answers 400 to others there
    request = b"POST /login?%b HTTP/1.1\r\nHost: x\r\nUser-Agent: %b\r\n%b\r\nConnection: close\r\n\r\n"
    assert site.send(request % (in_target, text, basic(text))).startswith(b"HTTP/1.1 401 ")
    (event,) = site.events(1)
    assert event is not None
    assert (event.kind, event.address.text, event.path, event.status) == (LOGIN_FAIL, CLIENT, "/login", 401)
    assert event.user_agent == text.decode(errors="replace").strip("\t")
    assert event.user == text.decode(errors="replace").partition(":")[0]


def test_a_long_request_hides_no_failed_login(site: Site) -> None:
    """The longest queries and the longest path that means the login are failed logins, though the line is cut."""
    long = 8100
    targets = (b"/login?" + b"a" * long, b"/login?" + b'"' * long, b"/x/.." * (long // 5) + b"/login")
    for target in targets:
        request = b"POST " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert site.send(request).startswith(b"HTTP/1.1 401 ")
    site.events(3)
    for line in site.nginx.log.read_bytes().splitlines():
        assert len(line) > LINE_MOST
        event = NginxJsonFilter().match(line[:LINE_MOST], 0.0)
        assert event is not None
        assert (event.kind, event.address.text) == (LOGIN_FAIL, CLIENT)
