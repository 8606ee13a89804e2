"""fail2ban's tags in regexes: `<HOST>`, `<F-USER>...</F-USER>` and the like become groups of a Python regex.

An address never begins or ends within a longer number or name: `1.2.3.4` is not found in `1.2.3.4.example.com`, which
its owner could have named so. In `1.2.3.4.50550` it is found where the regex itself goes on with a dot and digits, as
some programs write a port. A tag may stand in several branches of one regex: groups of the same name get a number,
which `plain_name` takes off again. An inline flag in the middle holds from there to the end of its group.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

H = "[0-9A-Fa-f]{1,4}"
V4 = r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}"
V6 = (
    rf"(?:(?:{H}:){{7}}{H}|(?:(?:{H}:){{6}}|(?:{H}(?::{H}){{0,4}})?::(?:{H}:){{0,4}}){V4}"
    rf"|(?:{H}(?::{H}){{0,6}})?::(?:{H}(?::{H}){{0,6}})?)"
)
V4_END = r"(?!\.?\w)"
V4_END_OR_PORT = r"(?!\w|\.(?![0-9]+(?!\.?\w))\w)"
IP4 = rf"(?<![0-9])(?<![0-9]\.)(?:::[Ff]{{4,6}}:)?(?P<ip4>{V4}){V4_END}"
IP6 = rf"(?<![\w.])(?P<ip6>{V6})(?!\w)"
DNS = r"(?<![\w.\-])(?P<dns>[\w\-.^]*\w)"
CIDR = r"(?P<cidr>[0-9]{1,3})"
ADDRESS = rf"\[?(?:{IP4}|{IP6})\]?"
PLAIN_TAGS = {
    "<HOST>": rf"(?:{ADDRESS}|{DNS})",
    "<ADDR>": ADDRESS,
    "<IP4>": IP4,
    "<IP6>": IP6,
    "<DNS>": DNS,
    "<CIDR>": CIDR,
    "<SUBNET>": rf"\[?(?:{IP4}|{IP6})(?:/{CIDR})?\]?",
    "<SKIPLINES>": r"\n(?P<skiplines>(?:.*\n)*?)",
    "<F-ID/>": r"(?P<fid>\S+)",
    "<F-PORT/>": r"(?P<port>\w+)",
}
ID = {"id": "fid"}
TAG = re.compile(r"<(?P<close>/?)F-(?P<name>[A-Za-z0-9_\-]+)(?P<empty>/?)>|<[A-Z0-9]+>")
PORT = re.compile(r"(?:</F-[A-Za-z0-9_\-]+>)?(?:\((?:\?:)?)?(?:\\\.|\[[:\\.]+\])(?:\\d|\[0-9\]|<F-PORT)")
GROUP = re.compile(r"\(\?P<(?P<name>\w+)>")
FLAGS = re.compile(r"\(\?(?P<flags>[aiLmsux]+)\)")
SET = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
NUMBER = re.compile(r"__[0-9]+\Z")


def expand(pattern: str, usedns: str = "warn") -> str:
    """Give the Python regex that a regex with tags means. It need not compile: its author may have erred."""
    tags = PLAIN_TAGS if usedns != "no" else PLAIN_TAGS | {"<HOST>": ADDRESS}

    def group(found: re.Match[str]) -> str:
        if found[0] in tags or found["name"] is None:
            meant = tags.get(found[0], found[0])
            return meant.replace(V4_END, V4_END_OR_PORT) if PORT.match(pattern, found.end()) else meant
        if found["close"]:
            return ")"
        name = found["name"].lower().replace("-", "_")
        return f"(?P<{ID.get(name, name)}>" + (r"\S+)" if found["empty"] else "")

    return _numbered(with_local_flags(TAG.sub(group, pattern)))


def _numbered(pattern: str) -> str:
    seen: Counter[str] = Counter()

    def rename(found: re.Match[str]) -> str:
        name = found["name"]
        seen[name] += 1
        return found[0] if seen[name] == 1 else f"(?P<{name}__{seen[name]}>"

    return GROUP.sub(rename, pattern)


@lru_cache(maxsize=1024)
def plain_name(group: str) -> str:
    """Give the name that a numbered group stands for."""
    return NUMBER.sub("", group)


def has_flag_within(pattern: str) -> bool:
    """Say whether an inline flag stands elsewhere than at the beginning, which Python itself refuses."""
    return with_local_flags(pattern) != pattern


def with_local_flags(pattern: str) -> str:
    """Write each inline flag that is not at the beginning so that it holds to the end of its group."""
    written: list[str] = []
    open_flags: list[list[str]] = [[]]  # by group, outermost first
    for number, piece in enumerate(pieces_of(pattern)):
        flags = FLAGS.fullmatch(piece)
        if flags and number:
            open_flags[-1].append(f"(?{flags['flags']}:")
            written.append(open_flags[-1][-1])
        else:
            written.append(_closed(piece, open_flags))
    written.append(")" * len(open_flags[0]) if len(open_flags) == 1 else "")
    return "".join(written)


def _closed(piece: str, open_flags: list[list[str]]) -> str:
    """Give a piece with the groups of flags that it ends, and those that begin anew behind it."""
    ends = ")" * len(open_flags[-1])
    if piece == "|":
        return f"{ends}|{''.join(open_flags[-1])}"
    if piece == "(":
        open_flags.append([])
    elif piece == ")" and len(open_flags) > 1:
        open_flags.pop()
        return f"{ends})"
    return piece


def pieces_of(pattern: str) -> Iterator[str]:
    """Give the pieces that each mean something as a whole."""
    position = 0
    while position < len(pattern):
        piece = _piece(pattern, position)
        yield piece
        position += len(piece)


def _piece(pattern: str, position: int) -> str:
    """Give the next piece that means something as a whole: an escape, a set, a flag, else a character."""
    if pattern[position] == "\\":
        return pattern[position : position + 2]
    kind = SET if pattern[position] == "[" else FLAGS if pattern[position] == "(" else None
    found = kind.match(pattern, position) if kind else None
    return found[0] if found else pattern[position]
