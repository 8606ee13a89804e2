"""The logs of real servers, asked by hostile clients: each filter finds in them what happened, and nothing else."""

import re
import socket
import sys
from base64 import b64encode
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import time

import pytest

from appguard.event import ACCESS_FAIL, LIMIT_EXCEEDED, LOGIN_FAIL, PROBE, Event
from appguard.filters.base import Filter
from appguard.filters.log_format import LogFormatFilter
from appguard.filters.open import open_filter
from tests.filtering import told
from tests.lab import Process, free_port, is_listening, wait_until
from tests.nginx import Nginx

pytestmark = pytest.mark.lab

CHECKOUT = Path(__file__).parents[2]
VICTIM = "192.0.2.66"
FLASK = """
from flask import Flask
app = Flask(__name__)
app.add_url_rule("/login", "login", lambda: ("no", 401), methods=["POST"])
app.add_url_rule("/private", "private", lambda: ("no", 401))
app.add_url_rule("/forbidden", "forbidden", lambda: ("no", 403))
app.add_url_rule("/", "page", lambda: "page")
"""
ASGI = """
ANSWERS = {"/login": 401, "/private": 401, "/forbidden": 403, "/": 200}
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": ANSWERS.get(scope["path"], 404), "headers": []})
        await send({"type": "http.response.body", "body": b"page"})
"""
DJANGO = """
import re
from pathlib import Path
from django.conf import settings
found = {{}}
exec(re.search(r"(?ms)^```python\\n(LOGGING = .*?)^```", Path({docs!r}).read_text())[1], found)
found["LOGGING"]["handlers"]["appguard"]["filename"] = {log!r}
settings.configure(ALLOWED_HOSTS=["x"], ROOT_URLCONF=__name__, LOGGING=found["LOGGING"], SECRET_KEY="x",
    MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"])
import django
django.setup()
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.http import HttpResponse
from django.urls import path
def deny(request):
    raise PermissionDenied
def suspicious(request):
    raise SuspiciousOperation("bad value " + request.GET.get("q", ""))
def broken(request):
    raise ValueError("bad value " + request.GET.get("q", ""))
def ok(request):
    return HttpResponse("page")
def unauthorized(request):
    return HttpResponse("no", status=401)
urlpatterns = [path("forbidden", deny), path("suspicious", suspicious), path("broken", broken), path("", ok),
    path("login", unauthorized)]
from django.core.wsgi import get_wsgi_application
app = get_wsgi_application()
"""
SITE = """
limit_req_zone $binary_remote_addr zone=one:1m rate=1r/m;
log_format tabs '$msec\\t$remote_addr\\t$remote_user\\t$request\\t$http_user_agent\\t$status';
log_format js escape=json '{{"t":"$time_iso8601","ip":"$remote_addr","user":"$remote_user","request":"$request",'
    '"agent":"$http_user_agent","status":$status}}';
server {{
    listen 127.0.0.1:{port};
    access_log {root}/log/combined.log combined;
    access_log {root}/log/tabs.log tabs;
    access_log {root}/log/js.log js;
    root {root}/html;
    log_not_found {not_found};
    location = /login {{ return 401; }}
    location = /private {{ auth_basic x; auth_basic_user_file {root}/etc/htpasswd; }}
    location = /forbidden {{ deny all; }}
    location = /often {{ limit_req zone=one; limit_req_status 429; }}
}}
"""


def basic(credentials: str) -> bytes:
    """Give the header of Basic credentials."""
    return b"Authorization: Basic " + b64encode(credentials.encode()) + b"\r\n"


def send(port: int, method: str, target: str, more: bytes = b"") -> None:
    """Send a request as it is and wait until it is answered."""
    length = b"Content-Length: 0\r\n" if method == "POST" else b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(
            f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode() + length + more + b"\r\n"
        )
        while client.recv(65536):
            pass


QUOTES = 'a"_401_-_b\\"_\\\\"_x'
FORGED_ACCESS = f"x\n{VICTIM} - y"


def send_what_every_server_answers(port: int) -> None:
    """Fail to log in twice, be refused once, probe twice, and do nothing wrong three times."""
    send(port, "POST", "/login")
    send(port, "POST", f"/login?{QUOTES}", b"User-Agent: " + QUOTES.encode() + b"\r\n")
    send(port, "GET", "/forbidden")
    send(port, "GET", "/wp-login.php")
    send(port, "GET", f"/nothing?{QUOTES}")
    send(port, "GET", "/")
    send(port, "GET", f"/?{QUOTES}", b"Referer: x\\\r\n")
    send(port, "GET", "/private")


