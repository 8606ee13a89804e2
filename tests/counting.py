"""The pure model of counters, and what property tests count: requests under windows and buckets, some given back."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from appguard.limit import Hit, Limit
from appguard.rate import Left, SlidingWindow, TokenBucket

UNIT = 1 / 16  # seconds: times in whole units, and all that is made of them, are exact in seconds and in milliseconds
LIMITS = (
    Limit("3/minute"),
    Limit("8/minute"),
    Limit("4/minute", burst=2),
    Limit("8/minute", burst=8),
    Limit("16/minute", burst=5),
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

    def check(self, hits: Sequence[Hit], now: float) -> tuple[str | None, float, list[Left]]:
        """Give the key that refuses and its wait, or count and give what is left."""
        mine = [self.counters.setdefault(hit.key, hit.rate.counter()) for hit in hits]
        waits = [counter.wait(now, hit.cost) for hit, counter in zip(hits, mine, strict=True)]
        if any(waits):
            longest = waits.index(max(waits))
            return hits[longest].key, waits[longest], []
        for hit, counter in zip(hits, mine, strict=True):
            if hit.cost:
                counter.add(now, hit.cost)
        return None, 0.0, [counter.left(now) for counter in mine]

    def give_back(self, hits: Sequence[Hit], at: float, now: float) -> None:
        """Take reserved hits out again."""
        for hit in hits:
            self.counters[hit.key].give_back(at, now, hit.cost)


def hits_of(example: int, keys: Sequence[tuple[int, int, int]], *, is_reserved: bool) -> list[Hit]:
    """Make the hits of a request, of clients that no other example has."""
    return [
        Hit(f"{example}.{client} {LIMITS[limit]} {limit}", LIMITS[limit], cost, None, is_reserved)
        for client, limit, cost in keys
    ]
