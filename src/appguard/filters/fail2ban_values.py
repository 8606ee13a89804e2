"""What the options of a fail2ban filter come to: `%(option)s` first, then `<tag>`, innermost first.

Theory of operation. A parameter of the jail (`filter = "fail2ban:sshd[mode=aggressive]"`) wins over everything.
Besides, `%(x)s` is the option of the own section, then of `[DEFAULT]`; `%(section/x)s` that of another section,
expanded in the own one; `%(known/x)s` the value that a later file replaced. `<x>` is the option of `[Init]`, then of
`[Definition]`, then of `[DEFAULT]`; `<section/x>` that of another section, expanded there. A tag that means nothing
here stays: it is one of the regex's own.
"""

import re
from collections.abc import Mapping

from appguard.errors import ConfigError
from appguard.filters.fail2ban_files import DEFAULT, Sections

DEFINITION = "Definition"
INIT = "Init"
PERCENT = re.compile(r"%(?:(?P<percent>%)|\((?P<name>[^)]*)\)s|)")
TAG = re.compile(r"<([^\s<>]+)>")
DEPTH_MOST = 25
REPLACED_MOST = 10_000
TEXT_MOST = 1_000_000


class Values:
    """The options of one filter under the parameters of one jail."""

    def __init__(self, sections: Sections, parameters: Mapping[str, str]) -> None:
        self._sections = sections
        self._parameters = {name.lower(): value for name, value in parameters.items()}
        self._replaced = 0

    def get(self, option: str) -> str | None:
        """Give an option of the filter with everything expanded, None if it is not set; raise `ConfigError`."""
        self._replaced = 0
        value = self._tag(option)
        return None if value is None else self._with_tags(value, (option,))

    def option(self, section: str, name: str) -> str | None:
        """Give an option of a section, of jails too, tags left as they are; None if not set. Raise `ConfigError`."""
        self._replaced = 0
        return self._option(section, name, ())

    def _tag(self, name: str) -> str | None:
        """Give what a tag means, its own tags not yet expanded."""
        lower = name.lower()
        if lower in self._parameters:
            return self._with_options(self._parameters[lower], DEFINITION, ())
        if self._sections.has(INIT, lower):
            return self._option(INIT, lower, ())
        section, _, option = name.rpartition("/")
        if section == "known" and self._sections.has(INIT, option.lower()):
            return self._option(INIT, option.lower(), (), with_parameters=False)
        if section in self._sections.options:
            return self._option(section, option, ())
        return self._option(DEFINITION, name, ())

    def _with_tags(self, text: str, path: tuple[str, ...]) -> str:
        start = 0
        while found := TAG.search(text, start):
            name = found[1]
            value = self._tag(name)
            if value is None:
                start = found.end()
                continue
            self._check(name, text, path)
            value = self._with_tags(value, (*path, name))
            text = f"{text[: found.start()]}{value}{text[found.end() :]}"
            start = max(0, text.rfind("<", 0, found.start()))  # it may now be whole: <mdre-<mode>>
        return text

    def _with_options(self, text: str, section: str, path: tuple[str, ...]) -> str:
        def replace(found: re.Match[str]) -> str:
            if found["percent"]:
                return "%"
            name = found["name"]
            if name is None:
                raise ConfigError(f"[{section}]: a '%' that is neither '%%' nor '%(option)s' in {text[:200]!r}")
            self._check(name, text, path)
            value = self._option(section, name, (*path, name))
            if value is None:
                raise ConfigError(f"[{section}]: %({name})s is set nowhere")
            return value

        return PERCENT.sub(replace, text)

    def _option(self, scope: str, name: str, path: tuple[str, ...], *, with_parameters: bool = True) -> str | None:
        if name == "__name__":
            return scope
        if with_parameters and name.lower() in self._parameters:
            return self._with_options(self._parameters[name.lower()], scope, (*path, name))
        raw = self._raw(scope, name)
        return None if raw is None else self._with_options(raw, scope, path)

    def _raw(self, scope: str, name: str) -> str | None:
        section, slash, option = name.rpartition("/")
        options, defaults = self._sections.options, self._sections.options.get(DEFAULT, {})
        if not slash:
            own = options.get(scope, {})
        elif section == "known":
            own = self._sections.known.get(scope, {})
            defaults = self._sections.known.get(DEFAULT, {}) | defaults
        elif section in options:
            own = options[section]
        elif section.lower() == "default":
            own = defaults
        else:
            return None
        return own.get(option.lower(), defaults.get(option.lower()))

    def _check(self, name: str, text: str, path: tuple[str, ...]) -> None:
        self._replaced += 1
        if name in path or len(path) > DEPTH_MOST:
            raise ConfigError(f"{path[0]}: {name!r} is expanded within itself")
        if self._replaced > REPLACED_MOST or len(text) > TEXT_MOST:
            raise ConfigError(f"{path[0] if path else name}: expands to too much")
