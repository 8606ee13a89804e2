"""Event: one frozen record of what happened, and its one-line JSON form.

The line is the wire format between app and daemon. Its first three keys are always `time`, `event`, `source_ip`, in
this order, and everything a stranger can choose stands behind them inside JSON strings, so a regular expression
anchored on these three cannot be fooled by a user name. Kinds are names of the OWASP logging vocabulary; our own
additions start with `guard_`. Readers ignore keys they do not know.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple, cast

from appguard.address import Address, parse_address
from appguard.errors import AddressError, EventError

LOGIN_FAIL = "authn_login_fail"
LOGIN_SUCCESS = "authn_login_success"
TOKEN_FAIL = "authn_token_fail"  # noqa: S105 - the name of an event
ACCESS_FAIL = "authz_fail"
LIMIT_EXCEEDED = "excess_rate_limit_exceeded"
PROBE = "guard_probe"
REQUEST = "guard_request"  # any request, whatever became of it: yielded by filters that are told a jail counts it
BAN = "guard_ban"  # a jail has banned the address: what a jail with the source "bans" counts
KINDS = (LOGIN_FAIL, LOGIN_SUCCESS, TOKEN_FAIL, ACCESS_FAIL, LIMIT_EXCEEDED, PROBE, REQUEST, BAN)

USER_MOST = 256
PATH_MOST = 1024
TEXT_MOST = 256
LINE_MOST = 8_000  # characters; readers look at the first 8 KiB of a line
SHORT_TEXT = 64
VIA_MOST = 32
COUNT_MOST = 1_000_000
TIME_MOST = 2.0**36  # the year 4147: what lies beyond, or before 1970, cannot be written as a date with any zone
LOGIN_PATHS = ("login", "signin", "token")


class Event(NamedTuple):
    """What happened, who did it, when (Unix seconds), and the details.

    `count` is what a jail adds: 0 for a repetition that must not count again. `jail` names the jail that has already
    counted the event in the app. It is a tuple because one is made of every line that counts, and a frozen dataclass
    takes five times as long to make.
    """

    kind: str
    time: float
    address: Address
    count: int = 1  # type: ignore[assignment]  # hides what counts in a tuple
    app: str = ""
    user: str = ""
    method: str = ""
    path: str = ""
    status: int = 0
    via: tuple[str, ...] = ()
    request_id: str = ""
    user_agent: str = ""
    jail: str = ""

    def to_line(self) -> str:
        """Write the event as one line of JSON without a line end. Long fields are cut."""
        record: dict[str, object] = {
            "time": time_text(self.time),
            "event": self.kind,
            "source_ip": self.address.text,
            "count": self.count,
            "app": self.app[:TEXT_MOST],
            "user": self.user[:USER_MOST],
            "method": self.method[:TEXT_MOST],
            "path": self.path[:PATH_MOST],
            "status": self.status,
            "via": list(self.via[:VIA_MOST]),
            "request_id": self.request_id[:TEXT_MOST],
            "user_agent": self.user_agent[:TEXT_MOST],
            "jail": self.jail,
        }
        kept = {key: value for key, value in record.items() if value not in ("", [], 0) or key == "count"}
        line = json.dumps(kept, separators=(",", ":"))  # ASCII, so that no reader meets an undecodable byte
        if len(line) <= LINE_MOST:
            return line
        # Escapes make a character up to twelve; a line that readers cut would be an event that never happened.
        short = {key: value[:SHORT_TEXT] if isinstance(value, str) else value for key, value in kept.items()}
        return json.dumps(short, separators=(",", ":"))


What = tuple[str, int]  # kind and status


def is_time(seconds: float) -> bool:
    """Say whether something may have happened at this time (Unix seconds)."""
    return 0 <= seconds < TIME_MOST


def time_text(seconds: float) -> str:
    """Write Unix seconds as RFC 3339 UTC with microseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_line(line: str) -> Event:
    """Read an event line; raise `EventError` for anything else."""
    try:
        found: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EventError("not a line of JSON") from error
    if not isinstance(found, dict):
        raise EventError("not a JSON object")
    record = cast("Mapping[str, object]", found)
    try:
        return Event(
            kind=_text(record, "event", 64, required=True),
            time=_seconds(_text(record, "time", 40, required=True)),
            address=parse_address(_text(record, "source_ip", 64, required=True)),
            count=_whole(record, "count", 1, COUNT_MOST),
            app=_text(record, "app", TEXT_MOST),
            user=_text(record, "user", USER_MOST),
            method=_text(record, "method", TEXT_MOST),
            path=_text(record, "path", PATH_MOST),
            status=_whole(record, "status", 0, 999),
            via=_addresses(record, "via"),
            request_id=_text(record, "request_id", TEXT_MOST),
            user_agent=_text(record, "user_agent", TEXT_MOST),
            jail=_text(record, "jail", 64),
        )
    except AddressError as error:
        raise EventError(str(error)) from error


def _seconds(text: str) -> float:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise EventError(f"bad time: {error}") from error
    if time.tzinfo is None:
        raise EventError(f"bad time: {text!r} has no zone")
    seconds = time.timestamp()
    if not is_time(seconds):
        raise EventError(f"bad time: {text!r} is not of these centuries")
    return seconds


def _text(record: Mapping[str, object], key: str, most: int, *, required: bool = False) -> str:
    value = record.get(key, "")
    if not isinstance(value, str) or (required and not value):
        raise EventError(f"{key!r} is not a text")
    return value[:most].encode(errors="replace").decode()  # a lone surrogate would break whoever writes it on


def _whole(record: Mapping[str, object], key: str, default: int, most: int) -> int:
    value = record.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise EventError(f"{key!r} is not a whole number from 0 to {most}")
    return value


def _addresses(record: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = record.get(key, [])
    if not isinstance(value, list):
        raise EventError(f"{key!r} is not a list")
    found: list[str] = []
    for item in cast("list[object]", value)[:VIA_MOST]:
        if not isinstance(item, str):
            raise EventError(f"{key!r} has something else than texts")
        found.append(parse_address(item[:64]).text)
    return tuple(found)


def kind_of_answer(
    status: int, *, scheme: str, method: str, path: str, login_paths: tuple[str, ...] = LOGIN_PATHS
) -> str:
    """Say which kind of event an answer is; empty for none. The same rule reads answers in the app and in access logs.

    `scheme` is the lower-case authorization scheme the request carried, empty without one: a first 401 that only asks
    for credentials is no failure.
    """
    if status == 403:
        return ACCESS_FAIL
    if status != 401:
        return ""
    if scheme == "basic" or (method.upper() == "POST" and is_login_path(path, login_paths)):
        return LOGIN_FAIL
    return TOKEN_FAIL if scheme == "bearer" else ""


def is_login_path(path: str, login_paths: tuple[str, ...] = LOGIN_PATHS) -> bool:
    """Say whether a path is a login: an entry with a slash is a whole path, one without is a last segment.

    Case does not matter, nor trailing newlines, as they do not to some of the apps behind nginx.
    """
    path, known = path.rstrip("/\n").lower(), _as_compared(login_paths)
    return path in known or path.rpartition("/")[2] in known


@lru_cache(maxsize=256)
def _as_compared(login_paths: tuple[str, ...]) -> frozenset[str]:
    return frozenset(entry.rstrip("/").lower() for entry in login_paths)
