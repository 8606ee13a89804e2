"""The answers to refused requests, as text and as problem+json."""

import json
from dataclasses import replace

import pytest

from appguard import Ban, Limit
from appguard.answers import Answer, answer
from appguard.guard import Refusal

LIMITED = Refusal(429, 12.2, limit=Limit("5/minute"))
BANNED = Refusal(403, 600.0, ban=replace(Ban.of("203.0.113.5", bantime=600), version=7))


def headers(found: Answer) -> dict[str, str]:
    """Give the headers of an answer."""
    return dict(found.headers)


@pytest.mark.parametrize(("wait", "seconds"), [(12.2, 13), (12.0, 12), (0.001, 1), (0.0, 1), (None, 1), (3600.5, 3601)])
def test_retry_after_is_never_too_early(wait: float | None, seconds: int) -> None:
    """Whole seconds, rounded up, at least one."""
    found = answer(LIMITED._replace(wait=wait), "")
    assert found.status == 429
    assert found.phrase == "Too Many Requests"
    assert headers(found)["retry-after"] == str(seconds)
    assert found.body == f"Too many requests. Try again in {seconds} s.\n".encode()


@pytest.mark.parametrize("accept", ["", "*/*", "text/html,application/xhtml+xml,*/*;q=0.8", "image/png"])
def test_a_browser_is_answered_with_text(accept: str) -> None:
    """Without JSON in Accept the answer is plain text that a person can read."""
    found = answer(BANNED, accept)
    assert found.status == 403
    assert headers(found) == {
        "cache-control": "no-store",
        "content-type": "text/plain; charset=utf-8",
        "content-length": str(len(found.body)),
    }
    assert BANNED.ban is not None
    assert BANNED.ban.ref in found.body.decode()


@pytest.mark.parametrize(
    "accept", ["application/json", "application/problem+json", "text/html, APPLICATION/JSON;q=0.1"]
)
def test_a_program_is_answered_with_a_problem(accept: str) -> None:
    """With JSON in Accept the answer is an RFC 9457 problem, for a ban with the reference."""
    assert BANNED.ban is not None
    found = answer(BANNED, accept)
    problem = json.loads(found.body)
    assert headers(found)["content-type"] == "application/problem+json"
    assert headers(found)["content-length"] == str(len(found.body))
    assert problem == {
        "title": "Forbidden",
        "status": 403,
        "detail": f"This address is banned. To have it lifted, quote the reference {BANNED.ban.ref}.",
        "reference": BANNED.ban.ref,
    }
    assert "reference" not in json.loads(answer(LIMITED, accept).body)


def test_an_answer_tells_a_stranger_no_more_than_needed() -> None:
    """Neither the jail nor its evidence nor the limit is told."""
    ban = BANNED._replace(ban=replace(Ban.of("203.0.113.5", jail="honeypot", reason="probes"), evidence=("a line",)))
    for found in (answer(ban, "application/json"), answer(LIMITED, "application/json"), answer(ban, "")):
        for word in (b"honeypot", b"probes", b"a line", b"5/minute", b"203.0.113.5"):
            assert word not in found.body
