"""Stage 1: no line is lost that an expression matches, whatever the block holds and whatever does the search."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.filters.literals import Literals, literals_of
from appguard.sieve import CHOICE_LASTS, DENSE, REST, Search, Sieve, by_hyperscan, by_re

MOST = 64
EXPRESSIONS = [r"^\S+ \"(GET|POST) .*\" (404|403)", r"(?i)failed (?:password|pin) for", r"Invalid user \S+"]
TEXTS = [b'h "GET /', b'" 404', b'" 200', b"FAILED pin for", b"failed", b"Invalid user x", b"Inva\x1b[0mlid user x"]
PIECES = st.sampled_from([*TEXTS, b"\n", b"\n", b"\r\n", b"\xff", b"\x1b[31m", b" " * 70, b"i" * 200])
BLOCKS = st.lists(PIECES, max_size=40).map(lambda pieces: b"".join(pieces) + b"\n")
NewSearch = Callable[[Literals], Search]


def plain(line: bytes) -> str:
    """Give a line as filters see it: cut, without colours."""
    return re.sub("\x1b\\[[0-9]*m", "", line[:MOST].decode(errors="replace"))


def matching(lines: list[bytes]) -> list[bytes]:
    """Give the lines that match, found without the sieve."""
    return [line for line in lines if any(re.search(each, plain(line)) for each in EXPRESSIONS)]


@pytest.mark.parametrize("search", [by_re, by_hyperscan, None])
@given(blocks=st.lists(BLOCKS, min_size=1, max_size=3))
def test_no_line_is_lost(search: NewSearch | None, blocks: list[bytes]) -> None:
    """What matches among the candidates is what matches among all lines, in order; and candidates are lines."""
    sieve = Sieve([literals_of(each) for each in EXPRESSIONS], MOST, search)
    for block in blocks:
        lines = [line[:MOST] for line in block.split(b"\n")[:-1]]
        candidates = sieve.candidates(block)
        assert matching(candidates) == matching(lines)
        rest = iter(lines)
        assert all(candidate in rest for candidate in candidates)


@pytest.mark.parametrize("search", [by_re, by_hyperscan])
def test_most_lines_are_not_candidates(search: NewSearch) -> None:
    """Only the lines with the rarest literals are taken: not each one with `GET`."""
    sieve = Sieve([literals_of(EXPRESSIONS[0])], 20 * MOST, search)
    lines = [b'h%d "GET /" %s' % (number, b"404" if number % 50 == 0 else b"200") for number in range(1000)]
    assert sieve.candidates(b"\n".join(lines) + b"\n") == lines[::50]


def test_without_literals_every_line_is_a_candidate() -> None:
    """An expression that may match anything makes all lines candidates, and so does having none."""
    block = b"a\n" + b"b" * (MOST + 1) + b"\n\n"
    lines = [b"a", b"b" * MOST, b""]
    assert Sieve([literals_of("abc"), literals_of(".")], MOST).candidates(block) == lines
    assert Sieve([], MOST).candidates(block) == lines


def test_a_line_that_is_cut_is_a_candidate() -> None:
    """A line longer than what is looked at is given, cut, because its literal may stand behind the cut."""
    block = b"x\n" * 100 + b"y" * (MOST + 1) + b"abc\n" + b"x\n" * 100
    assert Sieve([literals_of("abc")], MOST).candidates(block) == [b"y" * MOST]


def test_a_dense_log_is_not_searched() -> None:
    """Where most lines are candidates all are given for a while, and then it is tried again."""
    sieve = Sieve([literals_of("abc")], MOST)
    dense, sparse = b"abc\n" * 10, b"xyz\n" * 99 + b"abc\n"
    assert len(sieve.candidates(dense)) > DENSE * 10
    assert [len(sieve.candidates(sparse)) for _ in range(REST)] == [100] * REST
    assert sieve.candidates(sparse) == [b"abc"]


def test_lines_that_were_not_searched_are_counted_by_a_search() -> None:
    """While all lines are candidates, only those count that the search would have found, each once."""
    sieve = Sieve([[Literals(frozenset({"failed", "refused"}))]], 100)
    dense = b"failed failed refused\n" * 100
    assert sieve.count(sieve.candidates(dense)) == 100
    odd = [b"failed\x1b[0m", b"fai\x1b[0mled", b"x" * 90, b"nothing"]
    assert sieve.count(sieve.candidates(dense + b"nothing\n")) == 100
    assert sieve.count(sieve.candidates(b"\n".join(odd) + b"\n")) == 3


@pytest.mark.parametrize("search", [by_re, by_hyperscan])
def test_beginnings_are_searched_for_where_they_find_no_more(search: NewSearch) -> None:
    """Of texts that begin alike the beginnings do, until the log has others with these; whole texts are counted."""
    searched: list[Literals] = []

    def noted(literals: Literals) -> Search:
        searched.append(literals)
        return search(literals)

    sieve = Sieve([[Literals(frozenset({'" 401 ', '" 404 ', '" 503 '}))]], 100, noted)
    common = b'GET / HTTP/1.1" 200 5\n' * 100
    assert sieve.candidates(common + b'a" 404 5\n') == [b'a" 404 5']
    found = sieve.candidates(common + b'b" 401 5\nc" 499 5\n')
    assert found == [b'b" 401 5', b'c" 499 5']
    assert sieve.count(found) == 1
    assert [sorted(each.texts) for each in searched] == [['" 4', '" 5']]
    others = b'd" 499 5\n' * 30 + common
    sieve.candidates(others * (CHOICE_LASTS // len(others) + 1))
    assert sieve.candidates(others + b'e" 503 5\n') == [b'e" 503 5']


@given(lines=st.lists(st.lists(st.sampled_from(["fail", "Fail", "refuse", "x", " "])).map("".join), min_size=1))
def test_a_line_is_counted_once_whatever_it_holds(lines: list[str]) -> None:
    """Of lines all of which are candidates, those are counted that hold one of the texts, in any case if that is so."""
    block = "".join(f"{line}\n" for line in lines).encode()
    for is_folded in (False, True):
        sieve = Sieve([[Literals(frozenset({"fail", "refuse"}), folded=is_folded)]], 100)
        sieve.candidates(b"fail\n" * 10)
        alike = [line.lower() if is_folded else line for line in lines]
        assert sieve.count(sieve.candidates(block)) == sum("fail" in line or "refuse" in line for line in alike)
