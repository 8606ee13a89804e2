"""What the stores ask of a Redis client: to send one command; and the scripts they send."""

from collections.abc import Sequence
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

    async def execute_command(self, *arguments: object) -> Any:
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

    def call(self, client: Commands, keys: Sequence[str], arguments: Sequence[object]) -> Any:
        """Run it."""
        try:
            return client.execute_command("EVALSHA", self._digest, len(keys), *keys, *arguments)
        except NoScriptError:
            return client.execute_command("EVAL", self._text, len(keys), *keys, *arguments)

    async def call_async(self, client: AsyncCommands, keys: Sequence[str], arguments: Sequence[object]) -> Any:
        """Run it, awaited."""
        try:
            return await client.execute_command("EVALSHA", self._digest, len(keys), *keys, *arguments)
        except NoScriptError:
            return await client.execute_command("EVAL", self._text, len(keys), *keys, *arguments)
