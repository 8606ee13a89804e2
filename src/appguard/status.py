"""What the daemon says of itself, its jails and its bans: plain records, the same in the daemon and in the CLI.

On the control socket they are JSON objects with exactly these keys. Times are Unix seconds, networks canonical texts.
This module is light on purpose: `appguard status` imports it, and must not import the daemon's packages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from appguard.ban import Ban
from appguard.safelisted import Safelisted


@dataclass(frozen=True, slots=True)
class JailSummary:
    """One jail in one line; `alarm` is what is wrong with it (empty if nothing is)."""

    name: str
    currently_failed: int
    total_failed: int
    currently_banned: int
    total_banned: int
    alarm: str = ""


@dataclass(frozen=True, slots=True)
class SourceSummary:
    """One source: what it reads, how far it is behind, and its complaint or its filters' (empty without one).

    `behind` are bytes, `lag` the seconds since nothing waited, `dropped` the messages the kernel threw away. Since the
    daemon began, `lines` were read. Of these `matched` told of an event, `passed_over` were of addresses banned just
    before, and `refused` of users who may feed no jail; `untimely` events were too old for some jail, or in the future.
    """

    name: str
    origins: Sequence[str]
    behind: int
    complaint: str
    lag: float = 0.0
    dropped: int = 0
    lines: int = 0
    matched: int = 0
    untimely: int = 0
    passed_over: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class RefusedBan:
    """A ban of the ban set that the last judge or a firewall keeps out of it, and why."""

    network: str
    jail: str
    why: str


@dataclass(frozen=True, slots=True)
class FirewallSummary:
    """One firewall: its name, its last words if it is failing (empty if not), and the packets it dropped.

    None where they are not known.
    """

    name: str
    error: str
    dropped: int | None


@dataclass(frozen=True, slots=True)
class ReachSummary:
    """Some bans whose packets reach this host from another machine, `via`; and who shuts their clients out instead."""

    via: str
    bans: int
    enforced_by: Sequence[str]


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """The whole daemon.

    `bans` is the number in force; `reach` has those among them that the kernel does not see.
    """

    version: str
    pid: int
    started: float
    store: str
    enforcing: bool
    bans: int
    firewalls: Sequence[FirewallSummary]
    reach: Sequence[ReachSummary]
    jails: Sequence[JailSummary]
    sources: Sequence[SourceSummary]
    refused: Sequence[RefusedBan]

    @classmethod
    def from_json(cls, record: Mapping[str, object]) -> Self:
        """Read what the control socket gave; raise TypeError or KeyError if it is something else."""
        fields = dict(cast("Mapping[str, Any]", record))
        fields["firewalls"] = tuple(FirewallSummary(**firewall) for firewall in fields["firewalls"])
        fields["reach"] = tuple(ReachSummary(**reach) for reach in fields["reach"])
        fields["jails"] = tuple(JailSummary(**jail) for jail in fields["jails"])
        fields["sources"] = tuple(SourceSummary(**source) for source in fields["sources"])
        fields["refused"] = tuple(RefusedBan(**refused) for refused in fields["refused"])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Dropped:
    """What the kernel has dropped of a jail's banned clients since its firewall was last set up."""

    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class JailStatus:
    """One jail as fail2ban shows it; `origins` are the files and sockets its lines come from.

    `reach` has the bans among its own that the kernel does not see. In a dry run `banned` are those who would be.
    `alarm` is what is wrong with the jail (empty if nothing is). `ports` are what its bans are about, empty for all.
    `dropped` is None where that is not counted by jail.
    """

    name: str
    currently_failed: int
    total_failed: int
    origins: Sequence[str]
    currently_banned: int
    total_banned: int
    banned: Sequence[str]
    enforced_by: str
    reach: Sequence[ReachSummary]
    alarm: str = ""
    ports: str = ""
    dropped: Dropped | None = None

    @classmethod
    def from_json(cls, record: Mapping[str, object]) -> Self:
        """Read what the control socket gave; raise TypeError or KeyError if it is something else."""
        fields = dict(cast("Mapping[str, Any]", record))
        fields["reach"] = tuple(ReachSummary(**reach) for reach in fields["reach"])
        fields["dropped"] = Dropped(**fields["dropped"]) if fields.get("dropped") else None
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class BanRecord:
    """One ban as the control socket shows it; `ports` are those it is about, empty for all.

    `end` None is for ever, `ref` is what a shut-out person can quote, `enforced_by` who shuts the client out.
    `not_enforced` says, of a ban just made, why the firewall does not hold it. One by force that is `unconfirmed` ends
    within a minute unless it is confirmed. `host` is where it was decided, as far as that is known.
    """

    network: str
    jail: str
    start: float
    end: float | None
    reason: str
    failures: int
    evidence: Sequence[str]
    via: Sequence[str]
    ref: str
    automatic: bool
    enforced_by: Sequence[str] = ()
    not_enforced: str = ""
    unconfirmed: bool = False
    ports: str = ""
    host: str = ""

    @classmethod
    def of(cls, ban: Ban, enforced_by: Sequence[str] = ()) -> Self:
        """Make the record of a ban."""
        return cls(
            ban.where,
            ban.jail,
            ban.start,
            ban.end,
            ban.reason,
            ban.failures,
            ban.evidence,
            ban.via,
            ban.ref,
            ban.automatic,
            enforced_by,
            ports=ban.ports,
            host=ban.host,
        )

    @classmethod
    def from_json(cls, record: Mapping[str, object]) -> Self:
        """Read what the control socket gave; raise TypeError if it is something else."""
        return cls(**cast("dict[str, Any]", record))


@dataclass(frozen=True, slots=True)
class SafelistRecord:
    """One entry of the safelist that was made beside the settings, on `host`; `until` None is for ever."""

    network: str
    until: float | None
    reason: str
    host: str

    @classmethod
    def of(cls, entry: Safelisted) -> Self:
        """Make the record of an entry."""
        return cls(entry.key, entry.until, entry.reason, entry.host)

    @classmethod
    def from_json(cls, record: object) -> Self:
        """Read what the control socket gave; raise TypeError if it is something else."""
        return cls(**cast("dict[str, Any]", record))
