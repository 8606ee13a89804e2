"""How the URI of a Redis is read, and that its passwords stay hidden."""

from pathlib import Path

import pytest

from appguard.errors import ConfigError
from appguard.stores.open import open_store
from appguard.stores.redis import RedisStore
from appguard.stores.redis_uri import RedisUri, parse_redis_uri


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://h", RedisUri("single", "redis", (("h", 6379),))),
        ("redis://[2001:db8::1]:7000/3", RedisUri("single", "redis", (("2001:db8::1", 7000),), database=3)),
        ("redis+unix:///run/r@b.sock?db=2", RedisUri("unix", "redis+unix", path="/run/r@b.sock", database=2)),
        (
            "redis+sentinel://h1,h2:26380/shop/1",
            RedisUri("sentinel", "redis+sentinel", (("h1", 26379), ("h2", 26380)), service="shop", database=1),
        ),
        ("redis+sentinel://h1/shop", RedisUri("sentinel", "redis+sentinel", (("h1", 26379),), service="shop")),
        ("rediss+cluster://h1,h2:7001", RedisUri("cluster", "rediss+cluster", (("h1", 6379), ("h2", 7001)))),
        ("rediss://h?ca=/c", RedisUri("single", "rediss", (("h", 6379),), options={"ca": "/c"})),
    ],
)
def test_forms(text: str, expected: RedisUri) -> None:
    """Every form is read into its parts, and written for people so that it is read to the same."""
    assert parse_redis_uri(text) == expected
    assert parse_redis_uri(str(expected)).hosts == expected.hosts
    assert parse_redis_uri(str(expected)).database == expected.database


@pytest.mark.parametrize(
    "text",
    [
        "redis://",
        "redis:",
        "http://h",
        "redis://h1,h2/0",
        "redis://h/zero",
        "redis://h/-1",
        "redis://h/0/1",
        "redis://h:0/0",
        "redis://h:99999/0",
        "redis://h b/0",
        "redis://h?ca=/c",
        "redis://h?socket_timeout=9",
        "rediss://h?ca=",
        "rediss://h?cert=/c",
        "rediss://h?verify=no",
        "redis+unix://h/path",
        "redis+sentinel://h1,h2",
        "redis+sentinel://h1//0",
        "redis+cluster://h1/1",
        "redis+cluster://h1,,h2",
        "redis://:${NO_SUCH_VARIABLE}@h",
    ],
)
def test_wrong_forms(text: str) -> None:
    """What is no such URI is refused when it is read, with what is accepted; certificates cannot be left unchecked."""
    with pytest.raises(ConfigError, match="store"):
        parse_redis_uri(text)


@pytest.mark.parametrize(
    "text",
    [
        "redis://me:hidden@h/x",
        "redis://me:hidden@h:0",
        "redis+cluster://me:hid%40den@h/7",
        "redis+sentinel://h/s/0?sentinel_password=hidden&x=1",
        "nonsense://me:hidden@h",
        "redis:/me:hidden@h",
        "redis:me:hid\nden@h",
        "me:hidden@h",
        "redis://me:hid?den@h/0",
        "redis://me:hid?x=den@h/0",
        "redis://me:p@hid?den@h/0",
        "redis+sentinel://h/s/0?sentinel_password=p&hidden",
    ],
)
def test_password_is_not_in_the_error(text: str) -> None:
    """A wrong URI is quoted without its passwords."""
    with pytest.raises(ConfigError) as caught:
        open_store(text)
    assert "hid" not in str(caught.value)


def test_password_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the text nor the repr of a URI or the name of a store has a password, however it is given."""
    monkeypatch.setenv("REDIS_PASSWORD", "hidden")
    for password in ("hidden", "${REDIS_PASSWORD}"):
        text = f"redis+sentinel://me:{password}@h/shop/0?sentinel_user=s&sentinel_password={password}"
        uri = parse_redis_uri(text)
        assert uri.password.read() == uri.sentinel_password.read() == "hidden"
        assert str(uri) == "redis+sentinel://me:***@h:26379/shop/0"
        assert "hidden" not in repr(uri)
        assert "hidden" not in RedisStore(text).name


def test_password_of_a_file_is_read_when_it_is_used(tmp_path: Path) -> None:
    """A password in a file may change and may come later; its path may hold what a path may hold."""
    file = tmp_path / "redis secret"
    uri = parse_redis_uri(f"redis://:file:{str(file).replace(' ', '%20')}@h")
    with pytest.raises(FileNotFoundError):
        uri.password.read()
    for secret in ("one", "t/w@o"):
        file.write_text(f"{secret}\n")
        assert uri.password.read() == secret
