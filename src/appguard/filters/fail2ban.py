"""Opens fail2ban's own filters, unmodified, from where they are installed: `fail2ban:sshd[mode=aggressive]`.

What stands behind `fail2ban:` is a name in `/etc/fail2ban/filter.d` or the whole path of a filter file, and parameters
in brackets as fail2ban's jails give them: `[name=value, name="a, b"][name='value']`.
"""

import re
from dataclasses import fields
from pathlib import Path

from appguard.errors import ConfigError
from appguard.filters.fail2ban_files import read_sections
from appguard.filters.fail2ban_values import DEFINITION, Values
from appguard.filters.options import FilterOptions, options_of

FILTERS = Path("/etc/fail2ban/filter.d")
NAME = re.compile(r"(?P<name>[^\[\]]+?)\s*(?P<parameters>\[.*\])?", re.DOTALL)
PARAMETER = re.compile(
    r"""\s*(?P<name>[\w\-]+(?:\?[\w\-]+=[\w\-]+)?)\s*=\s*
    (?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<plain>[^,"'\]]*?))\s*(?P<end>,|\]\s*\[|\]\s*\Z)""",
    re.VERBOSE,
)


def read_filter(spelled: str, logtype: str = "") -> FilterOptions:
    """Read the filter that `sshd[mode=aggressive]` names, or a path; raise `ConfigError`.

    `logtype` is what the jail's source gives, "file" or "journal"; a filter that sets its own keeps it.
    """
    name, parameters = parse_name(spelled)
    base = FILTERS / name
    if not base.name:
        raise ConfigError(f"{spelled!r}: it is a directory, not a filter")
    if base.suffix in (".conf", ".local"):
        base = base.with_suffix("")
    sections = read_sections(base)
    if "logtype" not in parameters and not sections.has(DEFINITION, "logtype"):
        parameters["logtype"] = logtype or "file"
    values = Values(sections, parameters)
    found = {field.name: values.get(field.name) for field in fields(FilterOptions)}
    try:
        return options_of({option: value for option, value in found.items() if value is not None})
    except ConfigError as error:
        raise ConfigError(f"{base}.conf: {error}") from error


def parse_name(spelled: str) -> tuple[str, dict[str, str]]:
    """Part `sshd[mode=aggressive]` into the filter's name and its parameters; raise `ConfigError`."""
    found = NAME.fullmatch(spelled.strip())
    if found is None:
        raise ConfigError(f'{spelled!r}: expected a filter such as "sshd" or "sshd[mode=aggressive]"')
    text, parameters = (found["parameters"] or "").strip(), dict[str, str]()
    position = 1
    while position < len(text):
        if text[position:].strip() == "]":
            break
        part = PARAMETER.match(text, position)
        if part is None:
            raise ConfigError(f"{spelled!r}: expected name=value at {text[position:]!r}")
        value = next(part[group] for group in ("double", "single", "plain") if part[group] is not None)
        parameters[part["name"].lower()] = value
        position = part.end()
    return found["name"].strip(), parameters
