"""AppGuard under the real uvicorn, on loopback ports and unix sockets."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from appguard.address import parse_network
from appguard.ban import Ban, Fact
from appguard.stores.local import Publisher
from tests.frameworks.asgi_client import ALICE, MALLORY, EventFile
from tests.lab import Process, running, wait_until

CHECKOUT = Path(__file__).parents[2]


def server(settings: dict[str, object], *options: str) -> Process:
    """Start uvicorn with the served app; warnings of Python are errors."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-m", "uvicorn", "tests.integration.served_app:app"]
    return Process("uvicorn", [*command, *options], environment={"SETTINGS": json.dumps(settings)}, directory=CHECKOUT)


class Server:
    """A running server on a loopback port, and one connection to it that is kept alive."""

    def __init__(self, process: Process) -> None:
        self.process = process
        found = re.search(r"http://127\.0\.0\.1:(\d+)", process.wait_for("Uvicorn running on").text)
        assert found is not None
        self.port = int(found[1])
        self.connection = HTTPConnection("127.0.0.1", self.port, timeout=10)

    def get(self, path: str = "/", headers: dict[str, str] | None = None, method: str = "GET") -> HTTPResponse:
        """Send a request; its body is read."""
        self.connection.request(method, path, headers=headers or {})
        reply = self.connection.getresponse()
        self.body = reply.read()
        return reply

    def status(self, path: str = "/", headers: dict[str, str] | None = None) -> int:
        """Send a GET; give the status."""
        return self.get(path, headers).status


@contextmanager
def serving(settings: dict[str, object], *options: str) -> Generator[Server]:
    """Serve on a free port; at the end the server must stop in order, without a word that something was left open."""
    with running(server(settings, "--port", "0", *options)) as process:
        found = Server(process)
        try:
            yield found
        finally:
            found.connection.close()
        process.send(signal.SIGTERM)
        process.wait()
        process.wait_for("Finished server process")
        assert "Traceback" not in process.output()
        assert "Warning" not in process.output()


@pytest.fixture
def events(tmp_path: Path) -> EventFile:
    """Give the event log."""
    return EventFile(tmp_path / "events.jsonl")


