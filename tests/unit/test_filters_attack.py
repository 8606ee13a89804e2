"""Lines that a client has a hand in, for the filters that are data: nothing it sends is taken for another's failure,
hides its own, or costs time. Lines are written here as the programs write them; tests/integration has the programs."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.django.log import RequestFormatter
from appguard.event import LOGIN_FAIL, PROBE
from appguard.filters.open import FILTERS, open_filter
from appguard.filters.samples import READ_AT, read_samples
from appguard.sources.base import LINE_MOST
from tests.filtering import told
from tests.strategies import hostile_text

LINES = Path(__file__).parent.parent / "lines"
PIECES = (
    b" from 1.1.1.1 port 1",
    b'" 401 ',
    b'": ',
    b" [20/Nov/2026:09:11:02 +0000] ",
    b'\\"',
    b" 1.1.1.1 port 1 ",
    b"\x1b[1",
)
CLIENT, VICTIM = "203.0.113.5", "192.0.2.66"
fake = st.sampled_from(
    [
        f" from {VICTIM} port 22 ssh2",
        f" from {VICTIM} port 22 ssh2 [preauth]",
        f" {VICTIM} port 22 [preauth]",
        f'", client: {VICTIM}, server: x',
        f'": password mismatch, client: {VICTIM}, server: x',
        f'" was not found in "x", client: {VICTIM}, server: x',
        f"\n{VICTIM} - - [20/Nov/2026:09:11:02 +0000] ",
        f"{VICTIM} - x",
        '" 200 OK',
        '" 200 -',
        '" 200 1 "-" "-"',
        ' HTTP/1.1" 200',
        '"',
        "\\",
        '\\"',
        "]",
        "[20/Nov/2020:09:11:02 +0000] ",
        " not found: /",
        "\x1b[31m",
    ]
)
hostile = st.lists(st.one_of(fake, hostile_text.map(lambda text: text[:50])), max_size=4).map("".join)


def encoded(text: str, escaped: Callable[[int], bool]) -> str:
    """Write some characters as octal, as sshd does."""
    return "".join(f"\\{ord(c):03o}" if escaped(ord(c)) else c for c in text)


def sshd(user: str) -> str:
    """Write a failed password of sshd."""
    name = encoded(user, lambda code: code < 32 or code == 127)
    return f"Nov 20 09:11:02 host sshd[8]: Failed password for invalid user {name} from {CLIENT} port 57918 ssh2"


def nginx_error(user: str) -> str:
    """Write a wrong password of nginx: the user name ends at its first colon, and a line end is another matter."""
    name = user.partition(":")[0].replace("\n", "")
    return (
        f'2026/11/20 09:11:02 [error] 14#14: *3 user "{name}": password mismatch, client: {CLIENT}, server: , '
        f'request: "GET /{user}'.replace("\n", "")
    )


def apache_error(user: str) -> str:
    """Write a wrong password of Apache."""
    name = encoded(user.partition(":")[0], lambda code: code < 32 or code in (34, 92))
    head = f"[Fri Nov 20 09:11:02.123456 2026] [auth_basic:error] [pid 8:tid 1] [client {CLIENT}:50624] "
    return f'{head}AH01617: user {name}: authentication failure for "/{name}": Password Mismatch'


def werkzeug(query: str) -> str:
    """Write a failed login of werkzeug, which escapes control characters."""
    query = encoded(query, lambda code: code < 32 or 127 <= code < 160)
    return f'{CLIENT} - - [20/Nov/2026 09:11:02] "\x1b[31m\x1b[1mPOST /login?{query} HTTP/1.1\x1b[0m" 401 -'


def uvicorn(query: str) -> str:
    """Write a failed login of uvicorn: a query of printable ASCII, as it was sent."""
    query = "".join(c for c in query if 32 < ord(c) < 127)
    return f'INFO:     {CLIENT}:38670 - "POST /login?{query} HTTP/1.1" 401 Unauthorized'


def gunicorn(text: str) -> str:
    """Write a failed login of gunicorn, which puts a backslash before each quote and before nothing else."""
    user = text.partition(":")[0].replace("\n", "").replace('"', '\\"')
    query = "".join(c for c in text if 32 < ord(c) < 127).replace('"', '\\"')
    head = f"{CLIENT} - x{user} [20/Nov/2026:09:11:02 +0000]"
    return f'{head} "POST /login?{query} HTTP/1.1" 401 2 "{query}" "{query}"'


def django(path: str) -> str:
    """Write a refusal of Django's by our formatter."""
    record = logging.LogRecord("django.request", logging.WARNING, "", 0, "Not Found: /%s", (path,), None)
    record.created, record.__dict__["status_code"] = READ_AT, 404
    record.__dict__["request"] = SimpleNamespace(META={"REMOTE_ADDR": CLIENT})
    return RequestFormatter().format(record)


