"""Where the store of a fleet is: the addresses of the hosts that its URI names, which no ban may cut off.

Names are looked up in a thread, again and again, since a resolver may take seconds. What it said last stays good while
it says nothing.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from appguard.address import Address, parse_address, parse_network
from appguard.errors import AddressError
from appguard.host import HostFacts, read_host_facts
from appguard.names import Addresses, system_addresses
from appguard.stores.open import REDIS
from appguard.stores.redis_uri import parse_redis_uri

AGAIN = 60.0  # seconds

log = logging.getLogger("appguard")


class StoreHosts:
    """The hosts of one store. `resolve` gives the addresses of a name and may take its time."""

    def __init__(
        self,
        uri: str,
        resolve: Callable[[str], Addresses] = system_addresses,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        hosts = parse_redis_uri(uri).hosts if uri.partition("://")[0] in REDIS else ()
        self._resolve = resolve
        self._clock = clock
        self._found = {host: _written(host) for host, _ in hosts}
        self._names = tuple(host for host, addresses in self._found.items() if not addresses)
        self._thread: threading.Thread | None = None
        self._ask_at = clock()

    def facts(self) -> HostFacts:
        """Give the facts about this host, with what is known of the store's hosts now."""
        if self._names and self._clock() >= self._ask_at and not (self._thread and self._thread.is_alive()):
            self._ask_at = self._clock() + AGAIN
            self._thread = threading.Thread(target=self._ask, name="store hosts", daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:  # no more threads
                log.warning("the addresses of the store's hosts are not looked up, which is tried again: %s", error)
        return replace(read_host_facts(), stores=_outside(self._found.values()))

    def _ask(self) -> None:
        for name in self._names:
            if addresses := self._resolve(name):
                self._found[name] = addresses


def _written(host: str) -> Addresses:
    try:
        return (parse_address(host),)
    except AddressError:  # a name
        return ()


def _outside(found: Iterable[Addresses]) -> tuple[Address, ...]:
    addresses = {each for addresses in found for each in addresses if not parse_network(each.text).is_loopback}
    return tuple(sorted(addresses, key=lambda one: (one.version, one.number)))
