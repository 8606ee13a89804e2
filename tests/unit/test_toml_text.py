"""What is written as TOML is read as the same settings, whatever is in them."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.toml_text import toml_comment, toml_key, toml_table, toml_value

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    TEXTS | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False), lambda items: st.lists(items)
)


@given(st.dictionaries(TEXTS, VALUES), TEXTS, TEXTS)
def test_any_settings_survive(settings: dict[str, object], name: str, comment: str) -> None:
    """No name, value or comment, however hostile, changes what stands beside it."""
    text = toml_comment(comment) + toml_table(f"jails.{toml_key(name)}", settings) + toml_comment(comment)
    assert tomllib.loads(text) == {"jails": {name: settings}}


def test_regexes_stay_readable() -> None:
    """A backslash is written once where TOML allows it, and long lists stand one item a line."""
    assert toml_value(r'^\d "x"$') == r"""'^\d "x"$'"""
    assert toml_value(r"it's \d") == r'"it' + r"""'s \\d\""""[:-2] + '"'
    assert toml_value(["x" * 60, "y" * 60]) == f'[\n  "{"x" * 60}",\n  "{"y" * 60}",\n]'
    assert toml_table("", {"a": True, "b": 1.5}) == "a = true\nb = 1.5\n"
    assert toml_comment("one\ntwo\x1b\r") == "# one\n# two\\x1b\n"


def test_what_is_no_setting_is_refused() -> None:
    """Nothing is written that would be read as something else."""
    with pytest.raises(TypeError):
        toml_value(None)
