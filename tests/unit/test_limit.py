"""Limits: the notation, the options and path patterns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.errors import ConfigError
from appguard.limit import Limit, normal_path, path_pattern


@pytest.mark.parametrize(
    ("rate", "amount", "window"),
    [
        ("5/minute", 5, 60),
        ("5 per minute", 5, 60),
        ("100 per 10 minutes", 100, 600),
        ("100/10minute", 100, 600),
        ("1/second", 1, 1),
        ("10/hour", 10, 3600),
        ("10/day", 10, 86_400),
    ],
)
def test_notation(rate: str, amount: int, window: float) -> None:
    """Rates are written as in the limits package."""
    limit = Limit(rate)
    assert limit.fixed is not None
    assert (limit.fixed.amount, limit.fixed.window, str(limit)) == (amount, window, rate)


@pytest.mark.parametrize(
    "rate",
    ["", "5", "minute", "0/minute", "-5/minute", "5/fortnight", "5.5/minute", "5/minute;10/hour", "5/minute, 10/hour",
     "five/minute", "5/minute x", f"5/{'9' * 400} years", f"{'9' * 5000}/minute"],
    ids=lambda rate: repr(rate[:20]),
)  # fmt: skip
def test_wrong_notation_is_named(rate: str) -> None:
    """What is not exactly one rate of at least one request is refused with the text and an example."""
    with pytest.raises(ConfigError) as caught:
        Limit(rate)
    assert str(caught.value).startswith(f"limit {rate!r}: expected one rate such as '5/minute'")


def test_wrong_options_are_named() -> None:
    """Methods as one text and a path that is no pattern are refused."""
    with pytest.raises(ConfigError, match=r"methods must be a list such as \['POST'\], not 'POST'"):
        Limit("5/minute", methods="POST")
    with pytest.raises(ConfigError, match="path 'login': expected"):
        Limit("5/minute", path="login")


def test_name_tells_limits_apart() -> None:
    """Without a name a limit is called by what it limits."""
    assert Limit("5/minute", path="/login", methods=["post"]).name == "POST /login 5/minute"
    assert Limit("5/minute", path="/login", name="sign-in").name == "sign-in"


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("/login", ["/login", "/login/", "//login", "//login//"], ["/", "/Login", "/login/x", "/xlogin"]),
        ("/login", ["/login\n", "/login/\n", "/login\n/\n"], ["/login\nx", "\n/login"]),
        ("/login/", ["/login", "/login/"], ["/login/x"]),
        ("/", ["/", "//"], ["/x", ""]),
        ("/users/{id}", ["/users/5", "/users/a b\n", "/users//5/"], ["/users", "/users/", "/users/5/x"]),
        ("/users/{id}/posts", ["/users/5/posts/"], ["/users/posts", "/users/5/6/posts"]),
        ("/file-{name}.txt", ["/file-a.txt"], ["/file-.txt", "/file-a/b.txt", "/file-axtxt"]),
        ("/api/*", ["/api", "/api/", "/api/x", "//api//x/y", "/api/\n"], ["/", "/apix", "/x/api/"]),
        ("/api*", ["/api", "/apix", "/api/x"], ["/ap", "/x/api"]),
        ("/users/{id}/*", ["/users/5", "/users/5/x/y"], ["/users", "/users/"]),
        ("*", ["/", "/x", "", "/a\nb"], []),
        ("/*", ["/", "/x", "//"], []),
        ("/a.c", ["/a.c"], ["/abc"]),
        ("/a{b", ["/a{b"], ["/ab"]),
        ("/a(b|c)+", ["/a(b|c)+"], ["/ab"]),
    ],
)  # fmt: skip
def test_path_pattern(pattern: str, matching: list[str], others: list[str]) -> None:
    """A pattern matches whole paths with their slashes tidied, and signs of regular expressions mean themselves."""
    compiled = path_pattern(pattern)
    assert [path for path in matching if not compiled.fullmatch(normal_path(path))] == []
    assert [path for path in others if compiled.fullmatch(normal_path(path))] == []


@pytest.mark.parametrize(
    "pattern", ["", "login", "**", "/a/*/b", "/*.js", "x*", "/{rest:path}", "/user/<id>", "/{a}-{b}", "/x/{a}{b}/y"]
)
def test_pattern_that_would_not_match_what_it_seems_to_is_refused(pattern: str) -> None:
    """A pattern in a router's notation, or with a star in it, would leave unprotected what it names."""
    with pytest.raises(ConfigError) as caught:
        path_pattern(pattern)
    assert str(caught.value) == (
        f"path {pattern!r}: expected '/...', with '{{name}}' for a segment and '*' only at the end"
    )


@given(st.text(st.sampled_from("/ax\n"), max_size=30))
def test_normal_path(path: str) -> None:
    """A tidied path has no doubled slash, none at its end but the root's, and tidying it again changes nothing."""
    tidy = normal_path(path)
    assert "//" not in tidy
    assert tidy == "/" or not tidy.endswith("/")
    assert normal_path(tidy) == tidy
    assert [part for part in path.rstrip("/\n").split("/") if part] == [part for part in tidy.split("/") if part]
