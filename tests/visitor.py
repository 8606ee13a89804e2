"""Clients of the example shop: what they ask, what they get, and when the kernel begins to drop their packets."""

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from time import monotonic
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

from tests.machine import Machine
from tests.probes import Probes

NO_HEADERS: Mapping[str, str] = {}
PATIENCE = 5.0
SILENCE = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """What a visitor got, and the monotonic times its request was sent and the answer had come."""

    status: int
    text: str
    sent: float
    received: float


class Visitor:
    """Somebody with a browser on a machine; each request is a connection of its own, from `source` if it is given.

    `within` is how many seconds to wait for the server: PATIENCE where an answer is expected, SILENCE where none is.
    """

    def __init__(self, machine: Machine, host: str, source: str = "", *, port: int = 80) -> None:
        self.machine = machine
        self.host = host
        self.source = source
        self.port = port

    def ask(
        self,
        method: str,
        path: str,
        body: str = "",
        headers: Mapping[str, str] = NO_HEADERS,
        within: float = PATIENCE,
    ) -> Answer:
        """Send a request; raise OSError if nobody answers."""
        connection = HTTPConnection(self.host, self.port, timeout=within, source_address=(self.source, 0))
        with self.machine:
            connection.connect()
        try:
            sent = monotonic()
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            text = response.read().decode()
            return Answer(response.status, text, sent, monotonic())
        finally:
            connection.close()

    def log_in(self, user: str, password: str, headers: Mapping[str, str] = NO_HEADERS) -> Answer:
        """Log in with the form."""
        form = urlencode({"user": user, "password": password})
        return self.ask("POST", "/login", form, {"Content-Type": "application/x-www-form-urlencoded", **headers})

    def open_private(self, user: str, password: str) -> Answer:
        """Ask for the private page with HTTP Basic."""
        credentials = b64encode(f"{user}:{password}".encode()).decode()
        return self.ask("GET", "/private", headers={"Authorization": f"Basic {credentials}"})

    def outcome(self, within: float = PATIENCE) -> int:
        """Ask for the page and give the status of the answer, 0 if there is none."""
        try:
            return self.ask("GET", "/", within=within).status
        except TimeoutError:
            return 0


class KeptConnection:
    """One connection of a visitor for many requests. Use it as a context."""

    def __init__(self, visitor: Visitor) -> None:
        self._host = visitor.host
        self._socket = visitor.machine.connect(visitor.host, visitor.port, visitor.source, PATIENCE)

    def ask(self, within: float = PATIENCE) -> int:
        """Ask for the page and give the status of the answer, 0 if there is none."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._socket.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        return self.read(within)

    def read(self, within: float = PATIENCE) -> int:
        """Read the answer to what has been asked and give its status, 0 if there is none."""
        self._socket.settimeout(within)
        response = HTTPResponse(self._socket)
        try:
            response.begin()
            response.read()
        except TimeoutError:
            return 0
        return response.status

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


@dataclass(frozen=True, slots=True)
class Drop:
    """How a series of failed logins ended: the answers, and when the first packet dropped by the kernel was sent."""

    answers: tuple[Answer, ...]
    dropped: float
    spacing: float

    @property
    def after_answer(self) -> float:
        """Give the seconds from the last 401 having come to the first dropped packet."""
        return self.dropped - self.answers[-1].received

    @property
    def after_guess(self) -> float:
        """Give the seconds from the last guess having been sent to the first dropped packet."""
        return self.dropped - self.answers[-1].sent


def guess_until_dropped(
    visitor: Visitor, server: Machine, attempts: Iterable[Callable[[], Answer]], *, behind: str = ""
) -> Drop:
    """Make failing attempts, each answered with 401, and wait until the kernel drops the visitor's packets.

    Where the address the visitor knows is translated, `server` is the machine whose it is then, and `behind` its own.
    """
    with Probes(visitor.machine, visitor.source, server, visitor.host, behind) as probes:
        answers = tuple(attempt() for attempt in attempts)
        statuses = [answer.status for answer in answers]
        assert set(statuses) == {401}, f"every guess is answered with 401, not {statuses}"
        return Drop(answers, probes.first_dropped(5.0), probes.spacing())
