"""What the daemon says when it explains a line or an address: plain records, the same in the daemon and in the CLI.

On the control socket they are JSON objects with exactly these keys; times are Unix seconds. Light on purpose, as
`status.py` is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from appguard.status import BanRecord


@dataclass(frozen=True, slots=True)
class EventRecord:
    """What a filter made of a line; of a client known by name only, `address` is empty and `host` its name."""

    kind: str
    address: str
    time: float
    count: int = 1
    host: str = ""
    user: str = ""
    method: str = ""
    path: str = ""
    status: int = 0
    via: Sequence[str] = ()
    jail: str = ""


@dataclass(frozen=True, slots=True)
class JailStep:
    """What one jail would make of a line, or has of an address.

    `sources` are where it reads, `filter` is how; `why_not` says why nothing of it counts there (empty if it does).
    `fits`: the jail counts such events, whatever their time and the safelist.
    `counted` of `maxretry` in `findtime` seconds are counted now under `key` (empty without one); `is_evidence` says
    that the line is among them. A ban would last `bantime` seconds (-1: for ever) after `earlier` others, unless
    `refused`, which says why the judge would not have it. `dry_banned`: a jail in dry run would shut it out now.
    `is_shared`: all hosts count together, `counted_by_all` if Redis has said it (else None), and that decides.
    """

    name: str
    sources: Sequence[str]
    filter: str
    event: EventRecord | None
    fits: bool
    why_not: str
    key: str
    counted: int
    maxretry: int
    findtime: float
    is_evidence: bool
    bantime: float
    earlier: int
    refused: str
    dry_run: bool
    dry_banned: bool
    is_shared: bool = False
    counted_by_all: int | None = None


@dataclass(frozen=True, slots=True)
class AddressFacts:
    """What is known of one address, whatever the jails count.

    `safelisted`: its events never count. `refused`: why the judge keeps it free (empty if it may be banned). `bans` are
    those in force that hold it.
    """

    address: str
    safelisted: bool
    refused: str
    bans: Sequence[BanRecord]
    enforcing: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """Each stage, and what it comes to, in one sentence.

    `what` is the line or address; `live` says whether a daemon's own counters are meant. `conclusion` answers: why is
    this not banned? A line without an event has no `addresses`.
    """

    what: str
    live: bool
    time: float
    jails: Sequence[JailStep]
    addresses: Sequence[AddressFacts]
    conclusion: str

    @classmethod
    def from_json(cls, record: Mapping[str, object]) -> Self:
        """Read what the control socket gave; raise TypeError or KeyError if it is something else."""
        fields = dict(cast("Mapping[str, Any]", record))
        fields["jails"] = tuple(map(_jail_step, fields["jails"]))
        fields["addresses"] = tuple(map(_address_facts, fields["addresses"]))
        return cls(**fields)


def _jail_step(record: dict[str, Any]) -> JailStep:
    fields = dict(record)
    fields["event"] = None if fields["event"] is None else EventRecord(**fields["event"])
    return JailStep(**fields)


def _address_facts(record: dict[str, Any]) -> AddressFacts:
    fields = dict(record)
    fields["bans"] = tuple(map(BanRecord.from_json, fields["bans"]))
    return AddressFacts(**fields)
