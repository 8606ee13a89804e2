"""What the stores ask of a Redis client: to send one command; and the scripts they send."""

from collections.abc import Awaitable, Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any, Protocol

from redis.exceptions import NoScriptError


class Commands(Protocol):
    """The commands the stores send; replies are bytes (`Any`: redis-py's own types say little)."""

    def execute_command(self, *arguments: object) -> Any:
        """Send one command and give its reply."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class AsyncCommands(Protocol):
    """The same, awaited."""

    def execute_command(self, *arguments: object) -> Awaitable[Any]:
        """Send one command and give its reply."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class Script:
    """A Lua file, sent by its digest, and as text to a server that does not know it yet."""

    def __init__(self, name: str) -> None:
        self._text = files("appguard.stores").joinpath("lua", f"{name}.lua").read_text()
        self._digest = sha1(self._text.encode(), usedforsecurity=False).hexdigest()  # how EVALSHA names a script

    def by_digest(self, keys: Sequence[str], arguments: Sequence[object]) -> tuple[object, ...]:
        """Give the command that runs it on a server that knows it."""
        return ("EVALSHA", self._digest, len(keys), *keys, *arguments)

    def by_text(self, keys: Sequence[str], arguments: Sequence[object]) -> tuple[object, ...]:
        """Give the command that runs it on any server."""
        return ("EVAL", self._text, len(keys), *keys, *arguments)

    def call(self, client: Commands, keys: Sequence[str], arguments: Sequence[object]) -> Any:
        """Run it."""
        try:
            return client.execute_command(*self.by_digest(keys, arguments))
        except NoScriptError:
            return client.execute_command(*self.by_text(keys, arguments))

    async def call_async(self, client: AsyncCommands, keys: Sequence[str], arguments: Sequence[object]) -> Any:
        """Run it, awaited."""
        try:
            return await client.execute_command(*self.by_digest(keys, arguments))
        except NoScriptError:
            return await client.execute_command(*self.by_text(keys, arguments))
