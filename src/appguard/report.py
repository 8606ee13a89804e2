"""report_auth_failure and report_auth_success: the app notes a fact on the request, nothing else.

The middleware puts an empty list into the request before the app runs and reads it when the answer is known; so a
report costs nothing, cannot fail the request, and needs no import of a framework.
"""

import logging
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import cast

from appguard.event import LOGIN_FAIL, LOGIN_SUCCESS

NOTES = "appguard.notes"

log = logging.getLogger("appguard.report")


@dataclass(frozen=True, slots=True)
class Note:
    """What the app said: the kind of event, the user it concerns, and the credential only to tell repetitions apart."""

    kind: str
    user: str = ""
    credential: str = field(default="", repr=False)


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
    notes = _mapping_of(request).get(NOTES)
    if isinstance(notes, list):
        cast("list[Note]", notes).append(Note(kind, _text(user), _text(credential)))
    else:
        log.warning("%s reported, but no AppGuard middleware is in front of this request", kind)


def _text(value: object) -> str:
    """Give a text whatever an unchecked form or JSON body held: None, a number, bytes."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return "" if value is None else str(value)


def _mapping_of(request: object) -> Mapping[str, object]:
    if isinstance(request, MutableMapping):
        return cast("Mapping[str, object]", request)
    for attribute in ("scope", "environ", "META"):
        found = getattr(request, attribute, None)
        if isinstance(found, MutableMapping):
            return cast("Mapping[str, object]", found)
    raise TypeError(
        f"expected a Starlette, Flask or Django request, an ASGI scope or a WSGI environ, not {type(request).__name__}"
    )
