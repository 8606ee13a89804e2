"""Matching: which limits a request meets, under which key, at which cost and rate.

What depends on method and path alone is remembered for both, and the hits of a client for all requests that meet the
same limits; so the usual request costs one dictionary look-up, or three where limits name paths. Only limits that ask
more of a request (a header, the user, a function) are worked out each time. Keys other than addresses are kept as keyed
hashes: whoever may read the counters learns no user name and no API key, and a stranger's header is never longer than a
hash.

A user's function that fails never fails the request: the log says so once, and the limit falls back to the stricter
side: the address as key, the usual cost, no exemption, the last good rate.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from re import Pattern
from typing import TypeVar

from appguard.limit import Hit, Limit, normal_path, path_pattern
from appguard.proxies import Client
from appguard.rate import Rate, parse_rate
from appguard.request import HeaderOf, Request, normal_user

MEMO_MOST = 8192
PATH_MOST = 256  # characters of a path that is remembered: a stranger chooses it

T = TypeVar("T")
log = logging.getLogger("appguard")


class Matched:
    """The limits that requests of some methods and paths meet: those of fixed hits, and those that ask more.

    `hits` remembers the fixed ones of each client, `attempts` those of requests that look like a login.
    """

    def __init__(self, limits: Sequence[Limit]) -> None:
        self.hits: dict[str, tuple[Hit, ...]] = {}
        self.attempts: dict[str, tuple[Hit, ...]] = {}
        self.fixed = tuple(limit for limit in limits if _is_fixed(limit))
        self.asking = tuple(limit for limit in limits if not _is_fixed(limit))
        self.has_any = bool(limits)
        self.asks_for_attempts = any(_reserves_attempts(limit) for limit in self.fixed)
        self.is_plain = not self.asking and not self.asks_for_attempts  # a client's key says all


def _is_fixed(limit: Limit) -> bool:
    """Say whether a client's hit is the same for every request that meets the limit, or every one like a login."""
    is_plain = limit.key == "address" and limit.fixed is not None and isinstance(limit.cost, int)
    return is_plain and limit.exempt is None


def _reserves_attempts(limit: Limit) -> bool:
    """Say whether a limit of outcomes reserves only what looks like a login."""
    return not limit.counts_requests and not limit.statuses and not reserves_all(limit)


def reserves_all(limit: Limit) -> bool:
    """Say whether a limit of outcomes counts every request it meets until the outcome is known."""
    return bool(limit.path or limit.methods)


