"""Guard: the decision about one request, in the order safelist > ban > limit. No I/O; time is an argument.

`Guard.judge` is the whole policy. What it cannot decide alone it gives back as hits; the caller asks its counters with
one call and hands the verdict to `Guard.settle`. A key over its limit is refused from memory until the time the
counters gave (the deny cache), so that a refused client costs no counter call; this is exact, because a refused
request is not counted.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from re import Pattern

from appguard.address import Address, Client, NetworkSet
from appguard.ban import Ban
from appguard.limit import Hit, Limit, Verdict, normal_path, path_pattern

MEMO_MOST = 8192
DENY_MOST = 60.0  # seconds a refusal is answered from memory before the counters are asked again


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused: by a ban (403) or by a limit (429), and the seconds until it may come back."""

    status: int
    wait: float | None
    ban: Ban | None = None
    limit: Limit | None = None


class Guard:
    """The policy of one app: who is never refused, and what is limited."""

    def __init__(
        self,
        limits: Sequence[Limit] = (),
        safelist: NetworkSet | None = None,
        exempt_paths: Iterable[str] = (),
    ) -> None:
        self._safelist = safelist or NetworkSet()
        self._exempt = tuple(path_pattern(path) for path in exempt_paths)
        self._everywhere = tuple(limit for limit in limits if not limit.path and not limit.methods)
        self._somewhere = tuple(
            (limit, frozenset(limit.methods), path_pattern(limit.path or "*"))
            for limit in limits
            if limit not in self._everywhere
        )
        self._hits: dict[str, tuple[Hit, ...]] = {}
        self._denied: dict[str, tuple[float, float]] = {}  # when to ask again, and when it ends

    def judge(
        self,
        client: Client,
        method: str,
        path: str,
        ban_of: Callable[[Address], Ban | None],
        wall: float,
        now: float,
        *,
        is_counted: bool = True,
    ) -> Refusal | Sequence[Hit]:
        """Refuse, or give the hits to be counted (none: admitted).

        `wall` is Unix seconds, for bans; `now` is monotonic seconds, for limits.
        """
        address = client.address
        if address is None or address in self._safelist:
            return ()
        ban = ban_of(address)
        if ban is not None:
            return Refusal(403, None if ban.end is None else ban.end - wall, ban=ban)
        if not is_counted or (self._exempt and any_match(self._exempt, normal_path(path))):
            return ()
        hits = self._hits_of(client.key, method, path)
        if self._denied:
            for hit in hits:
                until, end = self._denied.get(hit.key, (0.0, 0.0))
                if until > now:
                    return Refusal(429, end - now, limit=hit.limit)
        return hits

    def settle(self, verdict: Verdict, now: float) -> Refusal | None:
        """Turn what the counters said into a refusal, and remember it."""
        refused = verdict.refused
        if refused is None:
            return None
        if len(self._denied) >= MEMO_MOST:
            self._denied.clear()
        self._denied[refused.key] = (now + min(verdict.wait, DENY_MOST), now + verdict.wait)
        return Refusal(429, verdict.wait, limit=refused.limit)

    def _hits_of(self, key: str, method: str, path: str) -> Sequence[Hit]:
        hits = self._hits.get(key)
        if hits is None:
            if len(self._hits) >= MEMO_MOST:
                self._hits.clear()
            hits = self._hits[key] = tuple(Hit(f"{key} {limit.name}", limit) for limit in self._everywhere)
        if not self._somewhere:
            return hits
        path = normal_path(path)
        return hits + tuple(
            Hit(f"{key} {limit.name}", limit)
            for limit, methods, pattern in self._somewhere
            if (not methods or method in methods) and pattern.fullmatch(path)
        )


def any_match(patterns: Iterable[Pattern[str]], path: str) -> bool:
    """Say whether any pattern matches the whole path."""
    return any(pattern.fullmatch(path) for pattern in patterns)


class SeenCredentials:
    """Remembers, for a while and only as salted hashes, which wrong credentials a client has already tried.

    A mail client or a sync job that repeats one old password for a week is one failure, not a thousand.
    """

    def __init__(self, salt: bytes, seconds: float, most: int = 10_000) -> None:
        self._salt = salt
        self._seconds = seconds
        self._most = most
        self._until: dict[bytes, float] = {}

    def is_repeated(self, key: str, credential: bytes, now: float) -> bool:
        """Note a wrong credential of a client; say whether it was noted before within the time."""
        digest = blake2b(key.encode() + b"\0" + credential, key=self._salt, digest_size=16).digest()
        until = self._until.get(digest, 0.0)
        if until <= now:
            if len(self._until) >= self._most:
                self._until = {mine: end for mine, end in self._until.items() if end > now}
            if len(self._until) >= self._most:
                self._until.clear()
            self._until[digest] = now + self._seconds
        return until > now