EXPECTED = sorted([LOGIN_FAIL] * 2 + [ACCESS_FAIL] + [PROBE] * 2)


@contextmanager
def serving(directory: Path, port: int, *command: str, code: str = "") -> Generator[Process]:
    """Run a server of this environment until the end of the block."""
    (directory / "site_app.py").write_text(code)
    process = Process(
        "server", [sys.executable, "-m", *command], directory=directory, environment={"HOME": str(directory)}
    )
    try:
        wait_until(lambda: is_listening(port), 20, process.output)
        yield process
    finally:
        process.stop()


def events_of(made: Filter, lines: Sequence[bytes]) -> list[Event]:
    """Give the events of lines."""
    return [event for line in lines if (event := told(made, line, time())) is not None]


def kinds_of(events: Sequence[Event]) -> list[str]:
    """Give the kinds, sorted, of events that must all be ours and of now."""
    assert {event.address.text for event in events} == {"127.0.0.1"}
    assert all(abs(event.time - time()) < 60 for event in events)
    return sorted(event.kind for event in events)


def lines_of(process: Process) -> list[bytes]:
    """Give the output so far as a source would."""
    return [line.text.encode() for line in process.lines()]


def last_of(process: Process) -> None:
    """Ask for the last page until its line is written."""
    wait_until(lambda: "/private" in process.output(), 10, process.output)


@pytest.mark.parametrize("colour", [True, False])
def test_werkzeug(tmp_path: Path, colour: bool) -> None:
    """The development server of Flask, coloured as it is by itself, and without colours."""
    port = free_port()
    command = ["flask", "--app", "site_app", "run", "--port", str(port)]
    with serving(tmp_path, port, *command, code=FLASK) as server:
        send_what_every_server_answers(port)
        last_of(server)
        lines = lines_of(server)
    assert any(b"\x1b[" in line for line in lines)
    if not colour:
        lines = [re.sub(rb"\x1b\[[0-9;]*m", b"", line) for line in lines]
    events = events_of(open_filter("werkzeug"), lines)
    assert kinds_of(events) == EXPECTED
    assert {event.path for event in events} == {"/login", "/forbidden", "/wp-login.php", "/nothing"}


@pytest.mark.parametrize("colour", ["--use-colors", "--no-use-colors"])
def test_uvicorn(tmp_path: Path, colour: str) -> None:
    """uvicorn's access log with and without colours."""
    port = free_port()
    with serving(tmp_path, port, "uvicorn", "site_app:app", "--port", str(port), colour, code=ASGI) as server:
        send_what_every_server_answers(port)
        last_of(server)
        lines = lines_of(server)
    assert any(b"\x1b[" in line for line in lines) == (colour == "--use-colors")
    events = events_of(open_filter("uvicorn"), lines)
    assert kinds_of(events) == EXPECTED
    assert {event.path for event in events} == {"/login", "/forbidden", "/wp-login.php", "/nothing"}


def safe_format() -> str:
    """Give the access_log_format that the documentation recommends for gunicorn."""
    found = re.search(r"--access-logformat '(.*)'", (CHECKOUT / "docs/filters.md").read_text())
    assert found is not None
    assert found[1] in open_filter("gunicorn").warnings[0]  # type: ignore[attr-defined]  # it is a DataFilter
    return found[1]


@pytest.mark.parametrize("is_safe", [False, True])
def test_gunicorn(tmp_path: Path, is_safe: bool) -> None:
    """gunicorn's access log, by default with user names, and in the format we recommend, which no client can forge."""
    port = free_port()
    command = ["gunicorn", "site_app:app", "--bind", f"127.0.0.1:{port}", "--access-logfile", "-"]
    command += ["--access-logformat", safe_format()] if is_safe else []
    with serving(tmp_path, port, *command, code=FLASK) as server:
        send_what_every_server_answers(port)
        send(port, "GET", "/private?2", basic('al"ice\\:x'))
        last_of(server)
        wait_until(lambda: "/private?2" in server.output(), 10, server.output)
        events = events_of(open_filter("gunicorn"), lines_of(server))
        send(port, "GET", "/private?3", basic(f"{FORGED_ACCESS}:x"))
        wait_until(lambda: "/private?3" in server.output(), 10, server.output)
        forged = [
            event for event in events_of(open_filter("gunicorn"), lines_of(server)) if event.address.text == VICTIM
        ]
    assert kinds_of(events) == sorted(EXPECTED + ([] if is_safe else [LOGIN_FAIL]))
    assert [event.user for event in events if event.user] == ([] if is_safe else ['al\\"ice\\'])
    assert bool(forged) != is_safe, "the note on gunicorn is not true any more"


