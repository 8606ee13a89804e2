"""What is left is told in the answers to what was let in, alike in every framework and with every store."""

import time
from pathlib import Path

import pytest

from appguard import Limit
from tests.frameworks.sites import SITES

NAMES = ("ratelimit-policy", "ratelimit", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")


@pytest.mark.parametrize("kind", SITES)
def test_answers_tell_the_policy_and_what_is_left(kind: str, tmp_path: Path) -> None:
    """The number falls with every request, and the refusal goes on where the answers ended."""
    site = SITES[kind](limits=[Limit("3/hour", burst=3, name="shop")], event_log=str(tmp_path / "events"))
    answers = [site("GET", "/") for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"shop";q=3;w=3600'}
    for number, answer in enumerate(answers[:3], start=1):
        assert answer.headers["ratelimit"] == f'"shop";r={3 - number};t=1200'
    assert answers[3].headers["ratelimit"] == '"shop";r=0;t=1200'
    assert not any(name.startswith("x-ratelimit") for answer in answers for name in answer.headers)


@pytest.mark.parametrize("kind", SITES)
@pytest.mark.parametrize(("headers", "names"), [("legacy", NAMES[2:]), ("both", NAMES), ("none", ())])
def test_fields_of_an_answer_are_the_users_choice(
    kind: str, headers: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    """The older fields, both or none; the reset is a time to come."""
    site = SITES[kind](limits=["5/minute"], headers=headers, event_log=str(tmp_path / "events"))
    told = {name: value for name, value in site("GET", "/").headers.items() if "ratelimit" in name}
    assert set(told) == set(names)
    if names:
        assert (told["x-ratelimit-limit"], told["x-ratelimit-remaining"]) == ("5", "4")
        assert 55 <= int(told["x-ratelimit-reset"]) - time.time() <= 61


@pytest.mark.parametrize("kind", SITES)
def test_the_limit_with_least_left_is_told(kind: str, tmp_path: Path) -> None:
    """Of several limits it is the one that will refuse first; one of wrong passwords is never told."""
    wrong = Limit("1/hour", count="auth_failure")
    limits = [Limit("9/hour", name="many"), Limit("2/hour", name="few", path="/"), wrong]
    site = SITES[kind](limits=limits, event_log=str(tmp_path / "events"))
    assert [site("GET", "/").headers["ratelimit"].partition(";t")[0] for _ in range(2)] == ['"few";r=1', '"few";r=0']
    assert site("GET", "/denied").headers["ratelimit"].startswith('"many";r=6;')


@pytest.mark.parametrize("kind", SITES)
def test_who_is_not_limited_is_told_nothing(kind: str, tmp_path: Path) -> None:
    """An exempt path, a client on the safelist, an unknown one, and an app with limits of outcomes only."""
    options = {"limits": ["5/hour"], "event_log": str(tmp_path / "events")}
    for more, peer in (
        ({"exempt_paths": ["/"]}, "203.0.113.5"),
        ({"safelist": ["203.0.113.5"]}, "203.0.113.5"),
        ({}, "testclient"),
        ({"limits": [Limit("5/hour", count="auth_failure")]}, "203.0.113.5"),
    ):
        answer = SITES[kind](**{**options, **more})("GET", "/", peer=peer)
        assert answer.status == 200
        assert not any("ratelimit" in name for name in answer.headers)
