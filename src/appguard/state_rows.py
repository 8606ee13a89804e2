"""The rows of the daemon's state: how they are written, and how they are read back.

What is read is validated like any input: a row that is not right is dropped with a line in the log. Text that came
from outside may hold what UTF-8 cannot; it is replaced on the way in. The network of a ban of some ports alone is
followed by those; a version that does not know ports drops such a row.
"""

import json
import logging
import math
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import cast

from appguard.address import network_text, parse_network
from appguard.ban import EVIDENCE_MOST, EVIDENCE_TEXT_MOST, HOST_MOST, JAIL_NAME, REASON_MOST, Ban, Brief, Fact, shared
from appguard.bantime import Past
from appguard.counted import Failure
from appguard.ports import parse_key
from appguard.stores.sure_time import SureTime

COUNT_MOST = 2**53
VIA_MOST = 64
DIGEST_MOST = 16
ENDED_AT_ONCE = 1_000  # bans dropped in one save: some milliseconds
LAST_ROW = 2**63 - 1
LIFTS_MOST = 20_000
POSITIONS_MOST = 20_000  # of logs, where more are gone by now
PART = 100  # bans read at a time: a millisecond or so, which a new ban may have to wait
BRIEF_PART = 400  # of those in brief as long takes no longer

_log = logging.getLogger(__name__)


def save_positions(connection: sqlite3.Connection, positions: Mapping[tuple[str, str], str], now: float) -> None:
    """Write how far origins were read, by (source, origin)."""
    connection.executemany(
        "INSERT INTO position VALUES (?, ?, ?, ?)"
        " ON CONFLICT (source, origin) DO UPDATE SET text = excluded.text, saved = excluded.saved",
        [(_clean(source), _clean(origin), _clean(text), now) for (source, origin), text in positions.items()],
    )


def purge_positions(connection: sqlite3.Connection, before: float, is_there: Callable[[str], bool]) -> None:
    """Drop positions whose origin is not there any more: those last saved before a time, and all but the latest.

    Those of no origin stay.
    """
    rows: list[tuple[object, object, int]] = connection.execute(
        "SELECT source, origin, saved < ? FROM position WHERE origin != '' ORDER BY saved DESC", (before,)
    ).fetchall()
    doubtful = [row[:2] for number, row in enumerate(rows) if row[2] or number >= POSITIONS_MOST]
    gone = [(source, origin) for source, origin in doubtful if not (isinstance(origin, str) and is_there(origin))]
    connection.executemany("DELETE FROM position WHERE source = ? AND origin = ?", gone)


def adopt_positions(connection: sqlite3.Connection, sources: Mapping[str, Callable[[str], bool]]) -> None:
    """Move the positions of sources that are no more to those without one that read their origins, by name.

    A source that was never run takes those of others too: its jails may have been theirs.
    """
    rows = connection.execute("SELECT source, origin FROM position ORDER BY saved").fetchall()
    known, begun = set(rows), {source for source, _ in rows}
    kept = {origin: source for source, origin in rows if origin and isinstance(origin, str)}
    left = {origin: source for source, origin in rows if origin in kept and source not in sources}
    heirs = [
        (name, source, origin)
        for name, reads in sources.items()
        for origin, source in (left if name in begun else kept | left).items()
        if (name, origin) not in known and reads(origin)
    ]
    connection.executemany(
        "INSERT INTO position SELECT ?, origin, text, saved FROM position WHERE source = ? AND origin = ?", heirs
    )
    moved = {(source, origin) for _, source, origin in heirs if source not in sources}
    connection.executemany("DELETE FROM position WHERE source = ? AND origin = ?", moved)


def read_positions(connection: sqlite3.Connection, source: str) -> dict[str, str]:
    """Read how far the origins of a source were read."""
    found = connection.execute("SELECT origin, text FROM position WHERE source = ?", (_clean(source),)).fetchall()
    return {origin: text for origin, text in found if isinstance(origin, str) and isinstance(text, str)}


def save_failures(connection: sqlite3.Connection, failures: Mapping[tuple[str, str], Sequence[Failure]]) -> None:
    """Write all that is counted for some keys, by (jail, key)."""
    connection.executemany(
        "DELETE FROM failure WHERE jail = ? AND key = ?", [key for key in failures if not failures[key]]
    )
    connection.executemany(
        "INSERT INTO failure VALUES (?, ?, ?) ON CONFLICT (jail, key) DO UPDATE SET failures = excluded.failures",
        [
            (jail, _clean(key), json.dumps([_failure_row(each) for each in kept]))
            for (jail, key), kept in failures.items()
            if kept
        ],
    )


def purge_failures(connection: sqlite3.Connection, jails: Collection[str]) -> None:
    """Drop what jails have counted that are none any more."""
    found = {jail for (jail,) in connection.execute("SELECT DISTINCT jail FROM failure").fetchall()}
    connection.executemany("DELETE FROM failure WHERE jail = ?", [(jail,) for jail in found.difference(jails)])


