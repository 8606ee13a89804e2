"""Clients whose callers leave in time: what goes on behind them is closed all the same."""

from threading import Event, Thread

import pytest

from appguard.stores.redis_bounded import BoundedCommands


class Client:
    """Answers with its command, until it is closed."""

    def __init__(self) -> None:
        self.is_closed = False

    def execute_command(self, *arguments: object) -> object:
        """Give the command."""
        return arguments[0]

    def close(self) -> None:
        """Note that it is closed."""
        self.is_closed = True


def test_what_is_opened_while_it_is_closed_is_closed_too() -> None:
    """A client that was being opened when its caller left is not left open by `close`; the next call opens another."""
    opened: list[Client] = []
    asked, found = Event(), Event()

    def open_client() -> Client:
        asked.set()
        assert found.wait(5)
        opened.append(Client())
        return opened[-1]

    commands = BoundedCommands(open_client, 5.0)
    with pytest.raises(TimeoutError):
        commands.run(lambda client: client.execute_command("PING"), 0.01)
    assert asked.wait(5)
    closing = Thread(target=commands.close)
    closing.start()
    closing.join(0.1)
    found.set()
    closing.join()
    assert [each.is_closed for each in opened] == [True]
    assert commands.execute_command("PING") == "PING"
    commands.close()
    assert [each.is_closed for each in opened] == [True, True]
