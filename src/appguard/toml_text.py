"""Writes settings as TOML for people: tables of texts, numbers, flags and lists, with comments."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import cast

BARE = re.compile(r"[A-Za-z0-9_-]+")
LITERAL = re.compile(r"[^'\x00-\x1f\x7f-\x9f\ud800-\udfff]*")
WIDTH = 100


def toml_table(name: str, settings: Mapping[str, object]) -> str:
    """Write a table; `name` is its whole name, empty for the top of a file."""
    head = [f"[{name}]"] if name else []
    return "\n".join([*head, *(f"{toml_key(key)} = {toml_value(value)}" for key, value in settings.items())]) + "\n"


def toml_key(key: str) -> str:
    """Write a key, or one part of a table's name."""
    return key if BARE.fullmatch(key) else _text(key)


def toml_value(value: object) -> str:
    """Write a value; raise `TypeError` for what TOML has no form of."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return _list([toml_value(item) for item in cast("Sequence[object]", value)])
    raise TypeError(f"{value!r} is no setting")


def toml_comment(text: str) -> str:
    """Write a text as comments; what could end one, or act on a terminal, is escaped."""
    lines = "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text.rstrip()).split(
        "\n"
    )
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _list(items: Sequence[str]) -> str:
    line = f"[{', '.join(items)}]"
    return line if len(line) <= WIDTH else "[\n" + "".join(f"  {item},\n" for item in items) + "]"


def _text(text: str) -> str:
    """Write a text as it is where a backslash stands in it, as in a regex, else as everybody does."""
    if ("\\" in text or '"' in text) and LITERAL.fullmatch(text):
        return f"'{text}'"
    clean = text.encode(errors="replace").decode()  # a lone half of a character pair, which no file can hold
    return json.dumps(clean, ensure_ascii=False).replace("\x7f", "\\u007f")
