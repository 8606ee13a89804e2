"""Rates: the sliding window and the token bucket, each against a plain log of admissions."""

from bisect import bisect_right
from copy import deepcopy
from itertools import accumulate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appguard.rate import RUNS_PER_WINDOW, Rate, SlidingWindow, parse_rate

UNIT = 1 / 1024  # times in whole units are exact floats, so that a test compares what the code compares


def admitted(rate: Rate, times: list[float]) -> list[float]:
    """Give the times of the requests that are admitted of those at `times`."""
    window = SlidingWindow(rate)
    let_in: list[float] = []
    for now in times:
        wait = window.wait(now)
        assert wait >= 0
        if wait == 0:
            window.add(now)
            let_in.append(now)
    return let_in


def most_in_any_window(times: list[float], window: float) -> int:
    """Give the largest number of times in any half-open window, looked for at every time."""
    return max((bisect_right(times, time) - bisect_right(times, time - window) for time in times), default=0)


# Bursts apart by about a tenth of a window, by about a window, or by anything.
gaps = st.lists(
    st.tuples(
        st.one_of(
            st.integers(0, 110), st.integers(900, 1030), st.integers(0, 4000), st.sampled_from([102, 103, 1023, 1024])
        ),
        st.integers(1, 6),
    ),
    max_size=40,
).map(lambda bursts: [gap for first, size in bursts for gap in [first, *[0] * (size - 1)]])


@example(amount=2, gaps=[0, 51, 1023, 0])
@given(amount=st.integers(1, 10), gaps=gaps)
def test_no_window_ever_holds_more_than_the_amount(amount: int, gaps: list[int]) -> None:
    """Wherever a window of one second begins, at most the amount was admitted in it."""
    times = [number * UNIT for number in accumulate(gaps)]
    let_in = admitted(parse_rate(f"{amount}/second"), times)
    assert most_in_any_window(let_in, 1.0) <= amount
    assert len(let_in) >= min(amount, len(times))


@given(amount=st.integers(1, 25), gaps=gaps)
def test_nobody_below_nine_tenths_of_the_rate_is_refused(amount: int, gaps: list[int]) -> None:
    """Who never has more than the amount in a window and a tenth is never refused."""
    times = [number * UNIT for number in accumulate(gaps)]
    if most_in_any_window(times, 1.0 + 1 / RUNS_PER_WINDOW) <= amount:
        assert admitted(parse_rate(f"{amount}/second"), times) == times


@given(amount=st.integers(1, 25), gaps=gaps)
def test_wait_is_exact(amount: int, gaps: list[int]) -> None:
    """A refused request is admitted when its wait has passed, and at no moment before."""
    window = SlidingWindow(parse_rate(f"{amount}/second"))
    for now in (number * UNIT for number in accumulate(gaps)):
        wait = window.wait(now)
        if wait == 0:
            window.add(now)
            continue
        assert 0 < wait <= 1.0
        assert deepcopy(window).wait(now + wait - UNIT) > 0
        assert deepcopy(window).wait(now + wait) == 0


@pytest.mark.parametrize("amount", [1, 2, 5, 100, 1000])
def test_burst_is_given_back_exactly_one_window_later(amount: int) -> None:
    """After a burst nothing is admitted until one window after it, and then all of it at once."""
    window = SlidingWindow(parse_rate(f"{amount}/second"))
    for _ in range(amount):
        assert window.wait(5.0) == 0
        window.add(5.0)
    assert window.wait(5.0) == 1.0
    assert window.wait(6.0 - UNIT) == UNIT
    assert (
        admitted(parse_rate(f"{amount}/second"), [5.0] * 2 * amount + [6.0] * 2 * amount)
        == [5.0] * amount + [6.0] * amount
    )


def admitted_by_a_log(amount: int, times: list[float]) -> list[float]:
    """Give what is admitted by keeping the time of every admission: the most that any exact limit can admit."""
    let_in: list[float] = []
    for now in times:
        if sum(time > now - 1.0 for time in let_in[-amount:]) < amount:
            let_in.append(now)
    return let_in


@pytest.mark.parametrize("amount", [1, 2, 3, 5, 7, 10, 11, 100])
@pytest.mark.parametrize("pace", [0.5, 1.0, 1.01, 1.1, 1.5, 2.0, 10.0])
def test_steady_flow_loses_at_most_a_tenth(amount: int, pace: float) -> None:
    """Whoever sends steadily gets at least nine tenths of what a log of every request would admit."""
    times = [round(number / (amount * pace) / UNIT) * UNIT for number in range(int(20 * amount * pace))]
    let_in = admitted(parse_rate(f"{amount}/second"), times)
    assert len(let_in) >= 0.9 * len(admitted_by_a_log(amount, times))


def test_refused_requests_do_not_count() -> None:
    """Knocking while refused does not put off the time of being let in."""
    knocks = [0.0] * 5 + [number / 100 for number in range(1, 120)]
    assert [time for time in admitted(parse_rate("5/second"), knocks) if time] == [1.0, 1.01, 1.02, 1.03, 1.04]


def test_a_window_is_small_whatever_the_amount() -> None:
    """A million requests of one key are kept as a few runs."""
    window = SlidingWindow(parse_rate("1000000/hour"))
    for number in range(20_000):
        window.add(number / 10)
    assert len(window._runs) <= RUNS_PER_WINDOW + 1  # pyright: ignore[reportPrivateUsage]
