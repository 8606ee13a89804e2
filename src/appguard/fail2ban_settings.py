"""From a jail of fail2ban to a table `[jails.NAME]`, and all that could not be carried over, with the reason.

Every jail is checked as the daemon checks it. One that would not load is left out as a whole; so what is written loads.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appguard.address import network_text, parse_network
from appguard.ban import JAIL_NAME, PERMANENT, parse_duration
from appguard.config_jails import read_jail
from appguard.config_sources import journalmatch
from appguard.errors import AddressError, ConfigError
from appguard.event import LIMIT_EXCEEDED
from appguard.fail2ban_jails import Fail2banJail
from appguard.filters.fail2ban import FILTERS, parse_name
from appguard.filters.fail2ban import read_filter as read_fail2ban
from appguard.filters.open import FAIL2BAN, REGEX, open_filter
from appguard.ports import ports_text

ALL_PORTS = ("", "0:65535", "all", "anyport", "any")
PACKET_FILTERS = ("nftables", "iptables", "ufw", "firewallcmd", "shorewall", "ipfw", "pf", "npf", "bsd-ipfw", "dummy")
ALLPORTS = re.compile(r"""allports|\bport\s*=\s*["']?(?:0:65535|all|any)\b""")
LETS_IN = re.compile(r"""blocktype\s*=\s*["']?(?:RETURN|ACCEPT)""")
OWN_FILTERS: dict[str, dict[str, object]] = {
    "sshd": {"filter": "sshd"},
    "nginx-http-auth": {"filter": "nginx-error"},
    "nginx-limit-req": {"filter": "nginx-error", "events": [LIMIT_EXCEEDED]},
    "apache-auth": {"filter": "apache-error"},
    "recidive": {"source": "bans"},
}
MERELY_SAID = ("action", "port", "protocol", "ignorecommand")  # without these a jail bans the same
REGEX_OPTIONS = ("failregex", "ignoreregex", "prefregex", "datepattern")
UNITS = {
    "y(?:ears?)?": 31_536_000,
    "mo(?:n(?:ths?)?)?": 2_592_000,
    "w(?:eeks?)?": 604_800,
    "d(?:ays?)?": 86_400,
    "h(?:ours?)?": 3600,
    "m(?:in(?:ute)?s?)?": 60,
    "s(?:ec(?:ond)?s?)?": 1,
}
OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda one, other: one / other,
}
EXPRESSION_MOST = 100  # characters


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that a person should know of a jail: which option, and what of it is different now."""

    jail: str
    option: str
    text: str
    place: str = ""

    def __str__(self) -> str:
        where = f" ({self.place})" if self.place else ""
        return f"[{self.jail}] {self.option}{where}: {self.text}"


@dataclass(slots=True)
class Carried:
    """What became of a jail: its name here, its table, the networks it lets off, and remarks. `failed` says why not."""

    jail: Fail2banJail
    name: str
    table: dict[str, object] = field(default_factory=dict[str, object])
    ignoreip: tuple[str, ...] = ()
    remarks: list[Remark] = field(default_factory=list[Remark])
    failed: str = ""

    def note(self, option: str, text: str) -> None:
        """Add a remark."""
        self.remarks.append(Remark(self.jail.name, option, text, self.jail.places.get(option, "")))


def carry_over(jail: Fail2banJail, directory: Path, *, own_filters: bool = False) -> Carried:
    """Give a jail as our settings; `directory` is fail2ban's configuration."""
    carried = Carried(jail, jail.name)
    if not JAIL_NAME.fullmatch(jail.name):
        carried.name = re.sub(r"[^A-Za-z0-9_.-]", "-", jail.name).lstrip("-_.")[:64] or "jail"
        carried.note("name", f"is {carried.name} here")
    for option, why in jail.unreadable.items():
        carried.note(option, f"cannot be read: {why}")
        if option not in MERELY_SAID:
            carried.failed = f"{option} cannot be read: {why}"
            return carried
    try:
        _sources(carried)
        _regex_options(carried)
        _filter(carried, directory, own_filters=own_filters)
        _counts(carried)
        _increment(carried)
        _ignored(carried)
        _ports(carried)
        _left_out(carried)
        _check(carried)
    except ConfigError as error:
        carried.failed = str(error)
    return carried


def _check(carried: Carried) -> None:
    found = read_jail(carried.name, carried.table, f"[jails.{carried.name}]")
    if found.filter:
        logtype = "journal" if all(source.startswith("journal") for source in found.sources) else "file"
        open_filter(found.filter, found.filter_options, logtype=logtype, kind=found.jail.events[0])


def _sources(carried: Carried) -> None:
    backend, _, options = carried.jail.get("backend").partition("[")
    if backend == "systemd":
        carried.table["source"] = _journal(carried, options.rstrip("]"))
        matches = carried.jail.get("journalmatch")
        if matches:
            carried.table["journalmatch"] = _terms(matches)
        return
    found = [_path(line) for line in carried.jail.get("logpath").splitlines() if line.strip()]
    for path in found:
        _check_path(carried, path)
    whole = [path for path in found if path.startswith(("/", "~"))]
    if not whole:
        raise ConfigError("no log to read: logpath names no file with its whole path, and backend is not systemd")
    carried.table["source"] = whole[0] if len(whole) == 1 else whole


