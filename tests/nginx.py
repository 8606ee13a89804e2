"""A real nginx of the tests' own: its files laid out as in /etc/nginx, its log and temporary files beside them."""

import re
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.lab import Process, User, is_listening, wait_until

CONTRIB = Path(__file__).parents[1] / "contrib" / "nginx"
NO_FILES: Mapping[str, str] = {}
CONF = """\
daemon off;
{user}
worker_processes {workers};
pid {root}/nginx.pid;
error_log {root}/log/error.log notice;
events {{ worker_connections 512; }}
http {{
    client_body_temp_path {root}/tmp/body;
    proxy_temp_path {root}/tmp/proxy;
    fastcgi_temp_path {root}/tmp/fastcgi;
    uwsgi_temp_path {root}/tmp/uwsgi;
    scgi_temp_path {root}/tmp/scgi;
    access_log off;
    include conf.d/*.conf;
    include sites-enabled/*.conf;
}}
"""


class Nginx:
    """One nginx under `root` that listens on `port`. `files` are its configuration by the path below /etc/nginx."""

    def __init__(
        self,
        root: Path,
        port: int,
        files: Mapping[str, str] = NO_FILES,
        *,
        user: User | None = None,
        workers: int = 1,
    ) -> None:
        self.root = root
        self.port = port
        self.user = user
        self.log = root / "log" / "appguard.log"
        self.bans = root / "etc" / "appguard" / "bans.geo"
        for name in ("etc/conf.d", "etc/snippets", "etc/sites-enabled", "etc/appguard", "log", "tmp"):
            (root / name).mkdir(parents=True)
        self.bans.touch()
        who = "" if user else "user www-data;"
        for path, text in {"nginx.conf": CONF.format(root=root, user=who, workers=workers), **files}.items():
            (root / "etc" / path).write_text(text)
        if user:
            subprocess.run(["chown", "-R", f"{user.uid}", str(root)], check=True)

    def command(self, *arguments: str) -> tuple[str, ...]:
        """Give the command that runs this nginx's program."""
        options = ("-e", f"{self.root}/log/error.log", "-p", str(self.root), "-c", f"{self.root}/etc/nginx.conf")
        return ("nginx", *options, *arguments)

    def check(self) -> str:
        """Give what `nginx -t` says; raise AssertionError if it is not content."""
        done = subprocess.run(self.command("-t"), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def errors(self) -> str:
        """Give the error log."""
        return (self.root / "log" / "error.log").read_text(errors="replace")

    def has_reloaded(self) -> bool:
        """Say whether it has done every reload it was told of, and the workers from before, which go on, have ended."""
        said = self.errors()
        return said.count("signal process started") == said.count(" exited with code 0")

    @contextmanager
    def running(self) -> Generator[None]:
        """Run it for the length of the block."""
        process = Process("nginx", self.command(), user=self.user)
        try:
            wait_until(lambda: is_listening(self.port), 10, process.output)
            yield
        finally:
            process.stop()


def contrib(name: str, changes: Mapping[str, str] = NO_FILES) -> str:
    """Give a file of contrib/nginx; each change is of something that must stand in it."""
    text = (CONTRIB / name).read_text()
    for old, new in changes.items():
        assert re.search(old, text), f"{old} is not in {name} any more"
        text = re.sub(old, new, text)
    return text
