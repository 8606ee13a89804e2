"""What the daemon says of itself, counted without looking at every ban."""

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from appguard.address import parse_network
from appguard.ban import Ban
from appguard.bouncer_status import BouncerStatus
from appguard.overview import Overview
from appguard.stores.memory import MemoryBanSet

NOW = 1_800_000_000.0
FIREWALLS = ("nftables", "nginx_deny", "command")


def made(number: int, jail: str, via: tuple[str, ...], ports: str, end: float | None) -> Ban:
    """Give a ban of one of ten addresses."""
    return Ban(parse_network(f"203.0.113.{number}"), jail, NOW, end, via=via, ports=ports, automatic=True)


a_ban = st.builds(
    made,
    st.integers(0, 9),
    st.sampled_from(["login", "probes"]),
    st.sampled_from([(), ("127.0.0.1",), ("192.0.2.1",), ("127.0.0.1", "192.0.2.1")]),
    st.sampled_from(["", "tcp/22", "tcp/443"]),
    st.sampled_from([None, NOW + 5, NOW + 600]),
)
some_refused = st.lists(st.tuples(st.integers(0, 40), st.sampled_from(FIREWALLS)), max_size=20)


@given(st.lists(a_ban, max_size=40), some_refused, st.sampled_from(["", "it hangs"]), st.sampled_from([0.0, 10.0]))
def test_reach_is_what_the_records_of_all_bans_say(
    asked: list[Ban], refusals: list[tuple[int, str]], error: str, passed: float
) -> None:
    """Counted by kind, less what each firewall refuses: as many are enforced by whom as their records say."""
    now = NOW
    bans = MemoryBanSet(lambda: now)
    for ban in asked:
        bans.ban(ban)
    held = bans.held()
    refused: dict[str, dict[str, tuple[Ban, str]]] = {name: {} for name in FIREWALLS}
    for number, name in refusals:
        if number < len(held):
            refused[name][held[number].key] = (held[number], "no")
    status = tuple(
        BouncerStatus(name, name, False, error if name == "command" else "", 0, None, refused[name])
        for name in FIREWALLS
    )
    parts = SimpleNamespace(status=status, counts=dict[str, None]().get)
    overview = Overview((), {}, cast("Any", None), {}, cast("Any", parts), bans, cast("Any", None))
    now += passed
    counted: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for ban in bans.snapshot().bans:
        if "192.0.2.1" in ban.via:
            counted["192.0.2.1", tuple(overview.ban(ban).enforced_by)] += 1
    found = overview.daemon(NOW, "memory://")
    assert {(each.via, tuple(each.enforced_by)): each.bans for each in found.reach} == counted
    assert found.bans == len(bans.snapshot().bans)