def _terms(matches: str) -> list[str]:
    try:
        return list(journalmatch(matches))
    except ValueError as error:
        raise ConfigError(f"journalmatch = {matches!r}: {error}") from error


def _journal(carried: Carried, options: str) -> str:
    _, given = parse_name(f"systemd[{options}]") if options else ("", dict[str, str]())
    where = given.pop("journalpath", "") or given.pop("journalfiles", "")
    for name, value in given.items():
        carried.note("backend", f"{name}={value} is not carried over: the journal is read from all boots and services")
    return f"journal:{where}" if where.startswith("/") else "journal"


def _path(line: str) -> str:
    path, _, word = line.strip().rpartition(" ")
    return path.strip() if word in ("head", "tail") and path else line.strip()


def _check_path(carried: Carried, path: str) -> None:
    if path.startswith("~"):
        carried.note("logpath", f"{path}: ~ is the home of the user the daemon runs as: write the whole path")
    elif not path.startswith("/"):
        carried.note("logpath", f"{path} is left out: expected the whole path")
    elif not _is_there(path):
        carried.note("logpath", f"{path} is not there now; it is read when it comes")


def _is_there(path: str) -> bool:
    try:
        return any(Path("/").glob(path.lstrip("/")))
    except (ValueError, OSError):  # no pattern of files, or not for us to see
        return False


def _filter(carried: Carried, directory: Path, *, own_filters: bool) -> None:
    spelled = carried.jail.get("filter")
    name, parameters = parse_name(spelled) if spelled else ("", dict[str, str]())
    file = directory / "filter.d" / name
    is_there = name and any(file.with_name(file.name + ending).is_file() for ending in (".conf", ".local", ""))
    own = OWN_FILTERS.get(name) if own_filters else None
    if own and not set(carried.table).isdisjoint(REGEX_OPTIONS):
        carried.note("filter", f"stays fail2ban's {name}: the jail changes its regexes")
    elif own:
        _own_filter(carried, own, name, parameters)
        return
    if not is_there:
        _only_regexes(carried, f"{file}.conf" if name else "")
        return
    rest = spelled[len(name) :].strip()
    carried.table["filter"] = f"{FAIL2BAN}{name if directory == FILTERS.parent else file.absolute()}{rest}"
    _check_journal(carried, f"{file.absolute()}{rest}")
    if name == "recidive":
        carried.note("filter", 'reads the bans of fail2ban; those of AppGuard are counted by source = "bans"')


def _regex_options(carried: Carried) -> None:
    for option in ("usedns", "maxlines", "logtype", *REGEX_OPTIONS):
        value = carried.jail.get(option)
        if value and (option, value) != ("usedns", "warn"):
            carried.table[option] = _lines(value) if option in ("failregex", "ignoreregex") else value


def _only_regexes(carried: Carried, missing: str) -> None:
    spelled = carried.jail.get("filter")
    if not carried.jail.get("failregex"):
        raise ConfigError(
            f"filter = {spelled!r}: there is no {missing or 'such filter'}, and the jail has no failregex"
        )
    if missing:
        carried.note("filter", f"there is no {missing}: the jail's own failregex is all")
    carried.table["filter"] = REGEX


def _own_filter(carried: Carried, own: dict[str, object], name: str, parameters: dict[str, str]) -> None:
    for option in ("usedns", "maxlines", "logtype"):
        carried.table.pop(option, None)
    if own.get("source") == "bans":
        carried.table.pop("journalmatch", None)
    elif carried.table["source"] == "journal" and "journalmatch" not in carried.table:
        matches = read_fail2ban(name, "journal").journalmatch
        carried.table |= {"journalmatch": _terms(matches)} if matches else {}
    carried.table |= own
    carried.note("filter", f"AppGuard's own in place of fail2ban's {name}")
    if parameters.get("mode", "normal") != "normal":
        carried.note("filter", f"mode={parameters['mode']} is not carried over: AppGuard's own has one mode")


def _check_journal(carried: Carried, spelled: str) -> None:
    is_journal = str(carried.table["source"]).startswith("journal")
    if is_journal and "journalmatch" not in carried.table and not read_fail2ban(spelled, "journal").journalmatch:
        carried.note("journalmatch", "is missing: the whole journal is read, which every program can write to")


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _counts(carried: Carried) -> None:
    jail = carried.jail
    if jail.get("maxretry"):
        carried.table["maxretry"] = _number(jail, "maxretry", int)
    for option in ("findtime", "bantime"):
        if jail.get(option):
            carried.table[option] = _duration(jail, option)


def _number(jail: Fail2banJail, option: str, kind: type[int] | type[float]) -> float:
    try:
        return kind(jail.get(option))
    except ValueError as error:
        raise ConfigError(f"{option} = {jail.get(option)!r}: expected a number") from error


