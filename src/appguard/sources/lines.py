"""Bytes to whole lines, within bounds.

A line longer than `LINE_MOST` is given out as soon as that much of it is there, and what follows up to its end is
passed over without being kept: so a line of any length costs no memory, and reading can stop and go on inside it.
"""

from dataclasses import dataclass

from appguard.sources.base import LINE_MOST


@dataclass(frozen=True, slots=True)
class Split:
    """The lines at the beginning of some bytes, and how many bytes they were.

    `is_cut` says that the last line was cut, and that its rest is still to be passed over.
    """

    lines: list[bytes]
    consumed: int
    is_cut: bool


def split(data: bytes, is_cut: bool) -> Split:
    """Split bytes that begin at a line, or inside a line already cut.

    The NUL bytes that a file truncated under its writer has in front of a line are no part of it.
    """
    start = data.find(b"\n") + 1 if is_cut else 0
    if is_cut and not start:
        return Split([], len(data), is_cut=True)
    end = data.rfind(b"\n") + 1
    lines = [trim(line) for line in data[start:end].split(b"\n")[:-1]]
    rest = data[end:].lstrip(b"\0")
    if len(rest) > LINE_MOST:
        return Split([*lines, rest[:LINE_MOST]], len(data), is_cut=True)
    return Split(lines, len(data) - len(rest), is_cut=False)


def trim(line: bytes) -> bytes:
    """Take the carriage return off a line, the NUL bytes in front of it, and what is too long."""
    return line.lstrip(b"\0").removesuffix(b"\r")[:LINE_MOST]
