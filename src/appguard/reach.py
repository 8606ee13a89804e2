"""Reach: whether the packets of a banned client pass this host's kernel under the client's own address.

They do not where another machine stands between, a load balancer or a CDN: its packets carry its own address, so only
who reads the forwarded address can refuse the client, which is the app and nginx. Which machines a client came through
is its ban's `via`. A hop is no other machine if it is an address of this host or of a container on it.
"""

from collections.abc import Iterable, Sequence

from appguard.address import covers, parse_network
from appguard.errors import AddressError
from appguard.host import HostFacts
from appguard.ports import is_web

_LOOPBACK = (parse_network("127.0.0.0/8"), parse_network("::1"))
MEMO_MOST = 1024


class Reach:
    """Knows which hops are this host."""

    def __init__(self, facts: HostFacts) -> None:
        self._here = (*_LOOPBACK, *facts.own, *facts.containers)
        self._memo: dict[str, bool] = {}

    def others(self, via: Iterable[str]) -> tuple[str, ...]:
        """Give the hops that are other machines; none if the kernel sees the client itself."""
        return tuple(hop for hop in via if self._is_other(hop))

    def _is_other(self, hop: str) -> bool:
        if hop not in self._memo:
            if len(self._memo) >= MEMO_MOST:
                self._memo.clear()
            self._memo[hop] = not self._holds(hop)
        return self._memo[hop]

    def _holds(self, hop: str) -> bool:
        try:
            network = parse_network(hop)
        except AddressError:
            return False
        return any(covers(here, network) for here in self._here)


def enforcers(others: Sequence[str], kinds: Iterable[str], ports: str = "") -> tuple[str, ...]:
    """Say who shuts a client out of some ports, given the machines between and the kinds of firewall there are.

    Apps do it for all that concerns the web, where they are told of the bans; what is named besides them does it for
    every service.
    """
    kernel, web = [] if others else ["kernel"], is_web(ports)
    able = {
        "nftables": kernel,
        "apart": kernel,
        "nginx_deny": ["nginx"] if web else [],
        "command": ["command"],
    }
    found = [name for kind in kinds for name in able.get(kind, [])]
    return (*found, "app") if web else tuple(found)
