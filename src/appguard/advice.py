"""What to do when settings do not fit the place where an app runs: for each finding, the line to change.

Most are of clients that cannot be told apart; all are said once, at the first request that shows them.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from appguard.address import PRIVATE, NetworkSet, network_text
from appguard.config import AppConfig
from appguard.proxies import UNKNOWN_HEADER, UNKNOWN_HOP, UNKNOWN_PEER, UNKNOWN_PROXY, Client
from appguard.stores.base import Store

SILENT_PROXY = "silent"
NGINX_LINE = "`proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;`"
ADVICE = {
    UNKNOWN_PEER: (
        "the server gives no client address (peer %(evidence)r), so this app's clients cannot be told apart: if a "
        'proxy talks to it over a unix socket, add trusted_proxies=["unix:"]'
    ),
    UNKNOWN_PROXY: (
        "%(evidence)s sends forwarding headers but is not trusted, so this app's clients cannot be told apart: if it "
        'is your proxy, add trusted_proxies=["%(evidence)s"]'
    ),
    UNKNOWN_HOP: (
        "a trusted proxy forwards %(evidence)r, which is no address: let it send the client's address alone, in nginx "
        f"for example by {NGINX_LINE}"
    ),
    UNKNOWN_HEADER: (
        "%(evidence)s sends another forwarding header than %(header)s, so this app's clients cannot be told apart: "
        "add forwarding_header=%(other)r"
    ),
    SILENT_PROXY: (
        "the proxy at the unix socket sends no %(header)s header, so this app's clients cannot be told apart: let it "
        f"send one, in nginx for example by {NGINX_LINE}"
    ),
}
REWRITTEN = (
    "the server replaces the peer by a forwarded address before AppGuard sees it: trust proxies in one place, by "
    "`uvicorn --no-proxy-headers` or by dropping trusted_proxies"
)
PERMISSIVE = (
    "trusted_proxies holds %(network)s: whoever connects from there may write any address into %(header)s and is "
    'believed; list only your proxies, for example trusted_proxies=["127.0.0.1"]'
)
SEPARATE = (
    "this is one of %(workers)d workers, and store memory:// counts limits and bans in each of them apart: share them "
    'by store="local://" on this host or store="redis://..."'
)
ONE_CLIENT = (
    "all requests so far came from %(client)s, and it is over its limit: if that is your proxy, let it send the "
    f'client\'s address, in nginx for example by {NGINX_LINE}, and add trusted_proxies=["%(client)s"]'
)
TWICE = "AppGuard protects %(name)s twice, so that every request counts twice: remove one of the two from the app"
WIDE = {4: 8, 6: 16}  # prefix lengths that are no list of proxies any more, but much of the internet

_private = NetworkSet(PRIVATE)

Finding = tuple[str, str, dict[str, object]]  # what, message, its arguments


def findings(config: AppConfig, store: Store) -> Iterator[Finding]:
    """Give what can be seen at the first request."""
    for network in config.trusted_proxies.networks:
        if network.prefixlen < WIDE[network.version]:
            what = network_text(network)
            yield f"permissive {what}", PERMISSIVE, {"network": what, "header": config.forwarding_header}
    workers = workers_here() if store.name == "memory://" and (config.limits or config.jails) else 1
    if workers > 1:
        yield "separate", SEPARATE, {"workers": workers}


def is_private(client: Client) -> bool:
    """Say whether a client has an address that a proxy on this host or network would have."""
    return client.address is not None and client.address in _private


def workers_here() -> int:
    """Give how many processes of our parent run the same command as this one; 1 where that cannot be seen."""
    parent = os.getppid()
    try:
        mine = _command("self")
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text("ascii").split()
    except (OSError, ValueError):  # not Linux, or not ours to see
        return 1
    return max(1, sum(_command(child) == mine for child in children)) if parent > 1 and mine else 1


def _command(process: str) -> bytes:
    try:
        return re.sub(rb"[0-9]+", b"", Path(f"/proc/{process}/cmdline").read_bytes())
    except OSError:  # it has just ended
        return b""
