"""Every parser of bytes from outside, each as a function of bytes that raises nothing but what the parser documents.

The suite draws bytes, and texts of `pieces.txt` in any order (`test_parsers.py`); `scripts/fuzz` lets atheris find
bytes that reach further (`run.py`).
"""

import math
import re
import socket
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

from appguard.address import Address, parse_address, parse_network
from appguard.ban import Fact
from appguard.errors import AddressError, ConfigError, EventError, StoreError
from appguard.event import Event, parse_line
from appguard.fail2ban_jails import read_jails
from appguard.filters.base import Filter, Named, TellsBriefly, TellsHost
from appguard.filters.dates import DatePattern
from appguard.filters.expression import Budget, OverBudget
from appguard.filters.fail2ban import parse_name, read_filter
from appguard.filters.open import FILTERS, open_filter
from appguard.firewalls.netlink import attributes, code_of, messages
from appguard.followed_bans import read_answer
from appguard.proxies import ClientFinder, Proxies, forwarded_for, parse_hop
from appguard.sources.base import LINE_MOST
from appguard.sources.generation import parse_position, position_text
from appguard.sources.journal_entry import parse_entry
from appguard.sources.lines import LineBuffer
from appguard.sources.syslog_message import parse_message
from appguard.stores.redis_records import fields_of, parse_record, record_of
from tests.control import DictionaryDaemon, serving

NOW = 1_795_000_000.0
ANSWERS = {200, 400, 403, 404, 405, 409, 413}  # that the control API documents for a request, but 500
REQUESTS = (
    "POST /v1/bans",
    "POST /v1/confirm",
    "PUT /v1/enforce",
    "POST /v1/explain",
    "DELETE /v1/bans/{}",
    "GET /v1/jails/{}",
    "GET /v1/bans?jail={}",
)  # one more is any bytes
PROXY = parse_network("192.0.2.0/24")


PATTERN_MOST = 1000  # bytes
PIECES = Path(__file__).parent / "pieces.txt"
LONG = (b"9" * 5000, b"[" * 3000, b'{"a":' * 3000)

Run = Callable[[bytes], None]
Ready = Callable[[], AbstractContextManager[Run]]  # gives a parser with all that it needs


def plain(run: Run) -> Ready:
    """Give a parser that needs nothing around it."""
    return lambda: nullcontext(run)


def _pattern_and_line(data: bytes) -> tuple[str, bytes]:
    """Part an input into what an administrator may have written, at a length one may have, and a line."""
    pattern, _, line = data.partition(b"\n")
    return _text(pattern[:PATTERN_MOST]), line


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def read_with(made: Filter, line: bytes, time: float = NOW) -> None:
    """Let a filter read a line of a source in every way: within its bounds, without a line end."""
    line = line.replace(b"\n", b" ")[:LINE_MOST]
    if isinstance(made, TellsBriefly):
        assert len(made.briefs([line], [time]).whats) == 1
    if isinstance(made, TellsHost):
        assert len(made.hosts_of([line])) == 1
    event = made.match(line, time)
    if isinstance(event, Named):
        event = event.event_of(parse_address("192.0.2.1"))
    if event is not None:
        assert isinstance(event, Event)
        assert isinstance(event.address, Address)
        assert parse_line(event.to_line()).kind == event.kind


def own_filter(name: str) -> Ready:
    """Give one of our filters, opened only when it is to be run."""
    return lambda: nullcontext(partial(read_with, open_filter(name)))


def event_line(data: bytes) -> None:
    """Read an event line; one that is read can be written, and says the same then."""
    with suppress(EventError):
        event = parse_line(data.decode(errors="replace"))
        assert parse_line(event.to_line()).address == event.address


def log_format(data: bytes) -> None:
    """Compile the first line as a format, and read the rest with it."""
    text, line = _pattern_and_line(data)
    with suppress(ConfigError):
        read_with(open_filter("log_format:" + text), line)


