"""report_auth_failure and report_auth_success: the app notes a fact on the request, nothing else.

The middleware leaves on the request what hears reports before the app runs, and asks it when the answer is known; so a
report costs nothing, cannot fail the request, and needs no import of a framework. Only one that comes when nobody will
ask again, behind WSGI after the answer has begun, is told by the thread that reports.
"""

import logging
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from appguard.event import LOGIN_FAIL, LOGIN_SUCCESS

VISIT = "appguard.visit"  # where it is left; None where AppGuard is switched off: reports are heard and forgotten

log = logging.getLogger("appguard.report")


@dataclass(frozen=True, slots=True)
class Note:
    """What the app said: the kind of event, the user it concerns, and the credential only to tell repetitions apart."""

    kind: str
    user: str = ""
    credential: str = field(default="", repr=False)


class Noted:
    """A request on which something may be noted."""

    __slots__ = ("notes",)

    def __init__(self) -> None:
        self.notes: Sequence[Note] = ()

    def note(self, note: Note, request: Mapping[str, object]) -> None:
        """Note what was reported of a request, which is a scope or an environ."""
        self.notes = (*self.notes, note)


def report_auth_failure(request: object, user: str = "", *, credential: str = "") -> None:
    """Note that this request failed to log in as `user`.

    `request` is a Starlette, Flask or Django request, an ASGI scope or a WSGI environ. `credential` may be given so
    that the same wrong one, tried again and again, counts once: only a salted hash is kept, in memory.
    """
    _note(request, LOGIN_FAIL, user, credential)


def report_auth_success(request: object, user: str = "") -> None:
    """Note that this request logged in as `user`."""
    _note(request, LOGIN_SUCCESS, user)


def _note(request: object, kind: str, user: object, credential: object = "") -> None:
    scope_or_environ = _mapping_of(request)
    visit = scope_or_environ.get(VISIT, "missing")
    if isinstance(visit, Noted):
        visit.note(Note(kind, _text(user), _text(credential)), scope_or_environ)
    elif visit is not None:
        log.warning("%s reported, but no AppGuard middleware is in front of this request", kind)


def _text(value: object) -> str:
    """Give a text whatever an unchecked form or JSON body held: None, a number, bytes."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return "" if value is None else str(value)


def _mapping_of(request: object) -> Mapping[str, object]:
    candidates = (request, *(getattr(request, attribute, None) for attribute in ("scope", "environ", "META")))
    found = [cast("Mapping[str, object]", each) for each in candidates if isinstance(each, MutableMapping)]
    if not found:
        raise TypeError(
            "expected a Starlette, Flask or Django request, an ASGI scope or a WSGI environ, "
            f"not {type(request).__name__}"
        )
    return next((each for each in found if VISIT in each), found[0])  # Django's ASGI request has scope and META
