"""What the tests of replay share: settings, logs of a time long past, and the replay of them."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from appguard.config import daemon_config
from appguard.host import HostFacts
from appguard.replay import Replay, Replayed, plan_of

BEGIN = 1_700_000_000.0
NOW = BEGIN + 30 * 86400
PATH = "/wp-login.php"


def nginx_line(address: str, at: float, path: str = PATH, status: int = 404, user: str = "-") -> bytes:
    """Write a line of nginx's access log, `at` seconds after the beginning."""
    stamp = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(BEGIN + at))
    return f'{address} - {user} [{stamp}] "GET {path} HTTP/1.1" {status} 153 "-" "curl/7.88.1"\n'.encode()


def settings(directory: Path, more: str = "", **probes: object) -> Path:
    """Write settings whose jail `probes` reads access.log of a directory; give their file."""
    chosen = {"events": ["guard_probe"], "maxretry": 3, "findtime": "10m", "bantime": "10m"} | probes
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in chosen.items())
    file = directory / "appguard.toml"
    file.write_text(f'{more}\n[jails.probes]\nsource = "{directory}/access.log"\nfilter = "nginx"\n{lines}\n')
    return file


def replayed(config: Path, files: Sequence[Path], since: float = 0.0, jails: Sequence[str] = ()) -> Replayed:
    """Replay files on a host without networks."""
    read = daemon_config(config)
    return Replay(read, plan_of(read, files, jails), HostFacts(), since=BEGIN + since, latest=NOW).run()


def told(found: Replayed) -> list[tuple[str, str, float, float | None]]:
    """Give who was banned by which jail from when to when, in seconds after the beginning."""
    return [(b.network, b.jail, b.start - BEGIN, None if b.end is None else b.end - BEGIN) for b in found.bans]


def write(file: Path, lines: Mapping[float, str]) -> Path:
    """Write a log: at which second which address probed."""
    file.write_bytes(b"".join(nginx_line(address, at) for at, address in lines.items()))
    return file