def json_fields(data: bytes) -> None:
    """Take the first line as the names of fields, and read the rest with them."""
    text, _, line = data.partition(b"\n")
    with suppress(ConfigError):
        read_with(open_filter("json:" + _text(text)), line)


def regex(data: bytes) -> None:
    """Take the first line as a regex, and search the rest with it."""
    text, line = _pattern_and_line(data)
    with suppress(ConfigError):
        read_with(open_filter("regex", {"failregex": text}), line)


def dates(data: bytes) -> None:
    """Find a date of the known formats."""
    _find_date(_known_dates(), _text(data))


_known_dates = cache(DatePattern)


def datepattern(data: bytes) -> None:
    """Take the first line as a pattern, and find such a date in the rest."""
    text, line = _pattern_and_line(data)
    with suppress(ConfigError):
        _find_date(DatePattern([text]), _text(line))


def _find_date(pattern: DatePattern, line: str) -> None:
    with suppress(OverBudget):
        found = pattern.find(line, Budget())
        if found is not None:
            seconds = pattern.seconds(found, NOW)
            assert seconds is None or math.isfinite(seconds)


def fail2ban_filter(data: bytes) -> None:
    """Read a filter file of fail2ban's, and make the filter that it is."""
    with TemporaryDirectory() as directory:
        file = Path(directory) / "x.conf"
        file.write_bytes(data)
        with suppress(ConfigError):
            read_filter(str(file))
            open_filter(f"fail2ban:{file}")


def fail2ban_name(data: bytes) -> None:
    """Part a filter's name and its parameters."""
    with suppress(ConfigError):
        parse_name(_text(data))
        open_filter(f"fail2ban:{_text(data)}")


def fail2ban_jails(data: bytes) -> None:
    """Read the jails of a fail2ban configuration."""
    with TemporaryDirectory() as directory:
        (Path(directory) / "jail.conf").write_bytes(data)
        with suppress(ConfigError):
            read_jails(Path(directory))


def syslog(data: bytes) -> None:
    """Read a syslog message, and its line with a filter, at the time it tells."""
    message = parse_message(data, NOW)
    if message is not None:
        assert b"\n" not in message.line
        read_with(_sshd("file"), message.line, message.time)


def journal(data: bytes) -> None:
    """Read a journal entry, and its line with a filter, at the time it tells."""
    with suppress(ValueError):
        entry = parse_entry(data)
        assert b"\n" not in entry.line
        _raise_other(lambda: read_with(_sshd("journal"), entry.line, entry.time))


def _raise_other(act: Callable[[], None]) -> None:
    """Let nothing pass for the error that a parser documents."""
    try:
        act()
    except ValueError as error:
        raise AssertionError(f"a filter raises nothing: {error!r}") from error


@cache
def _sshd(logtype: str) -> Filter:
    return open_filter("sshd", logtype=logtype)


def lines(data: bytes) -> None:
    """Split bytes that come in two parts: the lines are the same as of the whole."""
    middle = len(data) // 2
    one, two = LineBuffer(64), LineBuffer(64)
    parts = [*one.add(data[:middle]), *one.add(data[middle:]), *one.end()]
    assert parts == [*two.add(data), *two.end()]
    assert all(len(line) <= 64 for line in parts)


def position(data: bytes) -> None:
    """Read the saved position of a log."""
    with suppress(ValueError, RecursionError):
        position_text(parse_position(_text(data)))


def forwarded(data: bytes) -> None:
    """Find the client in a forwarding header of either kind, behind a proxy."""
    text = data.decode("latin-1")  # as servers give headers
    finder = ClientFinder(Proxies((PROXY,)))
    for header in (text, forwarded_for(text)):
        client = finder.behind(finder.peer("192.0.2.1"), header)
        assert (client.address is None) == bool(client.unknown)
    finder.peer(text)


