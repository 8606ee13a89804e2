"""Why a line is no event, or an event does not count in a jail, in words.

The filter, the jail's own window and the pipeline decide that it is so.
"""

from dataclasses import replace

from appguard.address import NetworkSet, parse_network
from appguard.event import LOGIN_SUCCESS, REQUEST, Event
from appguard.filters.base import Filter
from appguard.filters.data_file import DataFilter
from appguard.filters.regex import RegexFilter
from appguard.jail import Jail
from appguard.jail_paths import holding
from appguard.jail_window import AHEAD_MOST, JailWindow


def why_no_event(chosen: Filter, line: bytes, time: float) -> str:
    """Say why a filter that has just read this line, and no other, found no event in it."""
    if isinstance(chosen, RegexFilter | DataFilter) and chosen.patience.skipped:
        return f"it takes the regexes of the filter {chosen.name} too long: such lines are skipped"
    if isinstance(chosen, RegexFilter):
        options = chosen.options
        if options.ignoreregex and RegexFilter("", replace(options, ignoreregex=())).match(line, time) is not None:
            return f"an ignoreregex of the filter {chosen.name} matches it"
        if chosen.find(line, time) is None:
            return f"no failregex of the filter {chosen.name} matches it, or not without other lines of its connection"
        return f"the filter {chosen.name} finds a client in it that is neither an address nor a name"
    return f"the filter {chosen.name} finds no event in it"


def why_not_counted(window: JailWindow, event: Event, safelist: NetworkSet, now: float) -> str:
    """Say why; empty if it counts."""
    if not window.counts(event):
        return _why_not(window.jail, event) or "it has no key to be counted under"
    if event.address in safelist:
        return f"{event.address} is on the safelist or a trusted proxy"
    if event.time <= now - window.oldest:
        return f"it is {_duration(now - event.time)} old, and older than {_duration(window.oldest)} does not count"
    if event.time > now + AHEAD_MOST:
        ahead = _duration(event.time - now)
        return f"its time is {ahead} ahead of this host's clock, and more than {_duration(AHEAD_MOST)} does not count"
    return ""


def _why_not(jail: Jail, event: Event) -> str:
    kind = f"it is {event.kind}"
    if event.kind == LOGIN_SUCCESS and event.kind not in jail.events:
        return f"{kind}: a success ends what is counted for its user, and counts nothing"
    if event.kind not in jail.events and not (event.status and REQUEST in jail.events):
        answered = f" (answered {event.status})" if event.status else ""
        return f"{kind}{answered}, and the jail counts {', '.join(jail.events)}"
    if not event.count:
        return "it repeats a failure that was counted already (count 0)"
    if event.jail:
        return f"the jail {event.jail} of the app has counted it"
    return _why_not_settings(jail, event)


def _why_not_settings(jail: Jail, event: Event) -> str:
    if jail.statuses and event.status not in jail.statuses:
        return f"it was answered {event.status}, and the jail counts statuses {', '.join(map(str, jail.statuses))}"
    if jail.paths and not holding(jail.paths)(event.path):
        return f"its path {event.path!r} is none of the jail's paths"
    if jail.exempt_paths and holding(jail.exempt_paths)(event.path):
        return f"its path {event.path!r} is one of the jail's exempt_paths"
    if event.address in NetworkSet(map(parse_network, jail.safelist)):
        return f"{event.address} is on the jail's safelist"
    if jail.distinct:
        return f"it has no {jail.distinct}, which the jail counts different values of"
    return "it has no user, which the jail counts by"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} seconds"
