"""The pure model of counters, and what property tests count: requests under windows and buckets, some given back."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from appguard.limit import Hit, Least, Limit, Verdict
from appguard.rate import SlidingWindow, TokenBucket

UNIT = 1 / 16  # seconds: times in whole units, and all that is made of them, are exact in seconds and in milliseconds
LIMITS = (
    Limit("3/minute"),
    Limit("8/minute"),
    Limit("4/minute", burst=2),
    Limit("8/minute", burst=8),
    Limit("16/minute", burst=5),
    Limit("6/minute", count="auth_failure"),  # of which clients are told nothing
)

# (units since the last request, ((client, limit, cost), ...), is it reserved, units until that is given back)
requests = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 20), st.integers(90, 100), st.integers(900, 1000), st.sampled_from([96, 960])),
        st.lists(
            st.tuples(st.integers(0, 1), st.integers(0, len(LIMITS) - 1), st.integers(0, 3)),
            min_size=1,
            max_size=4,
            unique_by=lambda key: key[:2],
        ),
        st.booleans(),
        st.integers(0, 40),
    ),
    max_size=40,
)


@dataclass(slots=True)
class Model:
    """Counts by the pure algorithms alone, with one dictionary and no other thought."""

    counters: dict[str, SlidingWindow | TokenBucket] = field(
        default_factory=lambda: dict[str, SlidingWindow | TokenBucket]()
    )

    def check(self, hits: Sequence[Hit], now: float) -> tuple[str | None, float, Least | None]:
        """Give the key that refuses and its wait, or count and give what is told of the hits."""
        mine = [self.counters.setdefault(hit.key, hit.rate.counter()) for hit in hits]
        waits = [counter.wait(now, hit.cost) for hit, counter in zip(hits, mine, strict=True)]
        if any(waits):
            longest = waits.index(max(waits))
            return hits[longest].key, waits[longest], None
        for hit, counter in zip(hits, mine, strict=True):
            if hit.cost:
                counter.add(now, hit.cost)
        left = [(*counter.left(now), place) for place, counter in enumerate(mine) if hits[place].limit.counts_requests]
        if not left:
            return None, 0.0, None
        number, seconds, place = min(left, key=lambda each: each[0])
        return None, 0.0, (place, number, seconds)

    def give_back(self, hits: Sequence[Hit], at: float, now: float) -> None:
        """Take reserved hits out again."""
        for hit in hits:
            self.counters[hit.key].give_back(at, now, hit.cost)


def alone(hits: Sequence[Hit]) -> list[list[Hit]]:
    """Give questions that tell what is left of each hit's limit, and count nothing."""
    return [[Hit(hit.key, hit.limit, 0)] for hit in hits]


def remaining(verdict: Verdict) -> int:
    """Give how many requests are left, as clients are told."""
    assert verdict.least is not None
    return verdict.least[1]


def hits_of(example: int, keys: Sequence[tuple[int, int, int]], *, is_reserved: bool) -> list[Hit]:
    """Make the hits of a request, of clients that no other example has."""
    return [
        Hit(f"{example}.{client} {LIMITS[limit]} {limit}", LIMITS[limit], cost, None, is_reserved)
        for client, limit, cost in keys
    ]
