"""A server with the roles of `contrib/redis/appguard.acl`, and what each of them may do there."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from tests.redis_server import RedisServer, redis_server

ROOT = Path(__file__).parents[1]
ROLES = {"app": "appguard-shop", "daemon": "appguard-daemon", "admin": "appguard-admin"}
PASSWORDS = {"app": "app's, @:/?%", "daemon": "daemon's", "admin": "admin's"}
DENIED = re.compile("no permissions|user executing the script can't (run|access)", re.IGNORECASE)
ROOT_PASSWORD = "everything"


def written(password: str) -> str:
    """Write a password as part of a URI."""
    return "".join(letter if letter.isalnum() else f"%{ord(letter):02X}" for letter in password)


class RolesServer:
    """A running server that lets nobody in but the roles."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server

    def uri(self, role: str) -> str:
        """Give the URI with which a role logs in."""
        return f"redis://{ROLES[role]}:{written(PASSWORDS[role])}@127.0.0.1:{self.server.port}/0"

    def client(self, role: str) -> Any:
        """Give a bare client of a role; of `root` one that may do everything."""
        login = (ROLES[role], PASSWORDS[role]) if role in ROLES else ("default", ROOT_PASSWORD)
        client = redis.Redis(port=self.server.port, username=login[0], password=login[1], protocol=2)
        client.response_callbacks.clear()
        return client

    def outcome(self, role: str, *command: str | bytes) -> str:
        """Let a role send a command; give `ok`, `denied`, or the server's other words."""
        with self.client(role) as client:
            try:
                client.execute_command(*command)
            except redis.ResponseError as error:
                return "denied" if DENIED.search(str(error)) else str(error)
        return "ok"

    def commands(self, role: str) -> set[str]:
        """Give all commands of the server that a role may send, whatever the key."""
        with self.client("root") as client:
            found = client.execute_command("COMMAND")
            names = [each for command in found for each in (_subcommands(command) or [command])]
            return {_name(each) for each in names if _is_permitted(client, ROLES[role], each)}


def _subcommands(command: Any) -> list[Any]:
    return list(command[9]) if len(command) > 9 else []


def _name(command: Any) -> str:
    return bytes(command[0]).decode()


def _is_permitted(client: Any, user: str, command: Any) -> bool:
    words = _name(command).split("|")
    arguments = ["1"] * (abs(command[1]) - len(words))
    reply = client.execute_command("ACL", "DRYRUN", user, *words, *arguments)
    return not re.search(rb"no permissions to run", reply)


@contextmanager
def roles_server(directory: Path) -> Generator[RolesServer]:
    """Run a server with the roles as the file has them, switched on and with passwords, for the length of the block."""
    text = (ROOT / "contrib/redis/appguard.acl").read_text()
    for role, user in ROLES.items():
        assert f"user {user} off resetpass " in text
        text = text.replace(f"user {user} off resetpass ", f"user {user} on >{_bare(role)} ")
    users = directory / "users.acl"
    users.write_text(f"{text}user default on >{ROOT_PASSWORD} ~* &* +@all\n")
    with redis_server(directory, "--aclfile", str(users)) as server:
        roles = RolesServer(server)
        with roles.client("root") as client:
            for role, user in ROLES.items():  # passwords that no ACL file can hold
                client.execute_command("ACL", "SETUSER", user, "resetpass", f">{PASSWORDS[role]}")
        yield roles


def _bare(role: str) -> str:
    return f"{role}-for-now"
