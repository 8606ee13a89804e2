"""A replica that keeps records until bans are asked for: it knows what one knows that was told fact by fact."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network

from hypothesis import given, settings
from hypothesis import strategies as st

from appguard.address import Network, network_text, parse_address, parse_network
from appguard.ban import Ban, Fact
from appguard.stores.recorded_replica import RECORDS_AT_LEAST, RecordedReplica
from appguard.stores.redis_records import fields_of, head_of, host_of, parse_record, plain_hosts, record_of
from tests.strategies import any_v4, any_v6, near_networks, near_texts

NOW = 1_800_000_000.0
OTHERS = [IPv4Network((0x0A000000 + number, 32)) for number in range(RECORDS_AT_LEAST)]


class Shifted(RecordedReplica):
    """A replica that finds out how far its clock is from that of Redis."""

    def measure(self, offset: float) -> None:
        """Take an offset."""
        change, self._offset = self._offset - offset, offset
        self.shift(change)


def fact_of(network: Network, version: int, seconds: int) -> Fact:
    """Make a fact: a lift if it is for no seconds, for ever if they are negative."""
    end = None if seconds < 0 else NOW + seconds
    ban = Ban(network, "login", NOW, end, automatic=True, version=version)
    return Fact(network, version, ban if seconds else None)


def told(facts: Sequence[Fact]) -> list[bytes]:
    """Give facts as a Redis tells them: networks and records in turn."""
    return [each for fact in facts for each in (fact.key.encode(), record_of(fields_of(fact, 0.0, "new")))]


def known_of(facts: Sequence[Fact]) -> dict[str, tuple[int, float | None, bool]]:
    """Give what matters of facts, by network."""
    return {fact.key: (fact.version, fact.ban.end if fact.ban else None, fact.ban is None) for fact in facts}


facts_told = st.lists(
    st.tuples(near_networks, st.integers(1, 9), st.sampled_from([0, 5, 60, -1])).map(lambda parts: fact_of(*parts)),
    max_size=12,
)


@settings(max_examples=30)
@given(before=facts_told, told_at_once=facts_told, after=facts_told, texts=st.lists(near_texts, max_size=9))
def test_records_are_known_as_facts_are(
    before: list[Fact], told_at_once: list[Fact], after: list[Fact], texts: list[str]
) -> None:
    """Whatever was told before and after, the same facts are known and the same addresses are shut out."""
    clock = [NOW]
    records, facts = RecordedReplica(lambda: clock[0]), RecordedReplica(lambda: clock[0])
    once = list({fact.key: fact for fact in told_at_once}.values())
    once += [fact_of(network, 3, 60) for network in OTHERS]
    for fact in before:
        records.merge(fact)
        facts.merge(fact)
    agreed = records.merge_records(told(once))
    assert sorted(agreed) == sorted(
        fact.key for fact in once if (known := facts.known(fact)) is None or known.version <= fact.version
    )
    for fact in once:
        facts.merge(fact)
    for fact in after:
        records.merge(fact)
        facts.merge(fact)
    for seconds in (0, 10):
        clock[0] = NOW + seconds
        for text in (*texts, "10.0.0.5"):
            found, expected = records.get(parse_address(text)), facts.get(parse_address(text))
            assert (found.key if found else None) == (expected.key if expected else None)
        assert records.networks() >= {fact.key for fact in facts.facts()}
    for _ in range(3):
        records.expire()
        facts.expire()
    assert known_of(records.facts()) == known_of(facts.facts())


def test_single_address_goes_before_its_network() -> None:
    """The ban of an address is found before that of its /64, whichever of them is a record."""
    single, whole = fact_of(IPv6Network("2001:db8::1"), 3, 60), fact_of(IPv6Network("2001:db8::/64"), 3, 60)
    for first, second in ((single, whole), (whole, single)):
        replica = RecordedReplica(lambda: NOW)
        replica.merge(first)
        replica.merge_records(told([second, *(fact_of(network, 3, 60) for network in OTHERS)]))
        assert replica.get(parse_address("2001:db8::1")) == single.ban
        assert replica.get(parse_address("2001:db8::2")) == whole.ban


def test_records_are_swept_when_they_have_ended() -> None:
    """What has ended is dropped without anybody asking for it, and what has not stays."""
    clock = [NOW]
    replica = RecordedReplica(lambda: clock[0])
    replica.merge_records(told([fact_of(network, 3, 60 if number % 2 else 5) for number, network in enumerate(OTHERS)]))
    clock[0] = NOW + 10
    ended = [ban.key for _ in range(3) for ban in replica.expire()]
    assert sorted(ended) == sorted(map(network_text, OTHERS[::2]))
    assert sorted(replica.networks()) == sorted(map(network_text, OTHERS[1::2]))


def test_ends_follow_the_clock_of_redis() -> None:
    """When a clock was set, the ends of records move as those of bans do."""
    replica = Shifted(lambda: NOW)
    replica.merge_records(told([fact_of(network, 3, 60) for network in OTHERS]))
    asked = parse_address("10.0.0.5")
    before = replica.get(asked)
    assert before is not None
    assert before.end == NOW + 60
    replica.measure(5.0)
    after = replica.get(asked)
    assert after is not None
    assert after.end == NOW + 55
    assert {ban.end for ban in replica.snapshot().bans} == {NOW + 55}


@given(network=st.one_of(any_v4, any_v6).map(str) | near_networks.map(network_text) | st.text(max_size=30))
def test_host_is_only_what_is_written_canonically(network: str) -> None:
    """Whatever `host_of` takes for a host is one, in the words every part of AppGuard uses."""
    key = host_of(network.encode())
    assert key is None or network_text(parse_network(key)) == key == network


@given(
    pairs=st.lists(
        st.tuples(
            st.one_of(any_v4, any_v6).map(str) | near_networks.map(network_text) | st.from_regex(r"[0-9.]{0,15}"),
            st.from_regex(r"[0-9]{15,17} -?[0-9]{1,16} [01] .{0,9}", fullmatch=True) | st.text(max_size=9),
        ),
        max_size=9,
        unique_by=lambda pair: pair[0],
    )
)
def test_what_is_plain_is_told_of_many_as_of_each(pairs: list[tuple[str, str]]) -> None:
    """Whatever stands beside it, what is taken at once is a banned IPv4 host with the record that came with it."""
    found = [text.encode() for pair in pairs for text in pair]
    plain, highest = plain_hosts(found)
    told = dict(zip(found[::2], found[1::2], strict=True))
    heads = {key: head_of(record) for key, record in plain.items()}
    for key, head in heads.items():
        assert host_of(key.encode()) == key
        assert plain[key] == told[key.encode()]
        assert head is not None
    assert highest == max((head.version for head in heads.values() if head), default=0)
    if b"\n".join(found).count(b"\n") == len(found) - 1 and all(head_of(record) for record in told.values()):
        sixteen = {key.decode() for key, record in told.items() if record[16:17] == b" " and record[:1] != b"0"}
        assert {key for key in sixteen if "." in key and host_of(key.encode()) == key} <= plain.keys()


@given(
    record=st.binary(max_size=40)
    | st.from_regex(r"[0-9]{0,17} -?[0-9]{0,17} [01] \{\}", fullmatch=True).map(str.encode)
)
def test_head_is_only_that_of_a_ban(record: bytes) -> None:
    """A record with a head is of a ban, with the version and end that its head says, or is none at all."""
    head = head_of(record)
    fact = parse_record(b"192.0.2.1", record, 0.0)
    if fact is not None and fact.ban is not None:
        assert head is not None
        assert head.version == fact.version
        assert fact.ban.end == (head.ends / 1000 if head.ends else None)