class Matching:
    """Some limits of one app, which no path meets that one of the patterns `exempt` matches.

    `is_attempt` says whether a request looks like a login; without it nothing is reserved, outcomes are only counted
    afterwards. `secret` keys the hashes. `usual` holds, by a client's key, hits that are the same for all its requests.
    """

    def __init__(
        self,
        limits: Sequence[Limit],
        header_of: HeaderOf,
        is_attempt: Callable[[Request], bool] | None,
        secret: str,
        exempt: Sequence[Pattern[str]] = (),
    ) -> None:
        ordered = sorted(limits, key=lambda limit: not limit.counts_requests)  # outcomes last
        self._limits = tuple((limit, _methods(limit), path_pattern(limit.path or "*")) for limit in ordered)
        self._exempt = exempt
        is_everywhere = not exempt and not any(limit.path or limit.methods for limit in limits)
        self._has_users = any(limit.key == "user" and not limit.counts_requests for limit in limits)
        self._always = always = Matched(ordered) if is_everywhere else None
        self.usual = always.hits if always is not None and always.is_plain else dict[str, tuple[Hit, ...]]()
        self._header_of = header_of
        self._is_attempt = is_attempt
        self._secret = _digest(secret)
        self._sets: dict[tuple[Limit, ...], Matched] = {}
        self._matched: dict[tuple[str, str], Matched] = {}
        self._rates: dict[str, Rate] = {}
        self._said: set[str] = set()

    def hits(self, client: Client, method: str, path: str, native: object = None) -> Sequence[Hit]:
        """Give the hits of a request, each counter once; those of outcomes come last."""
        matched = self._always or self._matched.get((method, path)) or self._match(method, path)
        if matched.is_plain and (plain := matched.hits.get(client.key)) is not None:
            return plain
        is_attempt = (
            matched.asks_for_attempts
            and self._is_attempt is not None
            and self._is_attempt(Request(client, method, path, native, self._header_of))
        )
        known = matched.attempts if is_attempt else matched.hits
        hits = known.get(client.key)
        if hits is None:
            hits = self._fixed_hits(client.key, matched, known, is_attempt=is_attempt)
        if not matched.asking:
            return hits
        request = Request(client, method, path, native, self._header_of)
        found = [*hits, *filter(None, (self._hit(limit, request) for limit in matched.asking))]
        found.sort(key=lambda hit: not hit.limit.counts_requests)
        return _once(found)

    def clients(self) -> set[str]:
        """Give the keys of the clients met lately, as far as they are remembered."""
        every = (self._always,) if self._always else tuple(self._sets.values())
        known = [keys for matched in every if matched.has_any for keys in (matched.hits, matched.attempts)]
        return set[str]().union(*known)  # each in one step: other threads meet clients meanwhile

    def users(self, request: Request) -> Sequence[Limit]:
        """Give the limits of users' outcomes a request meets whose user only the outcome names."""
        if not self._has_users:
            return ()
        matched = (
            self._always
            or self._matched.get((request.method, request.path))
            or self._match(request.method, request.path)
        )
        return [
            limit
            for limit in matched.asking
            if limit.key == "user"
            and not limit.counts_requests
            and not self._user(limit, request)
            and not self._is_exempt(limit, request)
        ]

    def after(self, hit: Hit, request: Request) -> Hit:
        """Give a hit that only asked as one that counts."""
        return Hit(hit.key, hit.limit, self._cost(hit.limit, request), hit.dynamic)

    def hit_of_user(self, limit: Limit, request: Request, user: str, *, is_counted: bool) -> Hit | None:
        """Give the hit of a user whom the outcome has named; at no cost if the outcome does not count."""
        rate, cost = self._rate(limit, request), self._cost(limit, request)
        if rate is None or not cost:
            return None
        return Hit(f"{self._hashed('user', user)} {limit.counter(rate)}", limit, cost if is_counted else 0, rate)

    def _match(self, method: str, path: str) -> Matched:
        tidy = normal_path(path)
        is_exempt = any(pattern.fullmatch(tidy) for pattern in self._exempt)
        met = tuple(
            limit
            for limit, methods, pattern in self._limits
            if not is_exempt and (not methods or method in methods) and pattern.fullmatch(tidy)
        )
        matched = self._sets.setdefault(met, Matched(met))
        if len(path) <= PATH_MOST and len(method) <= PATH_MOST:
            if len(self._matched) >= MEMO_MOST:
                self._matched.clear()
            self._matched[method, path] = matched
        return matched

    def _fixed_hits(
        self, key: str, matched: Matched, known: dict[str, tuple[Hit, ...]], *, is_attempt: bool
    ) -> tuple[Hit, ...]:
        if len(known) >= MEMO_MOST:
            known.clear()
        hits = known[key] = _once([self._fixed_hit(key, limit, is_attempt) for limit in matched.fixed])
        return hits

    def _fixed_hit(self, key: str, limit: Limit, is_attempt: bool) -> Hit:
        assert limit.fixed is not None and isinstance(limit.cost, int)  # what `_is_fixed` means
        is_reserved = self._reserves(limit, is_attempt)
        cost = limit.cost if limit.counts_requests or is_reserved else 0
        return Hit(f"{key} {limit.counter(limit.fixed)}", limit, cost, None, is_reserved)

    def _reserves(self, limit: Limit, is_attempt: bool) -> bool:
        if limit.counts_requests or self._is_attempt is None:
            return False
        return reserves_all(limit) or (_reserves_attempts(limit) and is_attempt)

    def _hit(self, limit: Limit, request: Request) -> Hit | None:
        if self._is_exempt(limit, request):
            return None
        key, rate, cost = self._key(limit, request), self._rate(limit, request), self._cost(limit, request)
        if not key or rate is None or not cost:
            return None
        if limit.counts_requests:
            return Hit(f"{key} {limit.counter(rate)}", limit, cost, rate)
        looks = self._is_attempt
        is_reserved = self._reserves(limit, _reserves_attempts(limit) and looks is not None and looks(request))
        return Hit(f"{key} {limit.counter(rate)}", limit, cost if is_reserved else 0, rate, is_reserved)

    def _key(self, limit: Limit, request: Request) -> str:
        if limit.key == "address":
            return request.client.key
        if limit.key == "user":
            user = self._user(limit, request)
            return self._hashed("user", user) if user else request.client.key if limit.counts_requests else ""
        if isinstance(limit.key, str):
            kind, text = limit.key, request.header(limit.key.partition(":")[2])
        else:
            kind, text = "function", str(self._asked(limit, "key", limit.key, request, None) or "")
        return self._hashed(kind, text) if text else request.client.key

    def _user(self, limit: Limit, request: Request) -> str:
        """Give the user: for outcomes, which may be guesses, also the one the request only claims to be of."""
        user = self._asked(limit, "user", lambda request: request.user, request, "")
        return user or ("" if limit.counts_requests else request.claimed_user)

    def _rate(self, limit: Limit, request: Request) -> Rate | None:
        if isinstance(limit.rate, str):
            return limit.fixed
        read = limit.rate
        rate = self._asked(limit, "rate", lambda request: parse_rate(read(request), limit.burst), request, None)
        rate = rate or self._rates.get(limit.name)
        if rate is not None:
            self._rates[limit.name] = rate
        return rate

    def _cost(self, limit: Limit, request: Request) -> int:
        if isinstance(limit.cost, int):
            return limit.cost
        read = limit.cost
        return max(0, self._asked(limit, "cost", lambda request: int(read(request)), request, 1))

    def _is_exempt(self, limit: Limit, request: Request) -> bool:
        return limit.exempt is not None and bool(self._asked(limit, "exempt", limit.exempt, request, False))

    def _asked(self, limit: Limit, what: str, ask: Callable[[Request], T], request: Request, default: T) -> T:
        try:
            return ask(request)
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything, and no request fails for it
            if f"{limit} {what}" not in self._said:
                self._said.add(f"{limit} {what}")
                log.error("limit %s: its %s failed: %s: %s", limit, what, type(error).__name__, error)
            return default

    def _hashed(self, kind: str, text: str) -> str:
        """Give a key as a hash: the kind belongs to it, so that no user is named like another's API key."""
        return _hash(kind, text, self._secret)


def hashed_user(user: str, secret: str) -> str:
    """Give a user name as the keyed hash under which limits count it: all spellings of it are one."""
    return _hash("user", user, _digest(secret))


def _digest(secret: str) -> bytes:
    return blake2b(secret.encode(), digest_size=32).digest()


def _hash(kind: str, text: str, secret: bytes) -> str:
    text = normal_user(text) if kind == "user" else text
    data = f"{kind}\0{text}".encode(errors="surrogatepass")
    return f"{kind.partition(':')[0]}:{blake2b(data, key=secret, digest_size=16).hexdigest()}"


def _methods(limit: Limit) -> frozenset[str]:
    return frozenset((*limit.methods, "HEAD") if "GET" in limit.methods else limit.methods)


def _once(hits: Iterable[Hit]) -> tuple[Hit, ...]:
    """Give one hit for each counter: limits that share it count a request once, the one of outcomes wins."""
    return tuple({hit.key: hit for hit in hits}.values())
