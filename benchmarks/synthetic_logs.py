"""Logs to measure detection with: nginx's combined log, sshd's, and AppGuard's own event lines, always the same.

`hostile` is the share of lines that a jail counts. Repeat offenders come from a few hundred addresses, fresh ones from
as many as there are lines.
"""

import base64
import hashlib
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

BEGIN = 1_795_000_000
AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 19_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    "curl/8.14.1",
    "okhttp/5.1.0",
    "-",
)
PAGES = (
    "/",
    "/cart",
    "/feed.xml",
    "/items/{}/reviews?page=2",
    "/static/bundle.{}.js",
    "/media/{}.avif",
    "/search?q=lamp+{}",
    "/api/orders/{}",
)
PROBES = ("/wp-login.php", "/.env", "/.git/HEAD", "/old/backup.zip", "/phpinfo.php", "/cgi-bin/test", "/api/{}/../x")
USERS = ("root", "admin", "backup", "oracle", "guest", "deploy", "www")
STAFF = ("ines", "jonas", "mira", "tarik")
Attacker = Callable[..., str]
KEYS = {user: base64.b64encode(hashlib.sha256(user.encode()).digest()).decode().rstrip("=") for user in STAFF}


def client(chance: random.Random) -> str:
    """Give an address that visitors have."""
    return f"198.{18 + chance.randrange(2)}.{chance.randrange(256)}.{1 + chance.randrange(254)}"


def offender(chance: random.Random, number: int, *, fresh: bool) -> str:
    """Give an address that attackers have: one of 400, or one for each line."""
    index = number if fresh else chance.randrange(400)
    return f"{100 + (index >> 16) % 27}.{(index >> 8) % 256}.{index % 256}.{7 + index % 200}"


def mixed_offender(chance: random.Random, number: int, *, fresh: bool) -> str:
    """Give an address of one of 200 with IPv4 or 200 with IPv6; every fourth is one's who walks through its /64."""
    if number % 4 == 0:
        return f"2001:db8:6:4::{chance.randrange(1, 1 << 16):x}:{chance.randrange(1, 1 << 16):x}"
    who = offender(chance, number, fresh=fresh)
    _, two, three, four = who.split(".")
    return who if int(three) % 2 else f"2001:db8:{two}:{three}::{four}"


def nginx_line(
    chance: random.Random, number: int, hostile: float, *, fresh: bool, attacker: Attacker = offender
) -> str:
    """Give one line of nginx's combined log; 500 are written a second."""
    stamp = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(BEGIN + number // 500))
    agent, size, item = chance.choice(AGENTS), chance.randrange(100, 60_000), chance.randrange(90_000)
    if chance.random() >= hostile:
        status, page = chance.choice((200, 200, 200, 200, 206, 301, 304)), chance.choice(PAGES).format(item)
        referrer = chance.choice(("-", f"https://shop.example/items/{item}"))
        return f'{client(chance)} - - [{stamp}] "GET {page} HTTP/1.1" {status} {size} "{referrer}" "{agent}"\n'
    who = attacker(chance, number, fresh=fresh)
    asked, status = chance.choice((("POST /login", 401), ("GET /admin", 403), ("GET " + chance.choice(PROBES), 404)))
    return f'{who} - - [{stamp}] "{asked.format(item)} HTTP/1.1" {status} 153 "-" "{agent}"\n'


def sshd_line(chance: random.Random, number: int, hostile: float, *, fresh: bool) -> str:
    """Give one line of sshd by syslog; 100 are written a second."""
    stamp = time.strftime("%b %e %H:%M:%S", time.gmtime(BEGIN + number // 100))
    head, port = f"{stamp} vm1 sshd[{2000 + number % 20_000}]: ", chance.randrange(1024, 65_535)
    if chance.random() >= hostile:
        user, who = chance.choice(STAFF), client(chance)
        return head + chance.choice(
            (
                f"Accepted publickey for {user} from {who} port {port} ssh2: ED25519 SHA256:{KEYS[user]}\n",
                f"pam_unix(sshd:session): session opened for user {user}(uid=1004) by (uid=0)\n",
                f"pam_unix(sshd:session): session closed for user {user}\n",
                f"Starting session: command for {user} from {who} port {port} id 0\n",
            )
        )
    user, who = chance.choice(USERS), offender(chance, number, fresh=fresh)
    return head + chance.choice(
        (
            f"Failed password for {user} from {who} port {port} ssh2\n",
            f"Failed password for invalid user {user} from {who} port {port} ssh2\n",
            f"Invalid user {user} from {who} port {port}\n",
        )
    )


def event_line(chance: random.Random, number: int, hostile: float, *, fresh: bool) -> str:
    """Give one event line as an app writes it, or a line of the app's own log beside it; 500 a second."""
    seconds = BEGIN + number // 500
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{number % 500 * 2000:06d}Z"
    agent = chance.choice(AGENTS)
    if chance.random() >= hostile:
        return (
            f'{{"time":"{stamp}","event":"authn_login_success","source_ip":"{client(chance)}","count":1,"app":"shop",'
            f'"user":"{chance.choice(STAFF)}","method":"POST","path":"/login","status":200,"user_agent":"{agent}"}}\n'
        )
    who = offender(chance, number, fresh=fresh)
    return (
        f'{{"time":"{stamp}","event":"authn_login_fail","source_ip":"{who}","count":1,"app":"shop",'
        f'"user":"{chance.choice(USERS)}","method":"POST","path":"/login","status":401,"user_agent":"{agent}"}}\n'
    )


Line = Callable[..., str]
KINDS: dict[str, Line] = {
    "nginx": nginx_line,
    "nginx half IPv6": partial(nginx_line, attacker=mixed_offender),
    "sshd": sshd_line,
    "events": event_line,
}


def lines(kind: str, count: int, hostile: float, *, fresh: bool = False) -> Iterator[str]:
    """Give the lines of a log, the same ones every time."""
    chance = random.Random(f"{kind} {hostile} {fresh}")
    make = KINDS[kind]
    return (make(chance, number, hostile, fresh=fresh) for number in range(count))


def write(path: Path, kind: str, count: int, hostile: float, *, fresh: bool = False) -> None:
    """Write a log."""
    with path.open("w") as file:
        file.writelines(lines(kind, count, hostile, fresh=fresh))
