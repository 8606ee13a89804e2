"""Asks the daemon over its control socket, and turns every way this can fail into one line and an exit code."""

import json
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket
from typing import IO, ParamSpec, cast

import click

P = ParamSpec("P")
Reply = Mapping[str, object]

CONFIG_READ = "The configuration file to read.  [default: /etc/appguard/appguard.toml]"
SOCKET = Path("/run/appguard-control/control.sock")
SECONDS_MOST = 30.0


class CommandError(click.ClickException):
    """A verb could not do what it was asked; click prints the message and exits with the code."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))

    def show(self, file: IO[str] | None = None) -> None:
        """Print the message; unlike click, in the encoding of the stream, whatever that is."""
        print(f"Error: {self.message}", file=file or sys.stderr)


class WrongInput(CommandError):
    """What was asked, or configured, cannot be."""

    exit_code = 2


class NotFound(CommandError):
    """There is no such jail or ban."""


class SafetyRefusal(CommandError):
    """The daemon will not ban what would cut off its host."""

    exit_code = 3


class NotReachable(CommandError):
    """No daemon answers."""

    exit_code = 4


_ERRORS = {400: WrongInput, 404: NotFound, 409: SafetyRefusal, 413: WrongInput, 503: NotReachable}


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("appguard", timeout=seconds)
        self._path = path
        self._seconds = seconds

    def connect(self) -> None:
        """Connect to the unix socket."""
        self.sock = socket(AF_UNIX, SOCK_STREAM)
        self.sock.settimeout(self._seconds)
        self.sock.connect(str(self._path))


def config_option(what: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Give a verb the option `--config`; `what` says what for, and what is read without it."""
    return click.option("--config", type=click.Path(path_type=Path, readable=False), help=what)


def control_options(verb: Callable[P, None]) -> Callable[P, None]:
    """Give a verb the options of everything that talks to the daemon: `--socket` and `--json`."""
    verb = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(verb)
    return click.option(
        "--socket",
        "socket_path",
        type=click.Path(path_type=Path, readable=False),
        default=SOCKET,
        show_default=True,
        help="The daemon's control socket.",
    )(verb)


def ask(
    socket_path: Path, method: str, target: str, order: Reply | None = None, *, seconds: float = SECONDS_MOST
) -> Reply:
    """Send one request and give the JSON object of the answer; raise `CommandError` for every other answer."""
    body = None if order is None else json.dumps(order)
    connection = _UnixConnection(socket_path, seconds)
    with _reaching(socket_path):
        try:
            connection.request(method, target, body)
            response = connection.getresponse()
            status, text = response.status, response.read()
        finally:
            connection.close()
    with understanding():
        reply = cast("Reply", json.loads(text)) if status != 503 else {"error": "the daemon is too busy; try again"}
        if status == 200:
            return reply
        raise _ERRORS.get(status, CommandError)(str(reply["error"]))


@contextmanager
def _reaching(path: Path) -> Generator[None]:
    try:
        yield
    except PermissionError as error:
        message = f"you may not open {path}: use sudo, or join the group appguard and log in again"
        raise NotReachable(message) from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        message = f"no daemon listens on {path}: start it with 'systemctl start appguard' or 'appguard daemon'"
        raise NotReachable(message) from error
    except (OSError, HTTPException) as error:  # a timeout, a closed connection, no HTTP, a path too long
        raise NotReachable(f"the daemon did not answer on {path}: {error}") from error


@contextmanager
def understanding() -> Generator[None]:
    """Turn the errors of reading an answer into one that says what is likely: a daemon of another version."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = f"the daemon's answer is not understood ({error!r}): is it another version? Restart it."
        raise CommandError(message) from error


def printable(text: str, keep: str = "") -> str:
    """Escape what a terminal would act on: control characters, escape sequences, marks of writing direction."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def say(*lines: str) -> None:
    """Print lines, whatever is in them."""
    for line in lines:
        print(printable(line, keep="\t"), flush=True)  # a reader that has gone is found out here


def say_json(reply: Reply) -> None:
    """Print an answer as JSON in ASCII."""
    print(json.dumps(reply, indent=2), flush=True)
