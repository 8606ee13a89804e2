"""What the framework tests share: a caller that speaks ASGI to an app without a server, and the file of its events."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from appguard.asgi import ASGIApp, Message, Scope

ALICE = "203.0.113.5"
MALLORY = "198.51.100.7"
Headers = Mapping[str, str | bytes] | Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Reply:
    """The messages an app sent for one request."""

    messages: tuple[Message, ...]

    @property
    def start(self) -> Message:
        """Give the one message that begins the answer."""
        (start,) = [message for message in self.messages if message["type"].endswith("http.response.start")]
        return start

    @property
    def status(self) -> int:
        """Give the status."""
        return int(self.start["status"])

    @property
    def headers(self) -> dict[str, str]:
        """Give the headers, names in lower case."""
        return {name.decode(): value.decode("latin-1") for name, value in self.start["headers"]}

    @property
    def text(self) -> str:
        """Give the body."""
        return b"".join(message.get("body", b"") for message in self.messages).decode()

    @property
    def json(self) -> dict[str, object]:
        """Give the body, an object of JSON."""
        return cast("dict[str, object]", json.loads(self.text))


@dataclass(slots=True)
class Caller:
    """Calls an app as one socket peer; `scope` holds what every request of it has."""

    app: ASGIApp
    peer: tuple[str, int] | None = (ALICE, 4711)
    scope: Mapping[str, object] = field(default_factory=lambda: dict[str, object]())

    def get(self, path: str = "/", headers: Headers = ()) -> Reply:
        """Send a GET."""
        return self.request("GET", path, headers)

    def post(self, path: str = "/", headers: Headers = ()) -> Reply:
        """Send a POST without a body."""
        return self.request("POST", path, headers)

    def statuses(self, times: int, method: str = "GET", path: str = "/", headers: Headers = ()) -> list[int]:
        """Send the same request several times; give the statuses."""

        async def send() -> list[int]:
            replies = [await self.ask(self.http(method, path, headers)) for _ in range(times)]
            return [reply.status for reply in replies]

        return asyncio.run(send())

    def request(self, method: str, path: str, headers: Headers = ()) -> Reply:
        """Send one request."""
        return asyncio.run(self.ask(self.http(method, path, headers)))

    def handshake(self, path: str, headers: Headers = (), *, can_deny: bool = False) -> Reply:
        """Open a websocket and leave when it is accepted; `can_deny` is the denial-response extension of ASGI."""
        extensions: dict[str, object] = {"websocket.http.response": {}} if can_deny else {}
        scope = self.http("GET", path, headers) | {"type": "websocket", "scheme": "ws", "extensions": extensions}
        del scope["method"]
        leave = {"type": "websocket.disconnect", "code": 1000}
        return asyncio.run(self.ask(scope, [{"type": "websocket.connect"}, leave]))

    async def ask(self, scope: Scope, messages: Sequence[Message] = ({"type": "http.request"},)) -> Reply:
        """Run the app for one scope; when the messages are used up, `receive` waits."""
        waiting = list(messages)
        sent: list[Message] = []

        async def receive() -> Message:
            if not waiting:
                await asyncio.Event().wait()
            return waiting.pop(0)

        async def send(message: Message) -> None:
            sent.append(dict(message))

        await self.app(scope, receive, send)
        return Reply(tuple(sent))

    def http(self, method: str = "GET", path: str = "/", headers: Headers = ()) -> dict[str, Any]:
        """Give the scope of a request, as a server makes it."""
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [
                (name.lower().encode(), value.encode() if isinstance(value, str) else value) for name, value in pairs
            ],
            "client": self.peer,
            "server": ("testserver", 80),
            **self.scope,
        }


@dataclass(frozen=True, slots=True)
class EventFile:
    """The event log of an app under test."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def read(self) -> list[dict[str, object]]:
        """Give all events written so far."""
        lines = self.path.read_text(encoding="ascii").splitlines() if self.path.exists() else []
        return [cast("dict[str, object]", json.loads(line)) for line in lines]

    def kinds(self) -> list[object]:
        """Give the kinds of the events written so far."""
        return [event["event"] for event in self.read()]
