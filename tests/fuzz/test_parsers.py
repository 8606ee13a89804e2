"""No parser of bytes from outside raises anything but what it documents, whatever bytes it is given."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, pieces_of


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_read_or_refused(name: str) -> None:
    """Neither drawn bytes nor the texts its input is made of, in any order, break the promises of a parser."""
    drawn = st.lists(st.one_of(st.sampled_from(pieces_of(name)), st.binary(max_size=8)), max_size=12).map(b"".join)
    with TARGETS[name]() as run:

        @settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
        @given(st.one_of(st.binary(), drawn))
        def reads(data: bytes) -> None:
            run(data)

        reads()
