"""Rates: the sliding window and the token bucket, each against a plain log of admissions."""

from bisect import bisect_right
from copy import deepcopy
from itertools import accumulate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appguard.errors import ConfigError
from appguard.rate import RUNS_PER_WINDOW, Rate, SlidingWindow, TokenBucket, parse_rate

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
    assert len(window._older) <= RUNS_PER_WINDOW  # pyright: ignore[reportPrivateUsage]


# The token bucket


@given(amount=st.integers(1, 10), burst=st.integers(1, 10), gaps=gaps)
def test_bucket_never_gives_more_than_burst_and_refill(amount: int, burst: int, gaps: list[int]) -> None:
    """Between any two admissions lie at most the burst and what the rate refilled since; a full bucket gives it all."""
    bucket = TokenBucket(parse_rate(f"{amount}/second", burst))
    let_in: list[float] = []
    for now in (number * UNIT for number in accumulate(gaps)):
        if bucket.wait(now) == 0:
            bucket.add(now)
            let_in.append(now)
    assert len(let_in) >= min(burst, len(gaps))
    for first, begin in enumerate(let_in):
        for number, end in enumerate(let_in[first:], 1):
            assert number <= burst + amount * (end - begin) + 1e-3


@given(amount=st.integers(1, 10), burst=st.integers(1, 10), gaps=gaps)
def test_wait_for_a_token_is_exact(amount: int, burst: int, gaps: list[int]) -> None:
    """A refused request is admitted when its wait has passed, and not noticeably before."""
    bucket = TokenBucket(parse_rate(f"{amount}/second", burst))
    for now in (number * UNIT for number in accumulate(gaps)):
        wait = bucket.wait(now)
        if wait == 0:
            bucket.add(now)
            continue
        assert 0 < wait <= 1 / amount + 1e-6
        assert bucket.wait(now + wait) == 0
        assert wait < 2e-6 or bucket.wait(now + wait - 2e-6) > 0


def test_bucket_gives_its_burst_and_then_evenly() -> None:
    """Twenty at once, then one each tenth of a second, and the burst again after two quiet seconds."""
    bucket = TokenBucket(parse_rate("10/second", 20))
    let_in: list[float] = []
    for tick in range(400):
        now = tick / 100
        for _ in range(25 if tick in (0, 300) else 1):
            if (tick <= 100 or tick >= 300) and bucket.wait(now) == 0:
                bucket.add(now)
                let_in.append(now)
    assert let_in.count(0.0) == let_in.count(3.0) == 20
    assert len([time for time in let_in if 0 < time <= 1]) == 10


# Costs, and asking at no cost


@pytest.mark.parametrize("burst", [0, 5])
def test_cost_is_so_many_requests(burst: int) -> None:
    """A request of cost three takes three; one that does not fit is refused while a smaller one fits."""
    counter = parse_rate("5/second", burst).counter()
    assert counter.wait(1.0, 3) == 0
    counter.add(1.0, 3)
    assert counter.wait(1.0, 2) == 0
    assert counter.wait(1.0, 3) > 0
    assert counter.wait(1.0, 6) == 1.0  # never, really: more than there ever is
    counter.add(1.0, 2)
    assert counter.wait(1.0, 1) == counter.wait(1.0, 0) > 0


@given(amount=st.integers(1, 6), steps=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 4)), max_size=40))
def test_window_with_costs_never_holds_more_than_the_amount(amount: int, steps: list[tuple[int, int]]) -> None:
    """Whatever the costs, no window holds more of them than the amount; and each wait is exact."""
    window, spent = SlidingWindow(parse_rate(f"{amount}/second")), list[float]()
    for now, cost in zip(accumulate(gap * UNIT for gap, _ in steps), (cost for _, cost in steps), strict=True):
        wait = window.wait(now, cost)
        if wait == 0 and cost:
            window.add(now, cost)
            spent += [now] * cost
        elif wait and max(cost, 1) <= amount:
            assert deepcopy(window).wait(now + wait - UNIT, cost) > 0
            assert deepcopy(window).wait(now + wait, cost) == 0
    assert most_in_any_window(spent, 1.0) <= amount


# Reserved and given back

trips = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 200), st.integers(0, 1100)), st.one_of(st.none(), st.integers(0, 1500))
    ),  # (gap, units until it is given back)
    max_size=40,
)


def kept_after_giving_back(rate: Rate, trips: list[tuple[int, int | None]]) -> list[float]:
    """Let requests come, each admitted one given back after a while or never; give the times of those that stay."""
    counter = rate.counter()
    kept: list[float] = []
    returning: list[tuple[float, float]] = []
    for now, after in zip(accumulate(gap * UNIT for gap, _ in trips), (after for _, after in trips), strict=True):
        for due, at in sorted(each for each in returning if each[0] <= now):
            counter.give_back(at, due, 1)
            returning.remove((due, at))
        if counter.wait(now) == 0:
            counter.add(now)
            if after is None:
                kept.append(now)
            else:
                returning.append((now + after * UNIT, now))
    return kept


@given(amount=st.integers(1, 6), trips=trips)
def test_window_keeps_its_promise_whatever_is_given_back(amount: int, trips: list[tuple[int, int | None]]) -> None:
    """Of the requests that stay counted no window ever holds more than the amount."""
    assert most_in_any_window(kept_after_giving_back(parse_rate(f"{amount}/second"), trips), 1.0) <= amount


@example(amount=1, burst=2, trips=[(0, 922), (921, None), (1, None), (102, None)])  # full while it was reserved
@given(amount=st.integers(1, 6), burst=st.integers(1, 6), trips=trips)
def test_bucket_keeps_its_promise_whatever_is_given_back(
    amount: int, burst: int, trips: list[tuple[int, int | None]]
) -> None:
    """Of the requests that stay counted there are never more than the burst and the refill between them."""
    kept = kept_after_giving_back(parse_rate(f"{amount}/second", burst), trips)
    for first, begin in enumerate(kept):
        for number, end in enumerate(kept[first:], 1):
            assert number <= burst + amount * (end - begin) + 1e-3


@pytest.mark.parametrize("burst", [0, 5])
def test_what_is_given_back_at_once_may_be_had_again(burst: int) -> None:
    """Right logins, each given back, use up nothing, however many; wrong ones in between do."""
    counter = parse_rate("5/hour", burst).counter()
    for number in range(200):
        assert counter.wait(float(number)) == 0
        counter.add(float(number))
        counter.give_back(float(number), float(number), 1)
    for _ in range(5):
        assert counter.wait(200.0) == 0
        counter.add(200.0)
    assert counter.wait(200.0) > 0


def test_rate_with_a_burst_says_so_and_a_wrong_one_is_named() -> None:
    """The text tells the two algorithms apart, so that one's counter is never read as the other's."""
    assert parse_rate("5/second", 9).text == "5/second burst 9"
    with pytest.raises(ConfigError, match="burst must be a whole number of at least 1"):
        parse_rate("5/second", -1)
