"""Notes Django's login signals on the request; the middleware makes events of them."""

from collections.abc import Mapping

from django.contrib.auth import get_user_model
from django.http import HttpRequest

from appguard.report import report_auth_failure, report_auth_success


def note_login_failure(
    sender: object, credentials: Mapping[str, object], request: HttpRequest | None = None, **_more: object
) -> None:
    """Note a failed login: Django has removed the password from `credentials`."""
    if request is not None:
        report_auth_failure(request, _user_of(credentials))


def note_login(sender: object, request: HttpRequest | None, user: object, **_more: object) -> None:
    """Note a login."""
    if request is not None:
        report_auth_success(request, str(getattr(user, _name_field(), "")))


def _user_of(credentials: Mapping[str, object]) -> str:
    return str(credentials.get("username") or credentials.get(_name_field()) or "")


def _name_field() -> str:
    return str(getattr(get_user_model(), "USERNAME_FIELD", "username"))
