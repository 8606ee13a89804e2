"""The answers to refused requests, as text and as problem+json."""

import json
import time
from dataclasses import replace

import pytest

from appguard import Ban, Limit
from appguard.answers import Answer, Answers
from appguard.guard import Refusal
from appguard.proxies import Client
from appguard.request import Request

LIMIT = Limit("5/minute")
LIMITED = Refusal(429, 12.2, limit=LIMIT, rate=LIMIT.fixed)
BANNED = Refusal(403, 600.0, ban=replace(Ban.of("203.0.113.5", bantime=600), version=7))


def answer(refusal: Refusal, accept: str = "", answers: Answers | None = None) -> Answer:
    """Give the answer to one request."""
    return (answers or Answers()).usual(refusal, accept)


def no_header(_native: object, _name: str) -> str:
    """Give the text of a header that was not sent."""
    return ""


REQUEST = Request(Client(None), "GET", "/", None, no_header)


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


def test_a_refusal_tells_its_policy_and_state_in_the_fields_of_the_draft() -> None:
    """The amount and window of the limit that refused, nothing left, and the seconds to wait."""
    found = headers(answer(LIMITED))
    assert found["ratelimit-policy"] == '"5/minute";q=5;w=60'
    assert found["ratelimit"] == '"5/minute";r=0;t=13'
    assert not any(name.startswith("x-ratelimit") for name in found)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("legacy", {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}),
        (
            "both",
            {"ratelimit", "ratelimit-policy", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"},
        ),
        ("none", set[str]()),
    ],
)
def test_fields_are_the_users_choice(kind: str, names: set[str]) -> None:
    """The older fields, both or none; Retry-After is there in any case, and the reset is a time to come."""
    found = headers(answer(LIMITED, answers=Answers(kind)))
    assert {name for name in found if "ratelimit" in name} == names
    assert found["retry-after"] == "13"
    if kind == "legacy":
        assert (found["x-ratelimit-limit"], found["x-ratelimit-remaining"]) == ("5", "0")
        assert 12 <= int(found["x-ratelimit-reset"]) - time.time() <= 13


def test_a_name_of_a_limit_cannot_leave_its_quotes() -> None:
    """Whatever it holds, the field is one string of RFC 9651, and one line."""
    odd = replace(LIMIT, name='a"b\\c\r\nset-cookie: x=1\u20ac')
    assert headers(answer(LIMITED._replace(limit=odd)))["ratelimit"] == '"a\\"b\\\\c??set-cookie: x=1?";r=0;t=13'


def test_a_ban_may_be_answered_in_the_users_words() -> None:
    """Status and text are the user's; the reference stands where the text names it."""
    assert BANNED.ban is not None
    found = answer(BANNED, answers=Answers(ban_status=404, ban_text="Write to us: {reference}"))
    assert (found.status, found.body.decode()) == (404, f"Write to us: {BANNED.ban.ref}\n")


def test_the_app_may_answer_itself() -> None:
    """Its function is told why and of what request, and what it gives is sent; None leaves it to AppGuard."""

    def own(refusal: Refusal, request: Request) -> Answer | None:
        if refusal.limit is None:
            return None
        return Answer.of(503, {"wait": refusal.wait, "path": request.path}, {"X-Shop": "closed"})

    answers = Answers(own=own)
    found = answers.own(LIMITED, REQUEST)
    assert found is not None
    assert (found.status, found.phrase) == (503, "Service Unavailable")
    assert json.loads(found.body) == {"wait": 12.2, "path": "/"}
    assert headers(found)["x-shop"] == "closed"
    assert headers(found)["content-length"] == str(len(found.body))
    assert answers.own(BANNED, REQUEST) is None


def test_an_answer_of_the_app_that_fails_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    """It leaves the answer to AppGuard, and the log says why, once."""

    def own(_refusal: Refusal, _request: Request) -> Answer | None:
        raise LookupError("no template")

    answers = Answers(own=own)
    assert [answers.own(LIMITED, REQUEST) for _ in range(3)] == [None, None, None]
    assert [record.getMessage() for record in caplog.records] == [
        "response failed, refused requests get the usual answer: LookupError: no template"
    ]
