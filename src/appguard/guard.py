"""Guard: the decision about one request, in the order safelist > ban > trap > limit. No I/O; time is an argument.

`Guard.judge` is the whole policy; where `usual` knows the rest of it, the middleware asks for the ban alone. What
it cannot decide it gives back as hits; the caller asks its counters with one call and hands the verdict to
`Guard.settle`. A key over its limit is refused from memory until the time the counters gave (the deny cache), so that a
refused client costs no counter call; this is exact, because a refused request is not counted. A limit of outcomes may
be given back what was reserved, so there the cache holds for a second.
"""

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple, cast, final

from appguard.address import Address, NetworkSet
from appguard.ban import Ban
from appguard.limit import CLOSED_WAIT, Hit, Limit, Verdict, path_pattern
from appguard.matching import Matching
from appguard.outcome import Outcome, Pending
from appguard.proxies import Client
from appguard.rate import Rate
from appguard.request import HeaderOf, Request
from appguard.traps import Traps

MEMO_MOST = 8192
DENY_MOST = 60.0  # seconds a refusal is answered from memory before the counters are asked again
DENY_OUTCOME_MOST = 1.0  # the same of a limit of outcomes


@final
class Refusal(NamedTuple):
    """Why a request is refused, and for how many seconds: by a ban (403), a limit (429), a trap (404), or because no
    counters could be asked and the settings say to refuse then (503).
    """

    status: int
    wait: float | None
    ban: Ban | None = None
    limit: Limit | None = None
    rate: Rate | None = None


TRAPPED = Refusal(404, None)
UNCOUNTED = Refusal(503, CLOSED_WAIT)
NOT_DENIED = (0.0, 0.0, 0)

_new_refusal = cast(
    "Callable[[type[Refusal], tuple[int, float | None, Ban | None, Limit | None, Rate | None]], Refusal]",
    tuple.__new__,  # pyright: ignore[reportUnknownMemberType]
)  # what calling `Refusal` does of the same five, in half the time


