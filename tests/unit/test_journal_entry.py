"""Entries of the journal: what is read of journalctl's JSON, and that no bytes raise anything but `ValueError`."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appguard.sources.base import LINE_MOST
from appguard.sources.journal_entry import parse_entry

BASE: dict[str, object] = {"__CURSOR": "s=1;i=2", "__REALTIME_TIMESTAMP": "1795178722853050"}


def entry(**fields: object) -> bytes:
    """Make a record."""
    return json.dumps(BASE | fields).encode()


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"MESSAGE": "m", "_HOSTNAME": "h", "SYSLOG_IDENTIFIER": "sshd", "SYSLOG_PID": "1", "_PID": "2"},
            b"h sshd[1]: m",
        ),
        ({"MESSAGE": "m", "_HOSTNAME": "h", "_COMM": "sshd", "_PID": "2"}, b"h sshd[2]: m"),
        ({"MESSAGE": "m", "SYSLOG_IDENTIFIER": "kernel"}, b"kernel: m"),
        ({"MESSAGE": "m"}, b"unknown: m"),
        ({"MESSAGE": [98, 255, 10, 99], "_COMM": "x"}, b"x: b\xff#012c"),
        ({"MESSAGE": ["one", [116, 119, 111], "three"], "_COMM": ["x", "y"]}, b"x_y: one two three"),
        ({"MESSAGE": "\u00e9\U0001f40d\n", "_COMM": "a b\nc: d"}, b"a_b_c:_d: \xc3\xa9\xf0\x9f\x90\x8d"),
        ({"MESSAGE": "x" * 9000, "_COMM": "y"}, b"y: " + b"x" * (LINE_MOST - 3)),
    ],
)
def test_the_line_is_what_syslog_would_have_written(fields: dict[str, object], line: bytes) -> None:
    """Host, program and process id stand in front, from the fields that hold them; text and byte lists are bytes."""
    found = parse_entry(entry(**fields))
    assert (found.cursor, found.time, found.line) == ("s=1;i=2", 1795178722.853050, line)


@pytest.mark.parametrize("fields", [{}, {"MESSAGE": None}, {"MESSAGE": ""}, {"MESSAGE": []}, {"MESSAGE": "\n"}])
def test_an_entry_without_a_message(fields: dict[str, object]) -> None:
    """Its position counts, its message is empty."""
    found = parse_entry(entry(**fields))
    assert (found.cursor, found.message) == ("s=1;i=2", b"")


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"-- No entries --",
        entry(__CURSOR=1),
        entry(__CURSOR=None),
        entry(__REALTIME_TIMESTAMP=1),
        entry(__REALTIME_TIMESTAMP="x"),
        entry(__REALTIME_TIMESTAMP="9" * 4000),
        entry(__REALTIME_TIMESTAMP="99999999999999999999"),
        entry(__REALTIME_TIMESTAMP="-1"),
        entry(MESSAGE=[256]),
        entry(MESSAGE=[1, "x"]),
        entry(MESSAGE=[1, 2.5]),
        entry(MESSAGE={"a": 1}),
        entry(MESSAGE=True),
        entry(_PID=7),
        b'{"__CURSOR":"\xff","__REALTIME_TIMESTAMP":"1"}',
        b"[" * 100_000,
        entry(MESSAGE="x")[:-5],
    ],
)
def test_what_is_no_entry_is_an_error(record: bytes) -> None:
    """Anything else is a `ValueError`."""
    with pytest.raises(ValueError):
        parse_entry(record)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()), st.lists, max_leaves=10
)


@given(
    st.one_of(
        st.binary(),
        st.dictionaries(st.sampled_from([*BASE, "MESSAGE", "_COMM", "_PID"]), VALUES).map(lambda found: entry(**found)),
    )
)
@example(entry(MESSAGE="\ud800"))
def test_no_bytes_raise_anything_else(record: bytes) -> None:
    """Any bytes give an entry with one line within the bounds, or the documented error."""
    try:
        found = parse_entry(record)
    except ValueError:
        return
    assert b"\n" not in found.line and len(found.line) <= LINE_MOST and len(found.message) <= LINE_MOST
