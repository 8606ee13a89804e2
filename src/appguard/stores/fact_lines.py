"""A fact as a line of the published bans: sign, network, version and, of a ban, end (`-` for ever), start and jail."""

from appguard.address import parse_network
from appguard.ban import Ban, Fact
from appguard.errors import AddressError

LINE_MOST = 256  # bytes; a network has at most 43, a version 19, a time 22, a jail 64


def fact_line(fact: Fact) -> bytes:
    """Write a fact as one line."""
    ban = fact.ban
    if ban is None:
        return f"-\t{fact.key}\t{fact.version}\n".encode()
    end = "-" if ban.end is None else repr(ban.end)
    return f"+\t{fact.key}\t{fact.version}\t{end}\t{ban.start!r}\t{ban.jail}\n".encode()


def parse_fact(line: bytes) -> Fact | None:
    """Read a line that `fact_line` wrote; None for anything else."""
    try:
        sign, key, version, *rest = line.decode().split("\t")
        network = parse_network(key)
        if sign not in ("+", "-"):
            return None
        if sign == "-":
            return Fact(network, int(version), None)
        end, start, jail = rest
        ban = Ban(network, jail, float(start), None if end == "-" else float(end), version=int(version))
    except (ValueError, AddressError):
        return None
    return Fact(network, ban.version, ban)