def address(data: bytes) -> None:
    """Read an address, a network and a hop."""
    text = _text(data)
    for parse in (parse_address, parse_network):
        with suppress(AddressError):
            parse(text)
    parse_hop(text)


def redis_record(data: bytes) -> None:
    """Read a fact as Redis keeps it; what is read can be written, and is the same then."""
    network, _, record = data.partition(b" ")
    fact = parse_record(network, record, 0.5)
    if fact is not None:
        assert isinstance(fact, Fact)
        again = parse_record(network, record_of(fields_of(fact, 0.5, "new")), 0.5)
        assert again is not None
        assert (again.key, again.version) == (fact.key, fact.version)


def daemon_answer(data: bytes) -> None:
    """Read what the daemon tells a bouncer."""
    with suppress(StoreError):
        read_answer(data)


def netlink(data: bytes) -> None:
    """Read the kernel's answers, and the attributes in them."""
    with suppress(OSError):
        for _, _, _, body in messages(data):
            code_of(body)
            for _, value in attributes(body):
                list(attributes(value))


@contextmanager
def control() -> Generator[Run]:
    """Serve the control API, and send requests."""
    with TemporaryDirectory() as directory:
        daemon, path = DictionaryDaemon(), Path(directory) / "control.sock"
        with serving(daemon, path):
            yield partial(_request, daemon, path)


def _request(daemon: DictionaryDaemon, path: Path, data: bytes) -> None:
    """Send what the first byte chooses; the rest is its body, the end of its path, or the whole request."""
    daemon.kept.clear()
    number, rest = data[:1][0] % (len(REQUESTS) + 1) if data else 0, data[1:]
    if number == len(REQUESTS):
        _exchange(path, rest, is_all=True)
        return
    method, _, target = REQUESTS[number].partition(" ")
    body = b"" if "{}" in target else rest
    quoted = "".join(f"%{byte:02X}" for byte in rest[:500])
    head = f"{method} {target.format(quoted)} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = _exchange(path, head.encode() + body)
    assert answer.startswith(b"HTTP/1.1 "), answer
    assert int(answer[9:12]) in ANSWERS, answer


def _exchange(path: Path, request: bytes, *, is_all: bool = False) -> bytes:
    """Give what is answered to a request; `is_all` ends the connection behind it: who wants an answer keeps it."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        with suppress(BrokenPipeError):  # refused before all of it was written
            client.sendall(request)
            if is_all:
                client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


TARGETS: dict[str, Ready] = {
    **{f"filter-{name}": own_filter(name) for name in FILTERS},
    **{
        name: plain(run)
        for name, run in {
            "event-line": event_line,
            "log-format": log_format,
            "json-fields": json_fields,
            "regex": regex,
            "dates": dates,
            "datepattern": datepattern,
            "fail2ban-filter": fail2ban_filter,
            "fail2ban-name": fail2ban_name,
            "fail2ban-jails": fail2ban_jails,
            "syslog": syslog,
            "journal": journal,
            "lines": lines,
            "position": position,
            "forwarded": forwarded,
            "address": address,
            "redis-record": redis_record,
            "daemon-answer": daemon_answer,
            "netlink": netlink,
        }.items()
    },
    "control": control,
}


def pieces_of(name: str) -> list[bytes]:
    """Give the texts that the input of a target is made of."""
    section = "filter" if name.startswith("filter-") else name
    found = [*LONG]
    for word in _sections()[section]:
        found += pieces_of(word[1:]) if word[:1] == "@" and word[1:] in _sections() else [_unescaped(word)]
    return list(dict.fromkeys(found))


@cache
def _sections() -> dict[str, list[str]]:
    parts = re.split(r"(?m)^\[([a-z0-9-]+)\]$", PIECES.read_text())
    return {name: text.split() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def _unescaped(word: str) -> bytes:
    return word.encode().decode("unicode_escape").encode("latin-1")
