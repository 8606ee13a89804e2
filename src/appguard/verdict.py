"""The one sentence that answers: why is this not banned?"""

from collections.abc import Sequence

from appguard.explained import AddressFacts, JailStep
from appguard.ports import spoken
from appguard.status import BanRecord


def conclusion_of(jails: Sequence[JailStep], addresses: Sequence[AddressFacts], *, is_live: bool) -> str:
    """Give the sentence, from what the jails made of a line or have of an address."""
    for facts in addresses:
        for ban in facts.bans:
            return _banned(facts, ban)
    for step in jails:
        if step.dry_banned:
            return f"Not banned: jail {step.name} would shut it out, but is a dry run, which enforces nothing."
    counting = [step for step in jails if not step.why_not and step.key]
    if counting:
        return f"Not banned: {_counting(max(counting, key=_progress), is_live=is_live)}."
    told = [step for step in jails if step.event is not None] or [step for step in jails if step.why_not]
    if told:
        return f"Not banned: {_uncounted(told)}."
    return f"Not banned: {_uncounted_address(addresses, is_live=is_live, has_jails=bool(jails))}."


def _uncounted_address(addresses: Sequence[AddressFacts], *, is_live: bool, has_jails: bool) -> str:
    for facts in addresses:
        if facts.safelisted:
            return f"{facts.address} is on the safelist or a trusted proxy"
        if facts.refused:
            return f"the judge would refuse it: {facts.refused}"
    if not has_jails:
        return "the settings have no jail that could ban it"
    return "no jail has counted anything of it now" if is_live else "no daemon runs that would have counted anything"


def _progress(step: JailStep) -> tuple[bool, float]:
    return not step.refused and not step.dry_run, _deciding(step)[0] / step.maxretry


def _deciding(step: JailStep) -> tuple[int, str]:
    """Give the count that decides about a ban, and where it is counted."""
    if step.counted_by_all is None or step.counted_by_all < step.counted:
        return step.counted, " on this host" if step.is_shared else ""
    return step.counted_by_all, " on all hosts"


def _banned(facts: AddressFacts, ban: BanRecord) -> str:
    ports = f" from {spoken(ban.ports)} alone" if ban.ports else ""
    told = f"{facts.address} is banned{ports} by jail {ban.jail} (ref {ban.ref})"
    if facts.refused:
        return f"{told}, but not in the firewall: {facts.refused}."
    if not facts.enforcing:
        return f"{told}, but enforcement is off: appguard enforce on."
    if list(ban.enforced_by) == ["app"]:
        return f"{told}, but no firewall shuts it out, only the app does."
    if not ban.enforced_by:
        return f"{told}, but nobody shuts it out: no firewall of this host sees it on these ports."
    return f"{told}, and shut out by {' and '.join(ban.enforced_by)}."


def _counting(step: JailStep, *, is_live: bool) -> str:
    if step.refused:
        return f"jail {step.name} counts it, but the judge would refuse the ban: {step.refused}"
    dry = ", and the jail is a dry run, which enforces nothing" if step.dry_run else ""
    if not is_live:
        return f"it counts in jail {step.name}, which bans at {step.maxretry} in {step.findtime:g} s{dry}"
    counted, where = _deciding(step)
    missing = max(1, step.maxretry - counted)
    return (
        f"jail {step.name} has counted {counted} in {step.findtime:g} s{where} under {step.key} and bans at"
        f" {step.maxretry}; {missing} more would do{dry}"
    )


def _uncounted(steps: Sequence[JailStep]) -> str:
    """Say what the steps have in common, or what the first says."""
    if all(step.event is None for step in steps):
        whys = list(dict.fromkeys(step.why_not for step in steps))
        return whys[0] if len(whys) == 1 else f"no jail finds an event in it; jail {steps[0].name}: {whys[0]}"
    nearest = max(steps, key=lambda step: (step.fits, step.key != ""))
    return f"jail {nearest.name} does not count it: {nearest.why_not}"
