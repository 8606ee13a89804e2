"""What the lines of one filter may cost together is bounded, however many are slow, and quick ones are searched."""

from hypothesis import given
from hypothesis import strategies as st

from appguard.filters.patience import AT_ONCE, QUICK, SEARCH_LEAST, SHARE, Patience

# How long each search would take, and how much time passes before it.
SEARCHES = st.lists(st.tuples(st.floats(0, 0.01), st.sampled_from([0.0, 0.0, 0.0, 0.001, 5.0])), max_size=300)


@given(searches=SEARCHES)
def test_slow_lines_together_take_a_part_of_the_time(searches: list[tuple[float, float]]) -> None:
    """Whatever is searched and whenever: no more than what may be at once, a share of the time, and what is quick."""
    now = 0.0
    patience = Patience("x", lambda: now)
    taken = free = 0.0
    for seconds, passed in searches:
        now += passed
        most = patience.seconds()
        took = min(seconds, most)
        patience.spend(took, is_over=seconds > most)
        taken += took
        free += SEARCH_LEAST if seconds > most else QUICK
    assert taken <= AT_ONCE + SHARE * now + free + 1e-9


def test_who_writes_slow_lines_keeps_nobody_else_from_being_searched() -> None:
    """After any number of slow lines one that needs little gets it; after a while all is as before."""
    now = 0.0
    patience = Patience("x", lambda: now)
    at_first = patience.seconds()
    for _ in range(100_000):
        patience.spend(patience.seconds(), is_over=True)
    assert patience.seconds() == SEARCH_LEAST
    for _ in range(100_000):
        patience.spend(QUICK, is_over=False)
    now += 1.01 * AT_ONCE / SHARE
    assert patience.seconds() == at_first


def test_the_complaint_counts() -> None:
    """There is none as long as no line was skipped."""
    patience = Patience("x")
    assert patience.complaint == ""
    patience.skip()
    patience.skip()
    assert patience.complaint == "2 lines were skipped: they take too long for its regexes"