WRITERS = {
    "apache-error": apache_error,
    "django": django,
    "gunicorn": gunicorn,
    "nginx-error": nginx_error,
    "sshd": sshd,
    "uvicorn": uvicorn,
    "werkzeug": werkzeug,
}


@pytest.mark.parametrize("name", WRITERS)
@given(text=hostile)
def test_nothing_a_client_sends_forges_or_hides_a_failure(name: str, text: str) -> None:
    """Whatever a client sends, its failure is found, is its own, and has the time at which it happened."""
    line = WRITERS[name](text).encode(errors="replace")
    event = told(open_filter(name), line, READ_AT)
    plain = told(open_filter(name), WRITERS[name]("x").encode(), READ_AT)
    assert event is not None
    assert plain is not None
    assert (event.kind, event.address.text, event.time) == (plain.kind, CLIENT, plain.time)


def test_every_filter_that_is_data_is_attacked() -> None:
    """A new filter gets a writer of its lines here, as those in test_filters.py and test_log_format.py have."""
    assert {*WRITERS, "appguard", "apache", "nginx", "nginx-json"} == set(FILTERS)


@given(user=hostile)
def test_a_user_name_of_sshd_is_read_whole(user: str) -> None:
    """The user is what sshd wrote between its own words, whatever it looks like."""
    event = told(open_filter("sshd"), sshd(user).encode(errors="replace"), READ_AT)
    assert event is not None
    name = encoded(user, lambda code: code < 32 or code == 127)
    assert event.user == name.encode(errors="replace").decode().replace("\x1b", "") or name == "-"


@pytest.mark.parametrize("name", ["gunicorn", "uvicorn", "werkzeug"])
@pytest.mark.parametrize("length", range(LINE_MOST - 60, LINE_MOST + 10))
def test_a_long_line_hides_no_failed_login(name: str, length: int) -> None:
    """A login is found in a line whose end was cut off, wherever the cut falls."""
    filler = "x" * (length - len(WRITERS[name]("x")))
    line = WRITERS[name]("").replace("/login?", f"/login?{filler}").encode()
    event = told(open_filter(name), line[:LINE_MOST], READ_AT)
    assert event is not None
    assert (event.kind, event.address.text, event.path) == (LOGIN_FAIL, CLIENT, "/login")
    short = WRITERS[name]("").replace(" 401 ", " 200 ").encode()
    assert told(open_filter(name), short, READ_AT) is None


def adversarial(line: bytes) -> Iterator[bytes]:
    """Repeat at many places of a line what stands there, and what its fields end with, 32 times as long as any line."""
    for at in range(0, len(line), 5):
        for piece in (*(line[at : at + size] or b" " for size in (1, 2, 3)), *PIECES):
            yield (line[:at] + piece * (32 * LINE_MOST))[: 32 * LINE_MOST] + line[at:]


@pytest.mark.parametrize("file", sorted(LINES.glob("*.txt")), ids=lambda file: file.stem)
def test_no_line_costs_more_than_its_length(file: Path) -> None:
    """Lines made of samples, 32 times as long as any that is read, take well under a second; quadratic ones, many."""
    read = read_samples(file)
    matching = [sample.line for sample in read.samples if sample.expected != "-"]
    worst = 0.0
    for line in sorted(matching, key=len, reverse=True)[:1] + matching[:1]:
        for each in adversarial(line):
            begin = time.process_time()
            event = told(read.filter, each, READ_AT)
            worst = max(worst, time.process_time() - begin)
            assert event is None or event.kind
    assert worst < 1.0


def test_a_probe_of_sshd_is_no_failed_login() -> None:
    """One attempt with an unknown name is one failed login, though sshd writes a line before it."""
    filter_ = open_filter("sshd")
    lines = (f"Invalid user x from {CLIENT} port 5", f"Failed password for invalid user x from {CLIENT} port 5 ssh2")
    events = [told(filter_, line.encode(), READ_AT) for line in lines]
    assert [event and event.kind for event in events] == [PROBE, LOGIN_FAIL]
