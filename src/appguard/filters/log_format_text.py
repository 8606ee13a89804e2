"""Reads what stands in nginx's configuration behind `log_format`, or the format alone, into literals and variables."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from appguard.errors import ConfigError

DIRECTIVE = re.compile(r"log_format\s+[\w.-]+\s+")
ESCAPE = re.compile(r"escape=(\w+)\s+")
QUOTED = re.compile(r"""\s*(?:'((?:[^'\\]|\\.)*+)'|"((?:[^"\\]|\\.)*+)")\s*""", re.DOTALL)
BACKSLASH = re.compile(r"""\\(["'\\trn])""")
MEANT = {"t": "\t", "r": "\r", "n": "\n"}
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))", re.ASCII)


@dataclass(frozen=True, slots=True)
class Piece:
    """A literal text of a format, or a variable by its name."""

    text: str
    is_variable: bool = False


def read_format(text: str) -> tuple[tuple[Piece, ...], str]:
    """Give the pieces of a format and its `escape`; raise `ConfigError`.

    Accepted are the format alone, and the directive as it stands in nginx's configuration, with its quotes.
    """
    text = text.strip()
    directive = DIRECTIVE.match(text)
    if directive:
        text = text[directive.end() :].removesuffix(";")
    escape = ESCAPE.match(text)
    if escape:
        text = text[escape.end() :]
    if directive or text.startswith("'"):
        text = _unquoted(text)
    return tuple(_pieces(text)), escape[1] if escape else "default"


def _unquoted(text: str) -> str:
    found: list[str] = []
    position = 0
    while position < len(text):
        piece = QUOTED.match(text, position)
        if piece is None:
            raise ConfigError(f"log_format: expected texts in quotes, as nginx has them, at {text[position:][:40]!r}")
        found.append(BACKSLASH.sub(lambda each: MEANT.get(each[1], each[1]), piece[1] or piece[2] or ""))
        position = piece.end()
    return "".join(found)


def _pieces(text: str) -> Iterator[Piece]:
    position = 0
    for found in VARIABLE.finditer(text):
        if found.start() > position:
            yield _literal(text[position : found.start()])
        yield Piece(found[1] or found[2], is_variable=True)
        position = found.end()
    if position < len(text):
        yield _literal(text[position:])


def _literal(text: str) -> Piece:
    if "$" in text:
        raise ConfigError(f"log_format: {text!r}: a '$' must begin the name of a variable")
    return Piece(text)
