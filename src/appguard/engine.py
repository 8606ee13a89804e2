"""What the settings mean for the engine: the windows and routes of jails, the safelist, the last judge.

The daemon, `replay` and `explain` are made of the same parts, so that they agree on what is banned.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from appguard.address import Address, Grouping, NetworkSet, network_text
from appguard.config import DaemonConfig
from appguard.config_jails import JailConfig
from appguard.config_sources import SOCKET_SOURCES
from appguard.filters.base import Filter
from appguard.host import HostFacts
from appguard.jail_window import JailWindow
from appguard.judge import Judge, Protections
from appguard.members import filter_of, sources_of, user_ids_of, wanted_kinds, wanted_statuses
from appguard.pipeline import Route
from appguard.sources.file import whole_pattern
from appguard.sources.siblings import rotated_from, unpacked

Windows = dict[str, JailWindow]


def windows_of(jails: Sequence[JailConfig], grouping: Grouping) -> Windows:
    """Give the windows of jails, by name; `grouping` is how addresses are counted on this host."""
    return {each.jail.name: JailWindow(each.jail, grouping) for each in jails}


def routes_of(jails: Sequence[JailConfig], windows: Windows) -> dict[str, list[Route]]:
    """Give the ways into all jails, by source; raise `ConfigError`."""
    routes: dict[str, list[Route]] = {}
    kinds, statuses = wanted_kinds(jails), wanted_statuses(jails)
    for each in jails:
        for source in sources_of(each):
            chosen = filter_of(each, kinds[each.filter], statuses.get(each.filter, ()))
            users = user_ids_of(each) if source in SOCKET_SOURCES else None
            routes.setdefault(source, []).append(route_of(each, chosen, windows, users))
    return routes


def route_of(each: JailConfig, chosen: Filter, windows: Windows, users: frozenset[int] | None = None) -> Route:
    """Give the way into one jail through a filter, for these users of a socket (None: whoever writes)."""
    return Route(chosen, windows[each.jail.name], users, tuple(map(network_text, each.behind)))


def safelist_of(config: DaemonConfig) -> NetworkSet:
    """Give whose events never count in any jail."""
    return NetworkSet([*config.safelist, *config.trusted_proxies.networks])


def judge_of(
    config: DaemonConfig,
    facts: HostFacts,
    administrators: Sequence[Address] = (),
    protections: Protections | None = None,
) -> Judge:
    """Give the last judge of bans; `administrators` are the addresses some are logged in from.

    `protections` is what it respects beside settings and facts.
    """
    proxies = config.trusted_proxies.networks
    judge = Judge(facts, safelist=config.safelist, proxies=proxies, protections=protections)
    judge.update(facts, administrators)
    return judge


def without_questions(each: JailConfig) -> JailConfig:
    """Give a jail that asks nobody outside before a ban."""
    return replace(each, jail=replace(each.jail, ignorecommand=""))


def reads(each: JailConfig, path: Path) -> bool:
    """Say whether a jail's sources name a file, or the log that it is an earlier file of."""
    patterns = [whole_pattern(source) for source in each.sources if source[0] in "/~"]
    whole = Path(whole_pattern(str(path)))  # a link is matched by its own name too
    return any(name.match(pattern) for name in {*_names(whole), *_names(whole.resolve())} for pattern in patterns)


def _names(path: PurePath) -> Iterator[PurePath]:
    plain = unpacked(path.name)
    yield from (path.with_name(name) for name in (path.name, plain, *rotated_from(plain)))
