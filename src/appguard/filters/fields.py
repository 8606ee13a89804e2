"""From the fields a filter found in a line to an event: the one place that says what they mean, for all own filters."""

from collections.abc import Collection, Mapping

from appguard.address import parse_address
from appguard.errors import AddressError, ConfigError
from appguard.event import COUNT_MOST, KINDS, LINE_MOST, REQUEST, Event
from appguard.filters.nginx import kind_of_cut, kind_of_request, path_of, request_of

BY_STATUS = "by_status"  # instead of a kind: the status of the answer says which
NO_TIME = "its lines tell no time: what stood in the log before the daemon first read it counts as new"
FIELDS = ("address", "time", "user", "status", "method", "path", "request", "user_agent", "request_id", "count")


def check_kind(kind: object) -> str:
    """Accept a kind of event, or the word for what an access log says; raise `ConfigError`."""
    if kind not in (*KINDS, BY_STATUS):
        raise ConfigError(f"kind = {kind!r}: expected one of {', '.join(map(repr, (BY_STATUS, *KINDS)))}")
    return str(kind)


def rest_of(kinds: Collection[str]) -> str:
    """Give the kind of a request that is nothing else, if a jail counts such; empty if none does."""
    return REQUEST if REQUEST in kinds else ""


def may_be_cut(line: bytes) -> bool:
    """Say whether a line may be one whose end was cut off."""
    return len(line) >= LINE_MOST


def event_of(
    kind: str, time: float | None, fields: Mapping[str, str | None], *, rest: str = "", is_cut: bool = False
) -> Event | None:
    """Give the event of a line that has these fields; None if it is none of anybody. `rest` is the kind of the others.

    A line that was cut off may have lost its status: a request that long counts as refused.
    """
    user, status = _plain(fields, "user"), _whole(fields, "status")
    method, path = request_of(fields.get("request") or "")
    method = fields.get("method") or method
    path = path_of(fields.get("path") or "") or path
    if kind == BY_STATUS:
        scheme = "basic" if fields.get("user") not in (None, "-") else ""
        kind = _kind(status, method, path, scheme, is_cut=is_cut) or rest
    if not kind or time is None:
        return None
    try:
        address = parse_address(fields.get("address") or "")
    except AddressError:
        return None
    return Event(
        kind,
        time,
        address,
        count=min(_whole(fields, "count"), COUNT_MOST) if fields.get("count") else 1,
        user=user,
        method=method,
        path=path,
        status=status,
        request_id=_plain(fields, "request_id"),
        user_agent=_plain(fields, "user_agent"),
    )


def _kind(status: int, method: str, path: str, scheme: str, *, is_cut: bool) -> str:
    if status:
        return kind_of_request(status, method, path, scheme)
    return kind_of_cut(method, path, scheme) if is_cut else ""


def _plain(fields: Mapping[str, str | None], name: str) -> str:
    value = fields.get(name) or ""
    return "" if value == "-" else value


def _whole(fields: Mapping[str, str | None], name: str) -> int:
    text = fields.get(name) or ""
    return int(text) if len(text) < 10 and text.isascii() and text.isdecimal() else 0
