"""The filter for logs of one JSON object a line, as structured loggers write them: a setting says where the fields are.

    filter = { name = "json", address = "client.ip", time = "ts", user = "user", where = { event = "login_failed" } }

`address`, `time`, `user`, `status`, `method`, `path`, `request`, `user_agent`, `request_id` and `count` each name a
field: its key, or the keys on the way to it with dots between; a list of keys where a key holds a dot itself. A line
is an event if each field in `where` has the value there, or one of a list of values. Its kind is `kind`; without it
what `status` says, and a failed login where no `status` is given. A line in which any key stands twice is none: some
writer has let a client write JSON, and readers disagree on which of the two counts.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import cast

from appguard.errors import ConfigError
from appguard.event import LOGIN_FAIL, Event
from appguard.filters.fields import BY_STATUS, FIELDS, NO_TIME, check_kind, event_of, rest_of
from appguard.filters.literals import ANY, LENGTH_MOST, SHORTEST, Literals
from appguard.filters.times import seconds_of
from appguard.proxies import parse_hop

KEYS = (*FIELDS, "kind", "where")
TIME_FORMS = ("iso", "epoch", "clf", "ctime", "syslog")
ESCAPED = re.compile(r"[^ !#-.0-\[\]-~]")  # what JSON may write otherwise than as it is or with `ESCAPE`
ESCAPE = r"\u00"  # begins what may stand for any character of ASCII
Path = tuple[str, ...]


class JsonFilter:
    """Reads the fields of a JSON object."""

    def __init__(self, name: str, options: Mapping[str, object], kinds: Collection[str] = ()) -> None:
        """Check the options; raise `ConfigError`."""
        self.name = name
        self._rest = rest_of(kinds)
        unknown = set(options) - set(KEYS)
        if unknown:
            raise ConfigError(f"json: unknown key {min(unknown)!r}: known keys are {', '.join(sorted(KEYS))}")
        self._paths = {field: _path(field, options[field]) for field in FIELDS if field in options}
        self.warnings = () if "time" in self._paths else (NO_TIME,)
        if "address" not in self._paths:
            raise ConfigError('json: address is missing: say which field holds the client, e.g. address = "client.ip"')
        self._where = _where(options.get("where", {}))
        self._kind = check_kind(options.get("kind", BY_STATUS if "status" in self._paths else LOGIN_FAIL))
        if self._kind == BY_STATUS and "status" not in self._paths:
            raise ConfigError("json: kind = 'by_status' needs status, the field that says how it was answered")
        self.needs: Sequence[Sequence[Literals]] = (tuple(filter(None, map(_written, self._needed()))),)

    def _needed(self) -> Iterator[Sequence[str]]:
        """Give texts of which a line that is an event has one: each key without which it is none, and values."""
        paths = [self._paths[field] for field in ("address", "time") if field in self._paths]
        for key in sorted({key for path in (*paths, *(path for path, _ in self._where)) for key in path}):
            yield (key,)
        for _, values in self._where:
            texts = [value for value in values if isinstance(value, str)]
            if len(texts) == len(values):  # a number may be written in many ways
                yield texts

    def match(self, line: bytes, time: float) -> Event | None:
        """Give the event of a line."""
        found = _object(line, strict=False)
        if found is None or not all(_at(found, path) in values for path, values in self._where):
            return None
        fields = {field: _text(_at(found, path)) for field, path in self._paths.items()}
        address = parse_hop(fields["address"])  # with or without a port
        if address is None:
            return None
        fields["address"] = address.text
        told = seconds_of(fields["time"], TIME_FORMS, time) if "time" in fields else time
        event = event_of(self._kind, told, fields, rest=self._rest)
        return event if event is not None and _object(line, strict=True) is not None else None


def _written(texts: Sequence[str]) -> Literals:
    """Give the literals of a line in which one of some texts stands as JSON: as it is, or with an escape in it."""
    parts = (ESCAPED.split(text) for text in texts)
    longest = {max(('"' + "\n".join(part) + '"').split("\n"), key=len)[:LENGTH_MOST] for part in parts}
    return Literals(frozenset({*longest, ESCAPE})) if min(map(len, longest)) >= SHORTEST else ANY


def _path(field: str, value: object) -> Path:
    parts = value.split(".") if isinstance(value, str) else value
    if (
        isinstance(parts, list)
        and parts
        and all(isinstance(part, str) and part for part in cast("list[object]", parts))
    ):
        return tuple(cast("list[str]", parts))
    raise ConfigError(f"json: {field} = {value!r}: expected the key of a field, such as 'client.ip', or a list of keys")


def _where(value: object) -> list[tuple[Path, Sequence[object]]]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"json: where = {value!r}: expected a table such as {{ event = 'login_failed' }}")
    found: list[tuple[Path, Sequence[object]]] = []
    for key, each in cast("Mapping[str, object]", value).items():
        values = cast("list[object]", each) if isinstance(each, list) else [each]
        if not values or not all(isinstance(item, str | int | float) for item in values):
            raise ConfigError(
                f"json: where.{key} = {each!r}: expected a text, a number, true, false, or a list of them"
            )
        found.append((_path(f"where.{key}", key), values))
    return found


def _object(line: bytes, *, strict: bool) -> Mapping[str, object] | None:
    if not line.startswith(b"{"):
        return None
    try:
        found: object = json.loads(line.decode(errors="replace"), object_pairs_hook=_once if strict else None)
    except (ValueError, RecursionError):
        return None
    return cast("Mapping[str, object]", found) if isinstance(found, dict) else None


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _at(found: object, path: Path) -> object:
    for key in path:
        if not isinstance(found, Mapping):
            return None
        found = cast("Mapping[str, object]", found).get(key)
    return found


def _text(value: object) -> str:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()  # a lone surrogate would break whoever writes it on
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""
