"""Checks what a jail says of its sources: `source`, and the keys that go with some of them."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from appguard.address import Address, Network, parse_address
from appguard.config_values import Check, networks, one_or_more, texts
from appguard.errors import AddressError, ConfigError

EVENTS_SOURCE: Final = "events"
BANS_SOURCE: Final = "bans"  # the bans of other jails
SOCKET_SOURCES: Final = (EVENTS_SOURCE, "syslog")  # where the kernel says which user sends
JOURNAL: Final = "journal"
STDIN: Final = "stdin"
COMMAND: Final = "command"
UDP: Final = "udp://"
_WORDS: Final = (*SOCKET_SOURCES, JOURNAL, STDIN, COMMAND, BANS_SOURCE)
_MATCH: Final = re.compile(r"[A-Z_][A-Z0-9_]{0,63}=[^\0\n]*")
_EXAMPLE: Final = "_SYSTEMD_UNIT=ssh.service"


def sources(value: object) -> tuple[str, ...]:
    """Accept one or more places that log lines come from."""
    found = one_or_more(value)
    for source in found:
        if source.startswith(UDP):
            udp_address(source)
        elif not source.startswith(("/", "~", f"{JOURNAL}:/")) and source not in _WORDS:
            words = ", ".join(f'"{name}"' for name in _WORDS)
            raise ConfigError(
                f'{source!r}: expected a log file or glob with its whole path, or {words}, "udp://127.0.0.1:5514"'
            )
    return found


def udp_address(source: str) -> tuple[Address, int]:
    """Read `udp://ADDRESS:PORT`; raise `ConfigError`."""
    try:
        parts = urlsplit(source)
        if parts.scheme == "udp" and parts.hostname and parts.port and parts.netloc == source.removeprefix(UDP):
            return parse_address(parts.hostname), parts.port
    except (AddressError, ValueError):
        pass  # said below, with what is accepted
    raise ConfigError(f"{source!r}: expected an address and a port, such as udp://127.0.0.1:5514 or udp://[::1]:5514")


def journalmatch(value: object) -> tuple[str, ...]:
    """Accept what journalctl matches by: a list of `FIELD=value` and `+`, or a text of them, quoted as for a shell.

    As in fail2ban the lines of a text are alternatives.
    """
    if isinstance(value, str):
        lines = [shlex.split(line) for line in value.splitlines() if line.strip()]
        found = tuple(term for line in lines for term in ("+", *line))[1:]
    else:
        found = texts(value)
    for place, term in enumerate(found):
        if term == "+" and (place in (0, len(found) - 1) or found[place - 1] == "+"):
            raise ConfigError('"+" (or) stands between two matches')
        if term != "+" and not _MATCH.fullmatch(term):
            raise ConfigError(f'{term!r}: expected FIELD=value, such as "{_EXAMPLE}", or "+" (or)')
    if not found:
        raise ConfigError(f'expected matches such as "{_EXAMPLE}"; leave it out to read the whole journal')
    return found


def command(value: object) -> tuple[str, ...]:
    """Accept a program and its arguments."""
    found = texts(value) if not isinstance(value, str) else ()
    if not found or any("\0" in word for word in found):
        raise ConfigError('expected a list, a program and its arguments: ["podman", "logs", "-f", "shop"]')
    return found


SOURCE_CHECKS: dict[str, Check] = {
    "source": sources,
    "journalmatch": journalmatch,
    "peers": networks,
    "command": command,
}


def check_sources(found: Mapping[str, object], origins: Sequence[str], where: str) -> None:
    """Check that the keys and the sources of a jail go together; raise `ConfigError`."""
    kinds = {
        "journalmatch": [origin for origin in origins if origin.startswith(JOURNAL)],
        "peers": [origin for origin in origins if origin.startswith(UDP)],
        "command": [origin for origin in origins if origin == COMMAND],
    }
    needed = {"journalmatch": JOURNAL, "peers": "udp://ADDRESS:PORT", "command": COMMAND}
    for key, used_by in kinds.items():
        if key in found and not used_by:
            raise ConfigError(f'{where}: {key} is for source = "{needed[key]}", which this jail does not have')
    if kinds["command"] and "command" not in found:
        raise ConfigError(f'{where}: command is missing: say which one, command = ["podman", "logs", "-f", "shop"]')
    for origin in kinds["peers"]:
        if not udp_address(origin)[0].is_loopback and not found.get("peers"):
            raise ConfigError(
                f'{where}: peers is missing: say which hosts may send to {origin}, for example peers = ["192.0.2.7"]; '
                "anybody else could have anybody banned"
            )


def check_peers(peers_by_jail: Mapping[str, tuple[Sequence[str], tuple[Network, ...]]]) -> None:
    """Check that jails that share a port admit the same peers, as the port is one; raise `ConfigError`."""
    seen: dict[str, tuple[str, frozenset[Network]]] = {}
    for name, (origins, peers) in peers_by_jail.items():
        for origin in origins:
            if origin.startswith(UDP):
                other, theirs = seen.setdefault(origin, (name, frozenset(peers)))
                if theirs != frozenset(peers):
                    raise ConfigError(f"jails {other} and {name} give different peers for {origin}: give both the same")
