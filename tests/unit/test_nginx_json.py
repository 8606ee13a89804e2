"""The filter for nginx's JSON log: what a client sends forges and hides nothing, wherever the line is cut."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.event import LOGIN_FAIL, time_text
from appguard.filters.nginx_json import NginxJsonFilter
from appguard.sources.base import LINE_MOST
from tests.strategies import hostile_text

HEAD = (
    b'{"time":1795165862.123,"client":"203.0.113.5","peer":"192.0.2.1","status":"%b","limit_req":"","auth":"",'
    b'"request_id":"0af7651916cd43dd8448eb211c80319c","method":"POST","uri":"'
)
SHORT = {ord('"'): '\\"', ord("\\"): "\\\\", 8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r"}
ESCAPES = {byte: f"\\u{byte:04X}" for byte in range(32)} | SHORT

fake = st.sampled_from(
    ['","status":"200', '"}\n{"time":1.000,"client":"192.0.2.66"', "\\", '\\"', '","user":"', "\\u0022"]
)
hostile = st.lists(st.one_of(fake, hostile_text.map(lambda text: text[:50])), max_size=4).map("".join)


def line_of(status: bytes, query: str, user: str, agent: str) -> bytes:
    """Write the line of a login as nginx does."""
    texts = (each.translate(ESCAPES).encode(errors="surrogatepass") for each in (query, user, agent))
    return HEAD % status + b'/login?%b","user":"%b","user_agent":"%b"}' % tuple(texts)


@given(query=hostile, user=hostile, agent=hostile)
def test_nothing_a_client_sends_forges_or_hides_a_failure(query: str, user: str, agent: str) -> None:
    """Whatever stands in query, user and agent, a failed login is its client's at its time, and nothing else is one."""
    event = NginxJsonFilter().match(line_of(b"401", query, user, agent)[:LINE_MOST], 0.0)
    assert event is not None
    assert (event.kind, event.address.text, event.path) == (LOGIN_FAIL, "203.0.113.5", "/login")
    assert (event.via, time_text(event.time)) == (("192.0.2.1",), "2026-11-20T09:11:02.123000Z")
    assert NginxJsonFilter().match(line_of(b"200", query, user, agent), 0.0) is None


@given(query=hostile, user=hostile, agent=hostile)
def test_what_was_escaped_is_given_as_it_was(query: str, user: str, agent: str) -> None:
    """The event has the user and the agent that the client sent, bytes that are no UTF-8 replaced."""
    event = NginxJsonFilter().match(line_of(b"401", query, user, agent), 0.0)
    assert event is not None
    sent = [each.encode(errors="surrogatepass").decode(errors="replace") for each in (user, agent)]
    assert [event.user, event.user_agent] == sent


@given(st.integers(0, 400), hostile)
def test_a_cut_hides_no_failed_login(length: int, query: str) -> None:
    """A line cut anywhere behind what nginx knows is the failed login it was."""
    head = HEAD % b"401"
    event = NginxJsonFilter().match(line_of(b"401", query, "alice", "agent")[: len(head) + length], 0.0)
    assert event is not None
    assert event.kind == LOGIN_FAIL
    assert event.to_line().isascii()


@pytest.mark.parametrize("piece", [b"\\", b'\\"', b'"', b"/.", b"\\u0041", b"%2e", b"\xff", b'","user":"', b"?"])
def test_no_line_costs_more_than_its_length(piece: bytes) -> None:
    """A line 32 times as long as any that is read takes well under a second; a quadratic one takes many."""
    line = (HEAD % b"401" + b"/" + piece * 32 * LINE_MOST)[: 32 * LINE_MOST]
    begin = time.process_time()
    NginxJsonFilter().match(line, 0.0)
    assert time.process_time() - begin < 1.0