def curl(socket: Path, *arguments: str) -> str:
    """Ask a server at a unix socket; give the status."""
    command = ["curl", "--silent", "--show-error", "--max-time", "10", "--unix-socket", str(socket)]
    done = subprocess.run(
        [*command, "--output", "/dev/null", "--write-out", "%{http_code}", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@contextmanager
def serving_at(socket: Path, settings: dict[str, object], *options: str) -> Generator[Process]:
    """Serve at a unix socket."""
    with running(server(settings, "--uds", str(socket), *options)) as process:
        process.wait_for("Uvicorn running on")
        yield process


def test_the_peer_of_a_unix_socket_is_unknown(tmp_path: Path, events: EventFile) -> None:
    """Through a unix socket all clients look the same: no limit, no event, one ERROR with the line to add."""
    socket = tmp_path / "app.sock"
    with serving_at(socket, {"limits": ["1/hour"], "event_log": str(events)}) as process:
        for _ in range(3):
            assert curl(socket, "-H", f"X-Forwarded-For: {ALICE}", "http://shop/login") == "401"
        process.wait_for('add trusted_proxies=["unix:"]')
    assert process.output().count('add trusted_proxies=["unix:"]') == 1
    assert events.read() == []


def test_a_trusted_unix_socket_forwards_clients(tmp_path: Path, events: EventFile) -> None:
    """With `unix:` the proxy at the socket is believed, from the right, and its clients are told apart."""
    socket = tmp_path / "app.sock"
    settings: dict[str, object] = {"limits": ["1/hour"], "event_log": str(events), "trusted_proxies": ["unix:"]}
    with serving_at(socket, settings) as process:
        forged = ["-H", f"X-Forwarded-For: {MALLORY}, {ALICE}", "http://shop/login"]
        assert [curl(socket, *forged), curl(socket, *forged)] == ["401", "429"]
        assert curl(socket, "-H", f"X-Forwarded-For: {MALLORY}", "http://shop/login") == "401"
    assert "ERROR" not in process.output()
    failures = [event["source_ip"] for event in events.read() if event["event"] == "authn_login_fail"]
    assert failures == [ALICE, MALLORY]


def test_uvicorns_own_trust_is_enough(events: EventFile) -> None:
    """With uvicorn's defaults a proxy on loopback is believed by uvicorn, and AppGuard takes its word."""
    with serving({"limits": ["1/hour"], "event_log": str(events)}) as shop:
        for client in (ALICE, MALLORY, "10.9.9.9"):
            assert shop.status("/login", {"X-Forwarded-For": client}) == 401
            assert shop.status("/login", {"X-Forwarded-For": client}) == 429
        assert "ERROR" not in shop.process.output()
    failures = [event["source_ip"] for event in events.read() if event["event"] == "authn_login_fail"]
    assert failures == [ALICE, MALLORY, "10.9.9.9"]


def test_trust_in_two_places_is_named_once(events: EventFile) -> None:
    """Proxy headers read by uvicorn and by AppGuard: one warning, and the right clients all the same."""
    with serving({"event_log": str(events), "trusted_proxies": ["127.0.0.1"]}) as shop:
        for _ in range(3):
            assert shop.status("/login", {"X-Forwarded-For": f"192.0.2.1, {ALICE}"}) == 401
        shop.process.wait_for("uvicorn --no-proxy-headers")
        assert shop.process.output().count("uvicorn --no-proxy-headers") == 1
    assert {event["source_ip"] for event in events.read()} == {ALICE}


def test_appguards_own_trust_is_enough(events: EventFile) -> None:
    """With --no-proxy-headers AppGuard walks the header itself and remembers the proxy."""
    settings: dict[str, object] = {"event_log": str(events), "trusted_proxies": ["127.0.0.1"]}
    with serving(settings, "--no-proxy-headers") as shop:
        assert shop.status("/login", {"X-Forwarded-For": f"192.0.2.1, {ALICE}"}) == 401
    (event,) = events.read()
    assert (event["source_ip"], event["via"]) == (ALICE, ["127.0.0.1"])


def test_nobodys_trust_is_an_error_that_says_what_to_add(events: EventFile) -> None:
    """A proxy on loopback that nobody was told of: its clients are unknown, and one ERROR gives the line."""
    with serving({"limits": ["1/hour"], "event_log": str(events)}, "--no-proxy-headers") as shop:
        for _ in range(3):
            assert shop.status("/login", {"X-Forwarded-For": ALICE}) == 401
        shop.process.wait_for('add trusted_proxies=["127.0.0.1"]')
        assert shop.process.output().count("trusted_proxies") == 1
    assert events.read() == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"limts": ["5/minute"]}, ["limts", "did you mean 'limits'?"]),
        ({"limits": ["5/fortnight"]}, ["limits", "5/fortnight"]),
        ({"store": "redis//localhost"}, ["store", "redis//localhost"]),
        ({"trusted_proxies": ["nginx"]}, ["trusted_proxies", "nginx"]),
    ],
)
def test_a_wrong_setting_ends_uvicorn(settings: dict[str, object], said: Sequence[str]) -> None:
    """The server does not start; it says which key is wrong in one line and no traceback."""
    with running(server(settings, "--port", "0")) as process:
        assert process.wait() != 0
        line = process.wait_for("AppGuard: ").text
        for word in said:
            assert word in line
        assert "Traceback" not in process.output()
        assert "Uvicorn running" not in process.output()


def test_without_a_lifespan_a_wrong_setting_fails_every_request() -> None:
    """With --lifespan off nobody is served unprotected: each request is a 500 with the message in the log."""
    with running(server({"limts": ["5/minute"]}, "--port", "0", "--lifespan", "off")) as process:
        shop = Server(process)
        for _ in range(2):
            assert shop.status() == 500
            shop.connection.close()  # so does uvicorn after an exception
        process.wait_for("unknown key 'limts'")


def test_a_refused_request_leaves_the_connection_usable() -> None:
    """GET, HEAD and a POST with a body are refused on one connection, which goes on."""
    with serving({"limits": ["1/hour"], "exempt_paths": ["/end"]}) as shop:
        assert shop.status() == 200
        for method in ("GET", "HEAD", "GET"):
            refused = shop.get(method=method)
            assert (refused.status, bool(shop.body)) == (429, method == "GET")
            assert int(refused.headers["retry-after"]) > 3000
        shop.connection.request("POST", "/", body=b"x" * 100_000)
        assert shop.connection.getresponse().read().startswith(b"Too many requests")
        assert shop.status("/end") == 200


def test_a_stream_is_not_held_back() -> None:
    """The first chunk arrives while the app still waits before its second."""
    with serving({}) as shop:
        shop.connection.request("GET", "/stream")
        reply = shop.connection.getresponse()
        assert reply.readline() == b"one\n"
        other = HTTPConnection("127.0.0.1", shop.port, timeout=10)
        other.request("GET", "/end")
        assert other.getresponse().read() == b"ended"
        other.close()
        assert reply.read() == b"two\n"


