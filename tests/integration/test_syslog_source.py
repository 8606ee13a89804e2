"""The syslog socket: which messages it delivers, and nginx's JSON log through it into a daemon that bans."""

import asyncio
import socket
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from subprocess import run

import pytest

from appguard.config import daemon_config
from appguard.errors import ConfigError
from appguard.sources.base import Chunk
from appguard.sources.syslog import SyslogSocket
from tests.daemon import Place
from tests.lab import Process, User, free_port, wait_until
from tests.nginx import Nginx, contrib

LINE = b'{"time":1.000,"client":"203.0.113.5"'


@pytest.mark.parametrize(
    "message",
    [
        b"<190>Nov 20 08:31:47 appguard: " + LINE,
        b"<190>Nov  2 08:31:47 appguard: " + LINE + b"\n",
        b"<14>Nov 20 08:31:47 host.example nginx[42]: " + LINE,
        b"<14>Nov 20 08:31:47 2001:db8::1 my-app: " + LINE,
    ],
)
def test_a_message_is_delivered_without_its_header(tmp_path: Path, message: bytes) -> None:
    """The line behind the header is delivered, with and without a host name and a process id."""
    assert delivered(tmp_path, message) == [LINE]


@pytest.mark.parametrize(
    "message",
    [
        LINE,
        b"",
        b"<190>" + LINE,
        b"<190>Nov 20 08:31:47 " + LINE,
        b"Nov 20 08:31:47 appguard: " + LINE,
        b"x<190>Nov 20 08:31:47 appguard: " + LINE,
    ],
)
def test_what_is_no_message_is_not_delivered(tmp_path: Path, message: bytes) -> None:
    """A datagram without a whole header is counted as odd and not read."""
    assert delivered(tmp_path, message) == []


def delivered(tmp_path: Path, message: bytes) -> list[bytes]:
    """Give the lines that come of a datagram; a good one behind it shows that it was read."""
    path = tmp_path / "log.sock"
    lines: list[bytes] = []
    last = b"the last"

    async def read() -> None:
        ended = asyncio.Event()

        def deliver(chunk: Chunk) -> None:
            lines.extend(chunk.lines)
            if lines[-1] == last:
                ended.set()

        source = SyslogSocket("syslog", path)
        source.open()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(message, str(path))
            sender.sendto(b"<190>Nov 20 08:31:47 appguard: " + last, str(path))
        task = asyncio.ensure_future(source.run(deliver))
        await asyncio.wait_for(ended.wait(), 5)
        task.cancel()
        await asyncio.wait([task])
        assert ("odd" if source.status().complaint else "") == ("" if lines[:-1] else "odd")

    asyncio.run(read())
    assert lines[-1] == last
    return lines[:-1]


SITE = """
server {{
    listen 127.0.0.1:{port};
    set_real_ip_from 127.0.0.1;
    real_ip_header X-Forwarded-For;
    include snippets/syslog.conf;
    location / {{ return 404; }}
}}
"""
SEND = """
import socket, sys
sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
for line in open(sys.argv[2], "rb").read().splitlines():
    sender.sendto(b"<190>Nov 20 08:31:47 appguard: " + line, sys.argv[1])
"""


class Probed:
    """An nginx that logs to the socket of a daemon beside it."""

    def __init__(self, root: Path) -> None:
        self.place = Place(root)
        self.socket = self.place.runtime / "log.sock"
        self.place.configure(
            '[jails.web]\nsource = "syslog"\nfilter = "nginx-json"\nusers = ["www-data"]\nmaxretry = 3\n'
            'bantime = "1h"\nevents = ["guard_probe"]\n',
            '[firewall]\nkind = "dry_run"\n',
        )
        port = free_port()
        snippet = contrib("appguard-syslog.conf", {"/run/appguard/log.sock": str(self.socket)})
        log = contrib("appguard-log.conf")
        files = {"conf.d/log.conf": log, "snippets/syslog.conf": snippet}
        self.nginx = Nginx(root / "nginx", port, files | {"sites-enabled/site.conf": SITE.format(port=port)})

    def start_daemon(self) -> Process:
        """Start the daemon and wait until it listens."""
        daemon = self.place.start()
        wait_until(self.socket.exists, 10, daemon.output)
        return daemon

    def probe(self, client: str) -> None:
        """Ask for what is not there: once more than a ban takes, as nginx may lose a line when the daemon restarts."""
        for _ in range(4):
            connection = HTTPConnection("127.0.0.1", self.nginx.port, timeout=5)
            connection.request("GET", "/wp-login.php", headers={"X-Forwarded-For": client})
            assert connection.getresponse().status == 404
            connection.close()


def test_a_jail_must_say_whose_messages_count(tmp_path: Path) -> None:
    """Without `users` anybody on the host could have anybody banned, so the settings are refused."""
    settings = tmp_path / "appguard.toml"
    settings.write_text('[jails.web]\nsource = "syslog"\nfilter = "nginx-json"\n')
    with pytest.raises(ConfigError, match="users is missing"):
        daemon_config(settings)


@pytest.mark.lab
def test_nginx_logs_over_the_socket_and_clients_are_banned(open_tmp_path: Path) -> None:
    """nginx serves without a daemon, its messages ban once there is one, and again after the daemon was restarted."""
    probed = Probed(open_tmp_path)
    assert "[warn]" not in probed.nginx.check()
    with probed.nginx.running():
        probed.probe("203.0.113.4")
        for client in ("203.0.113.5", "203.0.113.6"):
            daemon = probed.start_daemon()
            try:
                probed.probe(client)
                daemon.wait_for(f"[web] Ban {client}")
            finally:
                daemon.stop()
            assert "Ban 203.0.113.4" not in daemon.output()


@pytest.mark.lab
def test_messages_of_another_user_do_not_count(open_tmp_path: Path) -> None:
    """Who is not among the users of the jail bans nobody, whatever is sent."""
    probed = Probed(open_tmp_path)
    forged = open_tmp_path / "forged"
    line = b'{"time":%d.000,"client":"203.0.113.7","peer":"","status":"404","limit_req":"","auth":"","request_id":"",'
    daemon = probed.start_daemon()
    try:
        forged.write_bytes((line % time.time() + b'"method":"GET","uri":"/"\n') * 3)
        command = [sys.executable, "-c", SEND, str(probed.socket), str(forged)]
        run([*User(65534).prefix(), *command], check=True)
        daemon.wait_for("user 65534 reports events, but is in the users of no jail")
        run([*User(33).prefix(), *command], check=True)
        daemon.wait_for("[web] Ban 203.0.113.7")
        assert daemon.output().count("[web] Found 203.0.113.7") == 3
    finally:
        daemon.stop()
