"""What several lines of one connection tell together: fail2ban's `<F-MLFID>` and the tags that go with it.

Theory of operation. The id that a regex captures (host, program and process id, as a rule) joins lines. What they told
is kept, so that a failure whose line names no address takes it from an earlier line, or waits for a later one. A line
marked `nofail` is no failure by itself; it is an attempt of the next failure of its connection,
or with the second user name that is tried on it. `mlfforget` ends a connection. `mlfgained`, a login that succeeded,
takes back what waits, unless it had been tried with another user name before.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from appguard.filters.expression import Groups

CONNECTIONS_MOST = 1_000
KEPT_SECONDS = 300.0
USERS_MOST = 100

IDS = ("fid", "ip4", "ip6", "dns", "host")


@dataclass(slots=True)
class Connection:
    """What is known of one connection; `waiting` lines have led to no failure yet."""

    seen: float
    groups: Groups = field(default_factory=Groups)
    users: list[str] = field(default_factory=list[str])
    waiting: int = 0
    has_failed: bool = False  # one of them is a failure that lacks only its address


class Joined(NamedTuple):
    """A failure with all that its connection told: how many lines led to it, and the user names tried."""

    groups: Mapping[str, str]
    attempts: int
    users: tuple[str, ...]


class Connections:
    """The connections of one filter, bounded in number and time."""

    def __init__(self) -> None:
        self._connections: dict[str, Connection] = {}  # in the order of the latest line

    def join(self, groups: Groups, time: float) -> Joined | None:
        """Add what a line told; give the failure it leads to, if it does."""
        name = groups["mlfid"]
        connection = self._take(name, time)
        has_new_user = _learn(connection, groups)
        if groups.get("mlfforget") is None:
            self._connections[name] = connection  # last: the order is by latest line
        if groups.get("mlfgained") is not None and not (has_new_user and len(connection.users) > 1):
            connection.waiting, connection.has_failed = 0, False
            return None
        connection.waiting += 1
        if groups.get("nofail") is None or (has_new_user and len(connection.users) > 1):
            connection.has_failed = True
        if not connection.has_failed or not id_of(connection.groups):
            return None
        attempts, connection.waiting, connection.has_failed = connection.waiting, 0, False
        return Joined(dict(connection.groups), attempts, tuple(connection.users))

    def _take(self, name: str, time: float) -> Connection:
        found = self._connections.pop(name, None)
        if found is None or time - found.seen > KEPT_SECONDS:
            found = Connection(time)
        found.seen = time
        while len(self._connections) >= CONNECTIONS_MOST:
            del self._connections[next(iter(self._connections))]
        return found


def id_of(groups: Mapping[str, str]) -> str:
    """Give who failed, by the groups of a match; empty if they do not say."""
    for key in IDS:
        found = groups.get(key)
        if found:
            return found
    return ""


def _learn(connection: Connection, groups: Groups) -> bool:
    """Keep what a line told; say whether it named a user not named before."""
    named = groups.get("user", "")
    if not connection.groups:
        connection.groups = dict(groups)
    else:
        _add(connection.groups, groups)
    if not named or named in connection.users or len(connection.users) >= USERS_MOST:
        return False
    connection.users.append(named)
    return True


def _add(known: Groups, groups: Groups) -> None:
    """Add what a line told to what is known; an address replaces each other, an empty user name none."""
    if id_of(groups):
        for key in IDS:
            known.pop(key, None)
    user = groups.get("user") or known.get("user", "")
    known.update(groups)
    if user:
        known["user"] = user
