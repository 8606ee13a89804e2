"""Attempts: which requests look like a login, which a limit of wrong passwords counts before the app sees them."""

import os
from collections.abc import Callable, Sequence

from appguard.event import is_login_path
from appguard.guard import SeenCredentials
from appguard.outcome import Outcome
from appguard.request import Request, authorization

ACCEPTED_SECONDS = 600.0


class Attempts:
    """The attempts at one app; credentials that worked are remembered for a while, as salted hashes."""

    def __init__(self, login_paths: Sequence[str], monotonic: Callable[[], float]) -> None:
        self._login_paths = tuple(login_paths)
        self._monotonic = monotonic
        self._accepted = SeenCredentials(os.urandom(16), ACCEPTED_SECONDS)

    def is_one(self, request: Request) -> bool:
        """Say whether a request looks like a login: a form sent to a login path, or credentials not yet accepted."""
        if request.method == "POST" and is_login_path(request.path, self._login_paths):
            return True
        scheme, credential = authorization(request.header("authorization"))
        if scheme != "basic":
            return False
        return not self._accepted.knows(request.client.key, credential.encode(errors="replace"), self._monotonic())

    def accept(self, request: Request, outcome: Outcome) -> None:
        """Remember credentials that worked, so that a page's many requests with them are no guesses."""
        if outcome.status >= 400 or outcome.kind:
            return
        scheme, credential = authorization(request.header("authorization"))
        if scheme == "basic":
            self._accepted.is_repeated(request.client.key, credential.encode(errors="replace"), self._monotonic())
