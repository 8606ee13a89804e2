"""What became of bans on this host and in its fleet, kept for people: `appguard events`.

One JSON object per line, numbered; the numbers go on over restarts, and the last one seen is the cursor to go on from.
Kept are two files of `HALF` bytes at most: the older one is replaced when the newer one is full. Written once for all
facts of a moment, not synced: a power failure may take the last lines. What was there before the daemon came to know
of it, as the bans of a fleet that it joins, is no news and is left out.
"""

import json
import os
import re
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self, cast

from appguard.ban import Ban, Fact
from appguard.errors import StateError
from appguard.ports import key_of

HALF = 4 * 1024 * 1024
READ_MOST = 1_000  # events at once
KNOWN_MOST = 100_000  # bans that a lift can tell of
_CURSOR = re.compile(rb'\{"cursor": ([0-9]{1,15}),')
_REQUEST_ID = re.compile(r'"request_id": ?"([^"\\]{1,128})"')


@dataclass(frozen=True, slots=True)
class BanEvent:
    """One thing that became of a ban: `what` is `ban`, `prolong` or `lift`, decided on `host` at `time`.

    `by` is who decided: `jail`, `person`, or `program` (fail2ban, for one; `reason` says which). A lift tells what was
    known of the ban that it ended. `request_ids` are those of the app's requests among the evidence.
    """

    cursor: int
    time: float
    what: str
    network: str
    ports: str
    jail: str
    by: str
    host: str
    start: float
    end: float | None
    reason: str
    failures: int
    evidence: Sequence[str]
    request_ids: Sequence[str]
    via: Sequence[str]
    ref: str

    def to_json(self) -> dict[str, object]:
        """Give it as it is written."""
        return {name: getattr(self, name) for name in self.__slots__}  # `asdict` copies all of it, thirty times slower

    @classmethod
    def from_json(cls, record: object) -> Self:
        """Read what was written; raise TypeError if it is something else."""
        return cls(**cast("dict[str, Any]", record))


class BanLog:
    """The events of one daemon, in its state directory. Facts decided before `since` (Unix seconds) are no news.

    `open` and `write` raise `StateError` if the disk fails. `read` may be called from any thread.
    """

    def __init__(self, directory: Path, since: float) -> None:
        self._path = directory / "events.jsonl"
        self._old = directory / "events.1.jsonl"
        self._since = since
        self._known: OrderedDict[str, tuple[int, Ban | None]] = OrderedDict()  # by network, the version and the ban
        self._recent: deque[BanEvent] = deque(maxlen=READ_MOST)
        self._own_lifts: set[str] = set()  # keys
        self._size = 0
        self._is_cut = False  # the last line of the file has no end
        self.newest = 0  # the cursor of the last event

    def open(self) -> None:
        """Find out where the numbers go on."""
        try:
            for event in self._written(0):
                self.newest = max(self.newest, event.cursor)
                self._known[key_of(event.network, event.ports)] = (round(event.time * 1_000_000), None)
            data = _bytes_of(self._path)
            self._size, self._is_cut = len(data), bool(data) and not data.endswith(b"\n")
        except OSError as error:
            raise self._failure(error) from error

    def lifts_by_itself(self, key: str) -> None:
        """Say that the daemon has lifted a ban, not a person; before that is written."""
        self._own_lifts.add(key)

    def learn(self, facts: Iterable[Fact]) -> None:
        """Take what was known before."""
        for fact in facts:
            self._exchange(fact)

    def write(self, facts: Iterable[Fact]) -> None:
        """Note what became true, oldest first."""
        events = [event for event in map(self._event, facts) if event is not None]
        if not events:
            return
        self._recent.extend(events)
        text = "".join(json.dumps(event.to_json()) + "\n" for event in events).encode()
        try:
            if self._size and self._size + len(text) > HALF:
                self._path.replace(self._old)
                self._is_cut = False
            self._append(text)
        except OSError as error:
            raise self._failure(error) from error

    def _append(self, text: bytes) -> None:
        """Write whole lines, after the end of one that a crash or a full disk has cut."""
        is_cut, self._is_cut = self._is_cut, True
        with open(self._path, "ab", opener=_opener) as file:
            file.write(b"\n" + text if is_cut else text)
            self._size = file.tell()
        self._is_cut = False

    def _failure(self, error: OSError) -> StateError:
        return StateError(f"the events cannot be kept in {self._path}: {error.strerror}")

    def _exchange(self, fact: Fact) -> tuple[int, Ban | None]:
        """Take a fact; give the version and the ban of its network known before."""
        before = self._known.pop(fact.key, (0, None))
        self._known[fact.key] = max((fact.version, fact.ban), before, key=lambda known: known[0])
        if len(self._known) > KNOWN_MOST:
            self._known.popitem(last=False)
        return before

    def _event(self, fact: Fact) -> BanEvent | None:
        version, before = self._exchange(fact)
        time = fact.version / 1_000_000
        if time < self._since or version >= fact.version:
            return None
        ban = fact.ban or before or Ban(fact.network, "unknown", 0.0, None, ports=fact.ports)
        if fact.ban is None:
            what, by = "lift", "program" if fact.key in self._own_lifts else "person"
            self._own_lifts.discard(fact.key)
        else:
            what = "prolong" if before is not None and before.in_force(time) else "ban"
            by = "person" if not ban.automatic else "jail" if ban.failures else "program"
        ids = dict.fromkeys(found for line in ban.evidence for found in _REQUEST_ID.findall(line))
        self.newest += 1
        return BanEvent(
            cursor=self.newest,
            time=time,
            what=what,
            network=ban.where,
            ports=ban.ports,
            jail=ban.jail,
            by=by,
            host=fact.host or (fact.ban.host if fact.ban is not None else ""),
            start=ban.start,
            end=ban.end,
            reason=ban.reason,
            failures=ban.failures,
            evidence=ban.evidence,
            request_ids=tuple(ids),
            via=ban.via,
            ref=ban.ref,
        )

    def read(self, since: int) -> list[BanEvent]:
        """Give the events after a cursor, the oldest first, `READ_MOST` at most; of a negative one the last so many."""
        after = max(0, self.newest + since) if since < 0 else since
        recent = self._recent.copy()  # others may come meanwhile
        if recent and after >= recent[0].cursor - 1:
            return [event for event in recent if event.cursor > after]
        return list(islice(self._written(after), READ_MOST))

    def _written(self, after: int) -> Iterator[BanEvent]:
        newer = _bytes_of(self._path)  # first: meanwhile it may become the older one, and would be missed
        for data in (_bytes_of(self._old), newer):
            for event in _read(data, after):
                after = event.cursor
                yield event


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _read(data: bytes, after: int) -> Iterator[BanEvent]:
    for line in data.splitlines():
        cursor = _CURSOR.match(line)
        if cursor is None or int(cursor[1]) <= after:
            continue
        try:
            yield BanEvent.from_json(json.loads(line))
        except (ValueError, TypeError):  # cut by a crash, or of another version
            continue
