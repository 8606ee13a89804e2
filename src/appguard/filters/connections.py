"""What several lines of one connection tell together: fail2ban's `<F-MLFID>` and the tags that go with it.

Theory of operation. The id that a regex captures (host, program and process id, as a rule) joins lines. What they told
is kept, so that a failure whose line names no address takes it from an earlier line, or waits for a later one. A line
marked `nofail` is no failure by itself; it is an attempt of the next failure of its connection,
or with the second user name that is tried on it. `mlfforget` ends a connection. `mlfgained`, a login that succeeded,
takes back what waits, unless it had been tried with another user name before.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from appguard.filters.expression import Groups

CONNECTIONS_MOST = 1_000
KEPT_SECONDS = 300.0
USERS_MOST = 100

IDS = ("fid", "ip4", "ip6", "dns", "host")


@dataclass(slots=True)
class Connection:
    """What is known of one connection; `waiting` lines have led to no failure yet."""

    seen: float
    groups: Groups  # never changed, but replaced: who was told of them may keep them
    users: list[str]
    waiting: int
    has_failed: bool  # one of them is a failure that lacks only its address


class Tells(Protocol):
    """A line that was read."""

    def groups(self) -> Groups:
        """Give what it told."""
        ...


class Begun(NamedTuple):
    """A connection of which one line is known: a failure, which has counted."""

    seen: float
    line: Tells


class Joined(NamedTuple):
    """A failure with all that its connection told: of whom, how many lines led to it, and the user names tried."""

    id: str
    groups: Mapping[str, str]
    attempts: int
    users: tuple[str, ...]


class Connections:
    """The connections of one filter, bounded in number and time."""

    def __init__(self) -> None:
        self._connections = OrderedDict[str, Connection | Begun]()  # in the order of the latest line

    def __contains__(self, name: str) -> bool:
        """Say whether something may be known of a connection."""
        return name in self._connections

    def begin(self, name: str, time: float, line: Tells) -> None:
        """Keep the first line of a connection, a failure that says all of itself and counts at once."""
        self._keep(name, Begun(time, line))

    def join(self, groups: Groups, time: float) -> Joined | None:
        """Add what a line told; give the failure it leads to, if it does."""
        name = groups["mlfid"]
        known = self._connections.pop(name, None)
        has_second_user = False
        if known is None or time - known.seen > KEPT_SECONDS:
            connection = _first(groups, time)
        else:
            connection = known if isinstance(known, Connection) else _first(known.line.groups(), time)
            connection.seen = time
            connection.groups = _added(connection.groups, groups)
            has_second_user = _names_user(connection, groups) and len(connection.users) > 1
        if "mlfforget" not in groups:
            self._keep(name, connection)
        if "mlfgained" in groups and not has_second_user:
            connection.waiting, connection.has_failed = 0, False
            return None
        connection.waiting += 1
        if has_second_user or "nofail" not in groups:
            connection.has_failed = True
        id_ = id_of(connection.groups) if connection.has_failed else ""
        if not id_:
            return None
        attempts, connection.waiting, connection.has_failed = connection.waiting, 0, False
        return Joined(id_, connection.groups, attempts, tuple(connection.users))

    def _keep(self, name: str, connection: Connection | Begun) -> None:
        """Keep a connection as the latest, and no more of them than there may be."""
        if len(self._connections) >= CONNECTIONS_MOST:
            self._connections.popitem(last=False)
        self._connections[name] = connection


def _first(groups: Groups, time: float) -> Connection:
    user = groups.get("user")
    return Connection(time, groups, [user] if user else [], 0, False)


def id_of(groups: Mapping[str, str]) -> str:
    """Give who failed, by the groups of a match; empty if they do not say."""
    for key in IDS:
        found = groups.get(key)
        if found:
            return found
    return ""


def _added(known: Groups, groups: Groups) -> Groups:
    """Give what is known with what a line told: a new address replaces the known one, an empty user name none."""
    added = known | groups
    if id_of(groups):
        for key in IDS:
            if key not in groups:
                added.pop(key, None)
    if known.get("user") and not groups.get("user"):
        added["user"] = known["user"]
    return added


def _names_user(connection: Connection, groups: Groups) -> bool:
    """Say whether a line named a user not named before, and remember the name."""
    named = groups.get("user")
    if not named or named in connection.users or len(connection.users) >= USERS_MOST:
        return False
    connection.users.append(named)
    return True
