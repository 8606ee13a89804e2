"""An explanation as text for people: a tree in the style of `status`, and the answer in the last line."""

import time
from collections.abc import Iterator, Sequence

from appguard.cli.client import printable
from appguard.cli.text import duration_text
from appguard.explained import AddressFacts, EventRecord, Explanation, JailStep
from appguard.ports import spoken

FOR_EVER = -1


def explanation_lines(explanation: Explanation) -> list[str]:
    """Write an explanation."""
    branches = [_jail(step, explanation) for step in explanation.jails]
    branches += [_address(facts, explanation) for facts in explanation.addresses]
    where = "" if explanation.live else " (no daemon asked: from the settings alone)"
    return [f"Explanation of: {printable(explanation.what)}{where}", *_tree(branches), explanation.conclusion]


def _tree(branches: Sequence[Sequence[str]]) -> Iterator[str]:
    """Draw branches, each a head and its leaves."""
    for number, (head, *leaves) in enumerate(branches):
        is_last = number == len(branches) - 1
        yield f"{'`-' if is_last else '|-'} {head}"
        for place, leaf in enumerate(leaves):
            yield f"{'   ' if is_last else '|  '}{'`-' if place == len(leaves) - 1 else '|-'} {leaf}"


def _jail(step: JailStep, explanation: Explanation) -> list[str]:
    lines = [f"Jail {step.name}{' (dry run)' if step.dry_run else ''}", f"Source:\t{' '.join(step.sources)}"]
    if step.filter:
        lines.append(f"Filter:\t{printable(step.filter)}")
    if step.event is not None:
        lines.append(f"Event:\t{_event(step.event, explanation.time)}")
    if step.why_not:
        lines.append(f"Not counted:\t{printable(step.why_not)}")
    if step.key and explanation.live:
        among = ", this line among them" if step.is_evidence else ""
        within = duration_text(step.findtime)
        counted = f"{step.counted} of {step.maxretry} in {within} under {printable(step.key)}{among}"
        lines.append(f"Counted:\t{counted}{_by_all(step)}")
    if step.refused and not step.why_not:
        lines.append(f"Judge:\twould refuse the ban: {step.refused}")
    elif (step.key and not step.why_not) or step.earlier:
        lasts = "for ever" if step.bantime == FOR_EVER else f"for {duration_text(step.bantime)}"
        lines.append(f"A ban:\twould last {lasts}, after {step.earlier} earlier")
    if step.dry_banned:
        lines.append("Dry run:\twould be banned now")
    return lines


def _by_all(step: JailStep) -> str:
    if not step.is_shared:
        return ""
    return f"; on all hosts {'not known now' if step.counted_by_all is None else step.counted_by_all}"


def _event(event: EventRecord, now: float) -> str:
    details = {"user": event.user, "request": f"{event.method} {event.path}".strip(), "status": event.status or ""}
    told = "".join(f", {name} {value}" for name, value in details.items() if value)
    ago = f"{duration_text(now - event.time)} ago" if event.time <= now else f"{duration_text(event.time - now)} ahead"
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
    via = f", via {' '.join(event.via)}" if event.via else ""
    return printable(f"{event.kind} of {event.address or event.host}, {moment} ({ago}){told}{via}")


def _address(facts: AddressFacts, explanation: Explanation) -> list[str]:
    lines = [f"Address {facts.address}", f"Safelist:\t{'yes' if facts.safelisted else 'no'}"]
    lines.append(f"Judge:\t{facts.refused or 'may be banned'}")
    if not explanation.live:
        return [*lines, "Bans:\tnot known without a daemon"]
    for ban in facts.bans:
        left = "for ever" if ban.end is None else f"for another {duration_text(ban.end - explanation.time)}"
        by = ", ".join(ban.enforced_by) or "nobody" if facts.enforcing else "nobody: enforcement is off"
        ports = f" from {spoken(ban.ports)} alone" if ban.ports else ""
        lines.append(f"Banned:\t{ban.network}{ports} by jail {ban.jail}, {left}, ref {ban.ref}, blocked by {by}")
        lines.append(f"Reason:\t{printable(ban.reason) or '-'}")
        lines += [f"Evidence:\t{printable(line)}" for line in ban.evidence]
    return lines if facts.bans else [*lines, "Banned:\tno"]
