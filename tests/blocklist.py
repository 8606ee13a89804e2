"""An HTTP API with a list of networks to block, as a cloud's firewall has one."""

import json
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network

from appguard.address import network_text

TOKEN = "Bearer secret"


class Blocklist:
    """What the API holds. It forgets nothing by itself, as many do not."""

    def __init__(self) -> None:
        self.url = ""
        self.allow: list[str] = []
        self.ends: dict[str, float] | None = None
        self.requests: list[str] = []
        self.says = 0  # a status to answer everything with

    def held(self) -> set[str]:
        """Give the networks that are blocked."""
        return {network_text(ip_network(text)) for text in self.ends or {}}

    def let_in(self) -> set[str]:
        """Give the networks that are never blocked."""
        return {network_text(ip_network(text)) for text in self.allow}

    def take(self, method: str, authorization: str, body: bytes) -> int:
        """Do a request; give the status."""
        self.requests.append(method)
        if authorization != TOKEN:
            return 403
        if self.says:
            return self.says
        if method == "PUT":
            self.allow, self.ends = [], {}
        if self.ends is None:
            return 404
        if method == "DELETE":
            self.allow, self.ends = [], None
        if method in ("PUT", "PATCH"):
            self._change(json.loads(body))
        return 200

    def _change(self, asked: dict[str, list[str] | dict[str, int]]) -> None:
        assert self.ends is not None
        self.allow += asked["allow"]
        for text in asked["unban"]:
            self.ends.pop(text, None)
        bans = asked["ban"]
        assert isinstance(bans, dict)
        self.ends |= {text: time.time() + seconds for text, seconds in bans.items()}


@contextmanager
def blocklist() -> Generator[Blocklist]:
    """Serve such an API on loopback."""
    found = Blocklist()

    class Answer(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(found.take(self.command, self.headers.get("Authorization", ""), body))
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_PUT = do_PATCH = do_DELETE = _answer

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        found.url = f"http://127.0.0.1:{server.server_port}/blocklist"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