def test_a_client_that_hangs_up_in_a_stream_disturbs_nothing() -> None:
    """A dropped connection ends its own request only."""
    with serving({}) as shop:
        shop.connection.request("GET", "/stream")
        shop.connection.getresponse().readline()
        shop.connection.close()
        assert shop.status() == 200
        assert shop.status("/end") == 200


def test_a_wrong_basic_password_is_an_event_without_the_password(events: EventFile) -> None:
    """Over a real connection, bytes that are no UTF-8 included; the password is nowhere."""
    credential = b64encode(b"caf\xe9:s3cr3t").decode()
    with serving({"event_log": str(events)}, "--log-level", "trace") as shop:
        assert shop.status("/basic") == 401
        assert shop.status("/basic", {"Authorization": f"Basic {credential}"}) == 401
        output = shop.process.output()
    (event,) = events.read()
    assert (event["event"], event["user"], event["count"]) == ("authn_login_fail", "caf\ufffd", 1)
    for text in (events.path.read_text(), output):
        assert "s3cr3t" not in text
        assert credential not in text


def test_workers_share_the_event_file(events: EventFile) -> None:
    """Two worker processes write one line for each of a few hundred failures."""
    settings: dict[str, object] = {"event_log": str(events), "limits": []}
    with running(server(settings, "--port", "0", "--workers", "2")) as process:
        shop = Server(process)
        wait_until(lambda: process.output().count("Application startup complete") == 2, 20, process.output)
        for number in range(200):
            assert shop.status("/login", {"X-Forwarded-For": f"192.0.2.{number}"}) == 401
            shop.connection.close()  # the next one may be another worker's
    assert [event["source_ip"] for event in events.read()] == [f"192.0.2.{number}" for number in range(200)]


def test_a_ban_published_meanwhile_holds_at_the_next_request(tmp_path: Path) -> None:
    """The daemon's files change while the server runs; the banned client's next request is a 403."""
    publisher = Publisher(tmp_path)
    publisher.publish_all([])
    now = time.time()
    ban = Ban(parse_network(ALICE), "login", now, now + 600, version=1)
    with serving({"store": f"local://{tmp_path}"}) as shop:
        assert shop.status(headers={"X-Forwarded-For": ALICE}) == 200
        publisher.publish([Fact(ban.network, ban.version, ban)], list)
        assert shop.status(headers={"X-Forwarded-For": ALICE}) == 403
        assert ban.ref in shop.body.decode()
        assert shop.status(headers={"X-Forwarded-For": MALLORY}) == 200
    publisher.close()


def test_events_on_standard_error() -> None:
    """`event_log="stderr"` gives the lines to whoever collects the server's output, also the last before its end."""
    with serving({"event_log": "stderr", "name": "shop"}) as shop:
        assert shop.status("/login", {"X-Forwarded-For": ALICE}) == 401
    lines = [line.text for line in shop.process.lines() if line.text.startswith('{"time":')]
    assert len(lines) == 1
    assert f'"source_ip":"{ALICE}"' in lines[0]


def test_a_full_disk_fails_no_request(tmp_path: Path, events: EventFile) -> None:
    """With a file that may not grow the answers stay the app's own, and the events are in the server's output."""
    limited = ["prlimit", "--fsize=300", *server_command()]
    environment = {"SETTINGS": json.dumps({"event_log": str(events)}), "PYTHONDONTWRITEBYTECODE": "1"}
    with running(Process("uvicorn", limited, environment=environment, directory=CHECKOUT)) as process:
        shop = Server(process)
        for _ in range(5):
            assert shop.status("/login", {"X-Forwarded-For": ALICE}) == 401
        process.wait_for("cannot be written, events go to the logger")
        wait_until(lambda: process.output().count('"user":"alice"') >= 3, 5, process.output)
        shop.connection.close()
    assert events.path.stat().st_size == 300


def server_command() -> list[str]:
    """Give the command of a server on a free port."""
    return [sys.executable, "-m", "uvicorn", "tests.integration.served_app:app", "--port", "0"]


def test_a_fifo_in_place_of_the_event_log_holds_nothing_up(tmp_path: Path) -> None:
    """A FIFO that nobody reads is no file: requests are answered at once, events go to the output."""
    fifo = tmp_path / "events.jsonl"
    os.mkfifo(fifo)
    with serving({"event_log": str(fifo)}) as shop:
        assert shop.status("/login", {"X-Forwarded-For": ALICE}) == 401
        shop.process.wait_for(f"event log {fifo} cannot be written")
