"""What the stores ask of a Redis client: to send one command; and the scripts they send."""

from collections.abc import Awaitable, Iterator, Sequence
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


class PooledCommands(Commands, Protocol):
    """The same of one server, by redis-py's own client."""

    connection_pool: Any


class AsyncCommands(Protocol):
    """The same, awaited."""

    def execute_command(self, *arguments: object) -> Awaitable[Any]:
        """Send one command and give its reply."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


def scan_ahead(client: PooledCommands, key: str, count: int) -> Iterator[list[bytes]]:
    """Give fields and values of a hash in turn, about `count` at a time; the server looks for the next meanwhile.

    Raise redis-py's errors.
    """
    connection = client.connection_pool.get_connection()
    is_asked = True
    try:
        connection.send_command("HSCAN", key, b"0", "COUNT", count)
        while is_asked:
            cursor, found = connection.read_response()
            is_asked = cursor != b"0"
            if is_asked:
                connection.send_command("HSCAN", key, cursor, "COUNT", count)
            yield found
    finally:
        if is_asked:  # an answer is on its way that nobody will read
            connection.disconnect()
        client.connection_pool.release(connection)


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
