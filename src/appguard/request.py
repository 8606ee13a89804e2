"""Request: what a limit's callables see of a request, the same in every framework. Read only when a limit asks."""

import base64
import binascii
import unicodedata
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

from appguard.proxies import Client

USER_MOST = 256

HeaderOf = Callable[[object, str], str]  # (the framework's request, header name in lower case) -> its text or ""


class Request(NamedTuple):
    """A request before the app has run.

    `client` is who sent it, `native` is the framework's own: ASGI scope, WSGI environ, Django's HttpRequest.
    """

    client: Client
    method: str
    path: str
    native: object
    header_of: HeaderOf

    def header(self, name: str) -> str:
        """Give the text of a header, empty without it."""
        return self.header_of(self.native, name.lower())

    @property
    def address(self) -> str:
        """Give the client's address, empty if it is unknown."""
        return self.client.address.text if self.client.address else ""

    @property
    def user(self) -> str:
        """Give the user the framework or the server has authenticated before AppGuard runs; empty without one."""
        native = self.native
        if not isinstance(native, Mapping):
            return _name_of(getattr(native, "user", None))
        found = cast("Mapping[str, object]", native)
        remote = found.get("REMOTE_USER")
        return remote if isinstance(remote, str) and remote else _name_of(found.get("user"))

    @property
    def claimed_user(self) -> str:
        """Give the user the request says it is of, by HTTP Basic; nobody has checked it."""
        scheme, credential = authorization(self.header("authorization"))
        return basic_user(credential) if scheme == "basic" else ""


def authorization(header: str) -> tuple[str, str]:
    """Give the scheme of an Authorization header, in lower case, and its credential."""
    if not header:
        return "", ""
    scheme, credential = ([*header.split(None, 1), "", ""])[:2]
    return scheme.lower(), credential


def basic_user(credential: str) -> str:
    """Give the user name of HTTP Basic credentials (RFC 7617); the password, or what has no colon, is dropped."""
    try:
        user, colon, _ = base64.b64decode(credential, validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return ""
    return user.decode(errors="replace") if colon else ""


def normal_user(user: str) -> str:
    """Give a user name so that its spellings are one: compatible letters, spaces around it and case do not matter."""
    user = user[:USER_MOST]
    return (user if user.isascii() else unicodedata.normalize("NFKC", user)).strip().casefold()


def _name_of(user: object) -> str:
    """Give the name of a user of Django or Starlette."""
    if not getattr(user, "is_authenticated", False):
        return ""
    get_username = getattr(user, "get_username", None)
    name: object = get_username() if callable(get_username) else getattr(user, "username", "")
    return name if isinstance(name, str) else str(name or "")