def _duration(jail: Fail2banJail, option: str) -> str | int | float:
    """Give a duration as it is written, or, where that is an expression, what it comes to."""
    text = jail.get(option)
    try:
        parse_duration(text, option)
        return int(text) if re.fullmatch(r"-?\d+", text) else text
    except ConfigError:
        seconds = seconds_of(text)
    if seconds is None or seconds == 0 or not math.isfinite(seconds):
        raise ConfigError(f"{option} = {text!r}: expected a duration")
    return PERMANENT if seconds < 0 else int(seconds) if seconds == int(seconds) else seconds


def seconds_of(text: str) -> float | None:
    """Give what an expression such as `60*60`, `1y 6mo` or `2 hours + 30` comes to, None if it is none."""
    written = text[:EXPRESSION_MOST].lower()
    for unit, size in UNITS.items():
        written = re.sub(rf"(\d+(?:\.\d+)?)\s*{unit}(?![a-z])\s*(?=(\d|\()?)", rf"(\1*{size}) ", written)
    written = re.sub(r"\)\s+(?=[\d(])", ") + ", written.strip())
    try:
        return _value(ast.parse(written, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError("no number")


def _increment(carried: Carried) -> None:
    jail = carried.jail
    given = [name for name in jail.options if name.startswith("bantime.") and jail.get(name)]
    if not jail.is_true("bantime.increment"):
        for name in (each for each in given if each != "bantime.increment"):
            carried.note(name, "means nothing without bantime.increment")
        return
    if carried.table.get("bantime") == PERMANENT:
        carried.note("bantime.increment", "means nothing: bans for ever cannot grow")
        return
    carried.table["bantime_increment"] = True
    for name in given:
        _increment_option(carried, name)


def _increment_option(carried: Carried, name: str) -> None:
    jail, ours = carried.jail, name.replace(".", "_")
    if name == "bantime.formula":
        carried.note(name, "no formula is evaluated: bans double, or are as bantime_multipliers say")
    elif name == "bantime.factor":
        carried.table[ours] = _number(jail, name, float)
    elif name == "bantime.multipliers":
        carried.table[ours] = jail.get(name)
    elif name == "bantime.overalljails":
        carried.table[ours] = jail.is_true(name)
    elif name != "bantime.increment":
        carried.table[ours] = _duration(jail, name)


def _ignored(carried: Carried) -> None:
    found: list[str] = []
    for text in carried.jail.get("ignoreip").replace(",", " ").split():
        try:
            found.append(network_text(parse_network(text)))
        except AddressError:
            carried.note("ignoreip", f"{text} is left out: expected an address or network")
    carried.ignoreip = tuple(found)
    if carried.jail.get("ignorecommand"):
        carried.note(
            "ignorecommand",
            "no command is run; give a Python function or a URL, see docs/jails.md",
        )
    if carried.jail.get("ignoreself") and not carried.jail.is_true("ignoreself"):
        carried.note("ignoreself", "this host's own addresses are never banned")


def _ports(carried: Carried) -> None:
    """Carry over which ports bans are about, unless the jail's action shuts out of all whatever they are."""
    jail = carried.jail
    if jail.get("port").lower() in ALL_PORTS or ALLPORTS.search(jail.get("action")):
        return
    ports = [text.replace(":", "-") for text in jail.get("port").replace(",", " ").split()]
    protocols = [text for text in jail.get("protocol").lower().replace(",", " ").split() if text != "all"]
    try:
        ports_text(ports, protocols)
    except ConfigError as error:
        carried.note("port", f"{jail.get('port')}: a banned client is shut out of all ports: {error}")
        return
    carried.table["ports"] = [int(port) if port.isdecimal() else port for port in ports]
    if protocols:
        carried.table["protocol"] = protocols[0] if len(protocols) == 1 else protocols


def _left_out(carried: Carried) -> None:
    jail = carried.jail
    if jail.get("logencoding").lower() not in ("", "auto", "utf-8", "utf8", "ascii"):
        carried.note("logencoding", f"{jail.get('logencoding')}: logs are read as UTF-8")
    if jail.get("logtimezone"):
        carried.note("logtimezone", f"{jail.get('logtimezone')}: times without a zone are this host's")
    if LETS_IN.search(jail.get("action")):
        raise ConfigError("its action lets clients in instead of shutting them out; AppGuard has none such")
    for action in _actions(jail.get("action")):
        if not action.startswith(PACKET_FILTERS):
            carried.note("action", f"{action} is not run: AppGuard's firewall shuts clients out, and runs no actions")


def _actions(text: str) -> Iterator[str]:
    """Give the names of the actions: each begins a line, and may have parameters."""
    names: Sequence[re.Match[str]] = list(re.finditer(r"(?m)^\s*([\w.-]+)(?=\s*(?:\[|$))", text))
    yield from dict.fromkeys(found[1] for found in names)
