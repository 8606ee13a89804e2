"""What an app keeps of the published bans: the newest of each network, in a few bytes for each host."""

import os
import tracemalloc
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from appguard.address import Network, network_text, parse_address
from appguard.ban import Ban, Fact
from appguard.stores.fact_lines import fact_line
from appguard.stores.published_table import LINES_SPARE, PublishedTable
from tests.published import NOW, fact_of
from tests.strategies import near_networks, near_texts

BYTES_MOST = 16  # for each host


def table_of(facts: Sequence[Fact], directory: Path, first: int = 0) -> PublishedTable:
    """Give a table that has taken all the facts; its file had only the first of them when it was made."""
    lines = [b"a head\n", *map(fact_line, facts)]
    path = directory / "bans"
    path.write_bytes(b"".join(lines[: first + 1]))
    table = PublishedTable(os.open(path, os.O_RDONLY))
    path.write_bytes(b"".join(lines))
    table.read_on()
    return table


facts_said = st.lists(
    st.tuples(near_networks, st.sampled_from([0, 10, 1000])).map(
        lambda said: Fact(said[0], 1, Ban(said[0], "login", NOW, NOW + said[1]) if said[1] else None)
    ),
    max_size=60,
)


@given(facts=facts_said, texts=st.lists(near_texts, min_size=1, max_size=20), seconds=st.sampled_from([0, 20]))
def test_table_answers_as_a_plain_list_does(facts: list[Fact], texts: list[str], seconds: int) -> None:
    """A ban is found exactly if one in force holds the address, the newest of each network counts, none is missing."""
    model: dict[Network, Ban] = {}
    for fact in facts:
        model.pop(fact.network, None)
        model |= {fact.network: fact.ban} if fact.ban else {}
    with TemporaryDirectory() as directory:
        table = table_of(facts, Path(directory), first=len(facts) // 2)
        for text in 2 * texts:
            address = parse_address(text)
            found = table.find(address, NOW + seconds)
            holding = {ban.key for ban in model.values() if ip_address(text) in ban.network}
            in_force = {
                key for key in holding if any(ban.key == key for ban in model.values() if ban.in_force(NOW + seconds))
            }
            assert found.key in in_force if found else not in_force
            assert table.marks[address.code % table.width] or address.version > table.version_at_most or not in_force
        assert {ban.key: ban.end for ban in table} == {network_text(network): ban.end for network, ban in model.items()}
        assert table.lifts == sum(fact.ban is None for fact in facts)


def test_newer_line_counts_at_once_for_a_client_asked_about_before(tmp_path: Path) -> None:
    """Ban, lift and ban again of one address are each seen although the address was asked about in between."""
    facts = [fact_of("203.0.113.5", is_lifted=bool(number % 2)) for number in range(9)]
    path = tmp_path / "bans"
    path.write_bytes(b"a head\n")
    table = PublishedTable(os.open(path, os.O_RDONLY))
    for fact in facts:
        with path.open("ab") as file:
            file.write(fact_line(fact))
        table.read_on()
        for _ in range(2):
            assert (table.find(parse_address("203.0.113.5"), NOW) is not None) == (fact.ban is not None)


def test_host_costs_a_few_bytes_whatever_is_known_of_it(tmp_path: Path) -> None:
    """The table of 60 000 hosts takes less than 16 bytes for each."""
    facts = [fact_of(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}") for number in range(60_000)]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        table = table_of(facts, tmp_path, first=len(facts))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert table.find(parse_address("10.0.0.9"), NOW) is not None
    assert after - before < BYTES_MOST * len(facts)


def test_crowded_table_says_so_and_still_answers(tmp_path: Path) -> None:
    """A table to which far more was appended than it is made for takes no more hosts and goes on answering."""
    facts = [fact_of(f"10.0.{number >> 8}.{number & 255}") for number in range(3 * LINES_SPARE)]
    table = table_of(facts, tmp_path)
    assert table.is_crowded
    assert table.find(parse_address("10.0.0.1"), NOW) is not None
    assert table.find(parse_address("192.0.2.1"), NOW) is None
    assert not table_of(facts, tmp_path, first=len(facts)).is_crowded


def open_files() -> set[str]:
    """Give the names of the files this process has open."""
    return {str(file.readlink()) for file in Path("/proc/self/fd").iterdir() if file.is_symlink()}


def test_file_is_closed_with_its_table(tmp_path: Path) -> None:
    """A table that nobody has any more keeps no file open."""
    open_before = open_files()
    table = table_of([fact_of("203.0.113.5")], tmp_path)
    assert open_files() != open_before
    del table
    assert open_files() == open_before
