"""Exemption: asks a function or a URL of the user's whether an address is to be let off. fail2ban's `ignorecommand`.

Theory of operation. What is asked is somebody else's code or network and may hang, so each question has a thread of its
own, no more than `THREADS_MOST` run at a time, and nobody waits longer than `WAIT_MOST` for an answer. No answer means
that the ban goes on: an attacker who can make the check fail must not get off by it. Answers are remembered. A function
`package.module:function` is called with the address as a text (for IPv6 the /64) and gives true to let it off. Of a URL
the status counts: 200 or 204 lets off, 404 does not, everything else is no answer. Nothing follows redirects.
"""

import asyncio
import contextlib
import importlib
import ssl
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import cast
from urllib.parse import quote, urlsplit

from appguard.errors import AppGuardError, ConfigError
from appguard.exemption_target import ADDRESS_IN_URL, is_url

WAIT_MOST = 3.0  # seconds
THREADS_MOST = 8
REMEMBERED = 300.0  # seconds
ANSWERS_MOST = 10_000

Check = Callable[[str], bool]


class NoAnswer(AppGuardError):
    """The check failed or took too long."""


class Exemption:
    """One check. Made and used on an event loop's thread; the check itself runs on others."""

    def __init__(
        self, check: Check, monotonic: Callable[[], float] = time.monotonic, *, wait_most: float = WAIT_MOST
    ) -> None:
        self._check = check
        self._monotonic = monotonic
        self._wait_most = wait_most
        self._answers: dict[str, tuple[bool, float]] = {}
        self._turn = asyncio.Semaphore(THREADS_MOST)  # given back when a thread ends, waited for or not

    def remembered(self, address: str) -> bool | None:
        """Give the answer for an address if it is known; None if it is to be asked."""
        answer, until = self._answers.get(address, (False, 0.0))
        return answer if self._monotonic() < until else None

    async def ask(self, address: str) -> bool:
        """Say whether an address is let off; raise `NoAnswer`."""
        known = self.remembered(address)
        if known is not None:
            return known
        try:
            async with asyncio.timeout(self._wait_most):
                answer = await self._answer(address)
        except TimeoutError as error:
            raise NoAnswer(f"no answer within {self._wait_most:g} s") from error
        self._remember(address, answer=answer)
        return answer

    def _remember(self, address: str, *, answer: bool) -> None:
        self._answers.pop(address, None)
        self._answers[address] = (answer, self._monotonic() + REMEMBERED)
        if len(self._answers) > ANSWERS_MOST:
            del self._answers[next(iter(self._answers))]

    async def _answer(self, address: str) -> bool:
        await self._turn.acquire()
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[bool] = loop.create_future()
        thread = threading.Thread(target=self._run, args=(loop, answered, address), daemon=True, name="appguard-ignore")
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            self._turn.release()
            raise NoAnswer(str(error)) from error
        return await answered

    def _run(self, loop: asyncio.AbstractEventLoop, answered: asyncio.Future[bool], address: str) -> None:
        """Run in a thread: ask, and tell the loop, which may be gone by then."""
        answer: bool | AppGuardError
        try:
            answer = bool(self._check(address))
        except Exception as error:  # noqa: BLE001 - the user's code: whatever it raises is no answer
            answer = NoAnswer(f"{type(error).__name__}: {error}")
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._take, answered, answer)

    def _take(self, answered: asyncio.Future[bool], answer: bool | AppGuardError) -> None:
        self._turn.release()
        if answered.done():  # nobody waits any more
            return
        if isinstance(answer, bool):
            answered.set_result(answer)
        else:
            answered.set_exception(answer)


def check_of(target: str) -> Check:
    """Give the check that `ignorecommand` names; raise `ConfigError`."""
    return _url_check(target) if is_url(target) else _function(target)


def _function(target: str) -> Check:
    module, _, name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # a module of the user's may raise anything while it is imported
        raise ConfigError(f"ignorecommand = {target!r}: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise ConfigError(f"ignorecommand = {target!r}: that is no function")
    return cast("Check", found)


def _url_check(url: str) -> Check:
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    context = ssl.create_default_context() if parts.scheme == "https" else None

    def check(address: str) -> bool:
        host, port = parts.hostname or "", parts.port
        connection = (
            HTTPConnection(host, port, timeout=WAIT_MOST)
            if context is None
            else HTTPSConnection(host, port, timeout=WAIT_MOST, context=context)
        )
        with contextlib.closing(connection):
            connection.request("GET", path.replace(ADDRESS_IN_URL, quote(address, safe="")))
            status = connection.getresponse().status
        if status in (200, 204):
            return True
        if status == 404:
            return False
        raise HTTPException(f"the check answers {status}")

    return check