def read_failures(connection: sqlite3.Connection, jail: str) -> list[tuple[str, Failure]]:
    """Read what a jail has counted, by key as it was written, in the order of time."""
    found: list[tuple[str, Failure]] = []
    for key, text in connection.execute("SELECT key, failures FROM failure WHERE jail = ?", (jail,)).fetchall():
        try:
            found += [(_text(key), failure) for failure in map(_failure, _list(text))]
        except (ValueError, OverflowError, RecursionError) as error:
            _log.warning("jail %s: what was counted for %r is dropped: %s", jail, key, error)
    return sorted(found, key=lambda item: item[1].time)


def _failure_row(failure: Failure) -> list[object]:
    row: list[object] = [failure.time, failure.count, failure.evidence]
    return [*row, failure.value, failure.network] if failure.value or failure.network else row


def _failure(value: object) -> Failure:
    match value:
        case [int() | float() as time, int(count), str(evidence)]:
            failure = Failure(float(time), count, evidence[:EVIDENCE_TEXT_MOST])
        case [int() | float() as time, int(count), str(evidence), str(digest), str(address)]:
            network = network_text(parse_network(address)) if address else ""
            failure = Failure(float(time), count, evidence[:EVIDENCE_TEXT_MOST], digest[:DIGEST_MOST], network)
        case _:
            raise ValueError(f"{value!r} is not a counted event")
    if not (math.isfinite(failure.time) and 0 <= failure.count < COUNT_MOST):
        raise ValueError(f"{value!r} is not a counted event")
    return failure


def save_pasts(connection: sqlite3.Connection, pasts: Mapping[str, Sequence[Past]]) -> None:
    """Write the bans there were of some networks."""
    connection.executemany("DELETE FROM past WHERE network = ?", [(network,) for network in pasts])
    rows = [(past.network, past.jail, past.bans, past.start, past.end) for each in pasts.values() for past in each]
    connection.executemany("INSERT INTO past VALUES (?, ?, ?, ?, ?)", rows)


def read_pasts(connection: sqlite3.Connection) -> tuple[Past, ...]:
    """Read the bans there were of all networks."""
    found: list[Past] = []
    for network, jail, bans, starts, ends in connection.execute(
        "SELECT network, jail, bans, starts, ends FROM past"
    ).fetchall():
        try:
            canonical, end = network_text(parse_network(_text(network))), None if ends is None else _time(ends)
            found.append(Past(_text(jail), canonical, min(_count(bans), COUNT_MOST), _time(starts), end))
        except ValueError as error:
            _log.warning("the saved bans of %r are dropped: %s", network, error)
    return tuple(found)


def save_facts(connection: sqlite3.Connection, facts: Iterable[Fact]) -> None:
    """Write what became true of networks, oldest first. A fact older than what is known changes nothing."""
    for fact in facts:
        if fact.ban is not None:
            connection.execute(_PUT_BAN, _ban_row(fact.ban))
            connection.execute("DELETE FROM lift WHERE network = ? AND version < ?", (fact.key, fact.version))
        else:
            connection.execute(_PUT_LIFT, (fact.key, fact.version, _clean(fact.host), fact.key, fact.version))
            connection.execute("DELETE FROM ban WHERE network = ? AND version <= ?", (fact.key, fact.version))


def purge_lifts(connection: sqlite3.Connection, before: float) -> None:
    """Drop the lifts made before a time."""
    connection.execute("DELETE FROM lift WHERE version < ?", (int(before * 1_000_000),))


def read_lifts(connection: sqlite3.Connection) -> tuple[Fact, ...]:
    """Read the latest lifts, the oldest first."""
    rows = connection.execute("SELECT network, version, host FROM lift ORDER BY version DESC LIMIT ?", (LIFTS_MOST,))
    found: list[Fact] = []
    for key, version, host in reversed(rows.fetchall()):
        try:
            network, ports = parse_key(_text(key))
            found.append(Fact(network, _count(version), None, ports, _text(host)[:HOST_MOST]))
        except ValueError as error:
            _log.warning("the saved lift of %r is dropped: %s", key, error)
    return tuple(found)


# A ban that is gone without having been lifted is told as a lift with the version of that ban: nothing to remember.
_PUT_LIFT = """
INSERT INTO lift (network, version, host)
SELECT ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM ban WHERE network = ? AND version >= ?)
ON CONFLICT (network) DO UPDATE SET version = excluded.version, host = excluded.host
WHERE excluded.version >= lift.version
"""
_DROP_ENDED = "DELETE FROM ban WHERE rowid IN (SELECT rowid FROM ban WHERE ends <= ? LIMIT ?)"
_DROP_NEW = """
DELETE FROM ban WHERE rowid IN (
    SELECT rowid FROM (SELECT rowid, starts FROM ban WHERE ends > ? AND ends <= ? ORDER BY ends DESC LIMIT ?)
    WHERE starts > ?
)
"""
_PUT_BAN = """
INSERT INTO ban (network, jail, starts, ends, reason, failures, evidence, via, automatic, version, host)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (network) DO UPDATE SET
    jail = excluded.jail, starts = excluded.starts, ends = excluded.ends, reason = excluded.reason,
    failures = excluded.failures, evidence = excluded.evidence, via = excluded.via,
    automatic = excluded.automatic, version = excluded.version, host = excluded.host
WHERE excluded.version >= ban.version
"""
_GET_BANS = """
SELECT rowid, network, jail, starts, ends, reason, failures, evidence, via, automatic, version, host FROM ban
WHERE rowid < ? ORDER BY rowid DESC LIMIT ?
"""