def test_django(tmp_path: Path) -> None:
    """Django's warnings through our formatter, with the LOGGING of the documentation: no client ends a line."""
    port, log = free_port(), tmp_path / "django.log"
    code = DJANGO.format(docs=str(CHECKOUT / "docs/filters.md"), log=str(log))
    line_end = f"%0A2026-11-20T09:11:02Z%20{VICTIM}%20404%20django.request%20Not%20Found:%20/"
    with serving(tmp_path, port, "gunicorn", "site_app:app", "--bind", f"127.0.0.1:{port}", code=code) as server:
        send(port, "GET", "/forbidden")
        send(port, "GET", f"/nothing{line_end}")
        send(port, "GET", f"/suspicious?q={line_end}")
        send(port, "GET", f"/broken?q={line_end}")
        send(port, "POST", "/")
        send(port, "GET", "/login")
        send(port, "GET", "/", b"Host: evil\r\n")
        send(port, "GET", "/")
        wait_until(lambda: log.read_bytes().count(b"\n") >= 6, 10, server.output)
    lines = log.read_bytes().splitlines()
    assert all(re.match(rb"20[0-9T:.-]+Z 127\.0\.0\.1 ", line) for line in lines), lines
    assert any(b"django.security.SuspiciousOperation bad value" in line for line in lines)
    events = events_of(open_filter("django"), lines)
    assert kinds_of(events) == sorted([ACCESS_FAIL, PROBE, PROBE, ACCESS_FAIL, LOGIN_FAIL])


def nginx(root: Path, not_found: str) -> Nginx:
    """Give an nginx that knows one user, alice, and writes the same requests to several logs."""
    port = free_port()
    made = Nginx(root, port, {"conf.d/site.conf": SITE.format(root=root, port=port, not_found=not_found)})
    (root / "etc" / "htpasswd").write_text("alice:$apr1$x$y\n")
    (root / "html").mkdir()
    (root / "html" / "index.html").write_text("page")
    (root / "html" / "often").write_text("page")
    return made


def formats_of(root: Path) -> dict[str, str]:
    """Give the directives of the site, by name, as a user would copy them."""
    text = (root / "etc/conf.d/site.conf").read_text()
    return {found[1]: found[0] for found in re.finditer(r"log_format (\w+)[^;]*;", text)}


@pytest.mark.parametrize("not_found", ["on", "off"])
def test_nginx(open_tmp_path: Path, not_found: str) -> None:
    """nginx's logs in three formats and its error log tell the same; only the error log can be forged, as we warn."""
    site = nginx(open_tmp_path / "nginx", not_found)
    logs = site.root / "log"
    known = "%0A2026/11/20%2009:11:02%20[error]%207%237:%20*1%20"
    line_end = f"{known}access%20forbidden%20by%20rule,%20client:%20{VICTIM},%20server:%20_"
    with site.running():
        send_what_every_server_answers(site.port)
        send(site.port, "GET", "/private", basic("alice:wrong"))
        send(site.port, "GET", "/private", basic('x" was not found in "y", client:x'))
        send(site.port, "GET", "/private", basic("a\nb [x] \t200:x"))
        send(site.port, "GET", "/often")
        send(site.port, "GET", "/often")
        send(site.port, "GET", f"/{line_end}")
        send(site.port, "GET", "/end")
        wait_until(lambda: b"/end" in (logs / "js.log").read_bytes(), 10, site.errors)
    expected = sorted([*EXPECTED, *[LOGIN_FAIL] * 3, LIMIT_EXCEEDED, PROBE, PROBE])
    filters = {name: LogFormatFilter(name, text) for name, text in formats_of(site.root).items()}
    for name, made in {"combined": open_filter("nginx"), **filters}.items():
        events = events_of(made, (logs / f"{name}.log").read_bytes().splitlines())
        assert kinds_of(events) == expected, name
        assert {"alice"} < {event.user for event in events}
    errors = events_of(open_filter("nginx-error"), (logs / "error.log").read_bytes().splitlines())
    forged = [event for event in errors if event.address.text == VICTIM]
    assert bool(forged) == (not_found == "on"), "the note on nginx-error is not true any more"
    rest = [event for event in errors if event not in forged]
    assert kinds_of(rest) == sorted([ACCESS_FAIL, LIMIT_EXCEEDED, LOGIN_FAIL, LOGIN_FAIL])
    assert [event.user for event in rest if event.user] == ["alice", 'x" was not found in "y", client']
