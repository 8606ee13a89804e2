"""docs/middleware.md names every argument, with its default, and what it shows is Python."""

import ast
import re
from pathlib import Path
from typing import cast

from appguard.answers import BAN_TEXT
from appguard.config import AppConfig, AppOptions
from appguard.limit import Limit

TEXT = (Path(__file__).parents[2] / "docs/middleware.md").read_text()


def test_every_argument_is_described() -> None:
    """The table has a row for each argument and none for what is gone."""
    table = TEXT.partition("## ")[0]
    rows = re.findall(r"(?m)^\| (`[^|]+`) \| ([^|]+) \|", table)
    named = [name for cell, _ in rows for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(named) == sorted(AppOptions.__annotations__)


def test_defaults_are_the_defaults() -> None:
    """Where the table gives a value, it is the one in force."""
    given = dict(re.findall(r"(?m)^\| `(\w+)`[^|]* \| `([^|`]+)` \|", TEXT))
    assert given.keys() >= {"limits", "headers", "on_store_error", "enabled", "hash_users", "login_paths"}
    defaults = AppConfig("shop")
    for name, text in given.items():
        expected = getattr(defaults, name)
        if name == "limits":
            assert [Limit(rate) for rate in ast.literal_eval(text)] == list(cast("tuple[Limit, ...]", expected))
        elif isinstance(expected, tuple):
            assert ast.literal_eval(text) == list(cast("tuple[str, ...]", expected))
        else:
            assert ast.literal_eval(text) == expected
    assert "{reference}" in BAN_TEXT


def test_the_examples_are_python() -> None:
    """Each block of code compiles."""
    found = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(found) == 6
    for block in found:
        ast.parse(block)