_GET_BRIEF_BANS = """
SELECT rowid, network, jail, ends FROM ban
WHERE rowid < ? AND (ends IS NULL OR ends > ? AND ends < ?) AND typeof(network) = 'text' AND typeof(jail) = 'text'
ORDER BY rowid DESC LIMIT ?
"""


def _ban_row(ban: Ban) -> tuple[object, ...]:
    evidence, via = json.dumps(ban.evidence), json.dumps(ban.via)
    reason, host, automatic = _clean(ban.reason), _clean(ban.host), int(ban.automatic)
    return (
        ban.key, ban.jail, ban.start, ban.end, reason, ban.failures, evidence, via, automatic, ban.version, host
    )  # fmt: skip


def purge_bans(connection: sqlite3.Connection, now: float, sure: SureTime | None) -> None:
    """Drop bans that have ended, for good if that can be told, so many that nobody waits for it."""
    connection.execute(_DROP_ENDED, (now if sure is None else sure.now(), ENDED_AT_ONCE))
    if sure is not None and sure.is_in_doubt:
        set_at = sure.set_at()
        connection.execute(_DROP_NEW, (max(set_at, sure.now()), now, ENDED_AT_ONCE, set_at))


def read_bans(connection: sqlite3.Connection, before: int) -> tuple[tuple[Ban, ...], int]:
    """Read the next bans before a row, from the newest on; give the row to go on from, 0 at the end."""
    found: list[Ban] = []
    rows = connection.execute(_GET_BANS, (before, PART)).fetchall()
    for _, *row in rows:
        try:
            found.append(_ban(row))
        except (ValueError, OverflowError, RecursionError) as error:
            _log.warning("the saved ban of %r is dropped: %s", row[0], error)
    return tuple(found), rows[-1][0] if len(rows) == PART else 0


def read_brief_bans(connection: sqlite3.Connection, before: int, now: float) -> tuple[list[Brief], int]:
    """Read the same in brief, those alone that are in force at a time; who takes them looks whether they are right."""
    rows = connection.execute(_GET_BRIEF_BANS, (before, now, math.inf, BRIEF_PART)).fetchall()
    return [row[1:] for row in rows], rows[-1][0] if len(rows) == BRIEF_PART else 0


def _ban(row: Sequence[object]) -> Ban:
    network, jail, start, end, reason, failures, evidence, via, automatic, version, host = row
    where, ports = parse_key(_text(network))
    return Ban(
        where,
        _jail_name(_text(jail)),
        _time(start),
        None if end is None else _time(end),
        shared(_text(reason)[:REASON_MOST]),
        _count(failures),
        _texts(evidence)[:EVIDENCE_MOST],
        _texts(via)[:VIA_MOST],
        _count(automatic) == 1,
        _count(version),
        ports,
        shared(_text(host)[:HOST_MOST]),
    )


@lru_cache(maxsize=64)
def _jail_name(name: str) -> str:
    if not JAIL_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a jail")
    return name


def save_totals(connection: sqlite3.Connection, totals: Mapping[str, tuple[int, int]]) -> None:
    """Write what jails have counted; what has not changed costs no write."""
    connection.executemany(
        "INSERT INTO total VALUES (?, ?, ?) ON CONFLICT (jail) DO UPDATE"
        " SET failed = excluded.failed, banned = excluded.banned"
        " WHERE failed != excluded.failed OR banned != excluded.banned",
        [(jail, failed, banned) for jail, (failed, banned) in totals.items()],
    )


def read_totals(connection: sqlite3.Connection, jail: str) -> tuple[int, int]:
    """Read how many failures and bans a jail has counted."""
    match connection.execute("SELECT failed, banned FROM total WHERE jail = ?", (jail,)).fetchone():
        case (int(failed), int(banned)):
            return failed, banned
        case _:
            return 0, 0


def save_setting(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Write one setting."""
    connection.execute(
        "INSERT INTO setting VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value)
    )


def read_setting(connection: sqlite3.Connection, name: str) -> str | None:
    """Read one setting."""
    match connection.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone():
        case (str(value),):
            return value
        case _:
            return None


def _clean(text: str) -> str:
    return text.encode(errors="replace").decode()


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"{value!r} is not a text")


def _time(value: object) -> float:
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    raise ValueError(f"{value!r} is not a time")


def _count(value: object) -> int:
    if isinstance(value, int) and value >= 0:
        return value
    raise ValueError(f"{value!r} is not a number of things")


def _list(text: object) -> list[object]:
    found: object = json.loads(_text(text))
    if isinstance(found, list):
        return cast("list[object]", found)
    raise ValueError(f"{text!r} is not a list")


def _texts(text: object) -> tuple[str, ...]:
    if text == "[]":  # most are
        return ()
    return tuple(_text(item) for item in _list(text))