class Guard:
    """The policy of one app: who is never refused, and what is limited.

    `header_of` reads a framework's request, `is_attempt` says whether a request looks like a login (None: the counters
    cannot give back, so nothing is reserved), `secret` keys the hashes of users and API keys.

    `usual` holds, by a client's key, hits that `judge` gives for each of its requests unless the client is banned, a
    key is denied or it is a CORS preflight; who has looked at those three need not call it. (A client without an
    address has no key.) It is empty where there is more to be asked: a key tells neither the path, for traps, nor
    which address of a network it is, for the safelist.
    """

    def __init__(
        self,
        limits: Sequence[Limit] = (),
        safelist: NetworkSet | None = None,
        exempt_paths: Iterable[str] = (),
        header_of: HeaderOf = lambda _native, _name: "",
        is_attempt: Callable[[Request], bool] | None = lambda _request: False,
        secret: str = "",
        traps: Traps | None = None,
    ) -> None:
        self._safelist = safelist or NetworkSet()
        self._has_safelist = any(True for _ in self._safelist)
        exempt = [path_pattern(path) for path in exempt_paths]
        enforced, tried = ([limit for limit in limits if limit.dry_run is dry] for dry in (False, True))
        self._matching = Matching(enforced, header_of, is_attempt, secret, exempt)
        self._dry = Matching(tried, header_of, None, secret, exempt)
        self._header_of = header_of
        self._traps = traps
        is_plain = traps is None and not self._has_safelist
        self._usual = self._matching.usual  # at hand
        self.usual = self._usual if is_plain else dict[str, tuple[Hit, ...]]()
        self.has_dry_limits = bool(tried)
        self.has_outcomes = any(not limit.counts_requests for limit in limits)
        self.denied: dict[str, tuple[float, float, int]] = {}  # when to ask again, when it ends, at which cost
        self.denied_until = 0.0  # when all of them are to be asked again

    def judge(
        self,
        client: Client,
        method: str,
        path: str,
        ban_of: Callable[[Address], Ban | None],
        wall: Callable[[], float],
        now: float,
        is_preflight: bool = False,
        native: object = None,
    ) -> Refusal | Sequence[Hit]:
        """Refuse, or give the hits to be counted (none: admitted).

        `wall` gives Unix seconds, for bans; `now` is monotonic seconds, for limits; `native` is the framework's own.
        A CORS preflight is spared by limits of requests alone: what becomes of it counts like any other outcome.
        """
        address = client.address
        if address is None or (self._has_safelist and address in self._safelist):
            return ()
        ban = ban_of(address)
        if ban is not None:
            return _new_refusal(Refusal, (403, None if ban.end is None else ban.end - wall(), ban, None, None))
        if self._traps is not None and path in self._traps:
            return TRAPPED
        if is_preflight and not self.has_outcomes:
            return ()
        found = self._usual.get(client.key) or self._matching.hits(client, method, path, native)
        hits = of_outcomes(found) if is_preflight else found
        if self.denied:
            for hit in hits:
                until, end, cost = self.denied.get(hit.key, NOT_DENIED)
                if until > now and (hit.cost or 1) >= cost:
                    return _new_refusal(Refusal, (429, end - now, None, hit.limit, hit.rate))
        return hits

    def is_limited(self, client: Client) -> bool:
        """Say whether any limit may meet a client that is not banned."""
        return client.address is not None and not (self._has_safelist and client.address in self._safelist)

    def dry_hits(
        self, client: Client, method: str, path: str, native: object, is_preflight: bool = False
    ) -> Sequence[Hit]:
        """Give the hits of limits in dry run, each to be asked about alone, of a request that was let in."""
        hits = self._dry.hits(client, method, path, native)
        return of_outcomes(hits) if is_preflight else hits

    def knows_only(self, key: str) -> bool:
        """Say whether of all clients that limits have met lately, this is the only one."""
        return self._matching.clients() == {key}

    def settle(self, verdict: Verdict, now: float) -> Refusal:
        """Turn a verdict that refuses into a refusal, and remember it if it says something of the client."""
        refused = verdict.refused
        assert refused is not None
        if not verdict.is_known:
            return UNCOUNTED
        if len(self.denied) >= MEMO_MOST:
            self.denied.clear()
        most = DENY_MOST if refused.limit.counts_requests else DENY_OUTCOME_MOST
        until = now + min(verdict.wait, most)
        self.denied_until = max(self.denied_until, until)
        self.denied[refused.key] = (until, now + verdict.wait, refused.cost or 1)
        return Refusal(429, verdict.wait, None, refused.limit, refused.rate)

    def pending(
        self, hits: Sequence[Hit], time: float, client: Client, method: str, path: str, native: object
    ) -> Pending | None:
        """Give what the outcome of an admitted request will settle, None if nothing."""
        waiting = [hit for hit in hits if not hit.limit.counts_requests]
        request = Request(client, method, path, native, self._header_of)
        users = [*self._matching.users(request), *self._dry.users(request)]
        return Pending(request, waiting, users, time) if waiting or users else None

    def to_ask(self, pending: Pending, outcome: Outcome) -> list[Hit]:
        """Give the hits an outcome adds to what was counted before it, each to be asked about alone.

        A user's hit asks, at no cost, even where the outcome does not count: a right password is no way in while the
        user's wrong ones fill the limit.
        """
        found = [self._matching.after(hit, pending.request) for hit in pending.to_count(outcome)]
        if not outcome.user or not outcome.is_login:
            return found
        for limit in pending.users:
            counts = outcome.counts_for(limit)
            hit = self._matching.hit_of_user(limit, pending.request, outcome.user, is_counted=counts)
            found += [hit] if hit else []
        return found


class Due(NamedTuple):
    """What an outcome changes under one guard: hits to be given back, and hits to be asked about, each alone."""

    guard: Guard
    pending: Pending
    returned: Sequence[Hit]
    asked: Sequence[Hit]


def of_outcomes(hits: Iterable[Hit]) -> Sequence[Hit]:
    """Give those hits that limits of outcomes have."""
    return [hit for hit in hits if not hit.limit.counts_requests]


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
        digest = self._digest(key, credential)
        until = self._until.get(digest, 0.0)
        if until <= now:
            if len(self._until) >= self._most:
                noted = self._until.copy()  # other threads note meanwhile
                self._until = {mine: end for mine, end in noted.items() if end > now}
            if len(self._until) >= self._most:
                self._until.clear()
            self._until[digest] = now + self._seconds
        return until > now

    def knows(self, key: str, credential: bytes, now: float) -> bool:
        """Say whether a credential of a client was noted within the time."""
        return self._until.get(self._digest(key, credential), 0.0) > now

    def _digest(self, key: str, credential: bytes) -> bytes:
        return blake2b(key.encode() + b"\0" + credential, key=self._salt, digest_size=16).digest()
