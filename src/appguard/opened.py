"""What one app has open: its store, its counters and its jails, and of them what every request asks.

Whatever is called at every request and is no method, but held by an attribute, is taken into a local name first: to
look up and to call are quick each for itself, while Python 3.11 does both at once the long way.
"""

from appguard.address import Grouping, NetworkSet
from appguard.app_jails import AppJails
from appguard.around import Around
from appguard.config import AppConfig
from appguard.errors import ConfigError
from appguard.event import PROBE
from appguard.jail import Jail
from appguard.stores.base import Asker, Asking, Counters, Store
from appguard.stores.open import default_uri, open_counters, open_store

TRAPS_JAIL = Jail("traps", maxretry=3, findtime="10m", bantime="1h", events=(PROBE,))
DAEMONS = "local://"  # the name of the store whose bans a daemon makes


class Opened:
    """A store, and counters, which may be the store's own.

    `ban_of`, `check`, `check_async` and `ask` are theirs, at hand: to find a method anew at each request takes as long
    as a look-up.
    """

    __slots__ = ("ask", "ban_of", "check", "check_async", "counters", "is_immediate", "jails", "store")

    def __init__(self, store: Store, counters: Counters, jails: AppJails) -> None:
        self.store = store
        self.counters = counters
        self.jails = jails
        self.ban_of = store.get
        self.check = counters.check
        self.check_async = counters.check_async
        self.ask = counters.ask if isinstance(counters, Asking) else _cannot_ask
        self.is_immediate = counters.is_immediate

    def close(self) -> None:
        """Close both; the next use opens them again."""
        self.store.close()
        self.counters.close()

    async def close_async(self) -> None:
        """Do what `close` does, and close what belongs to the running event loop."""
        await self.store.close_async()
        await self.counters.close_async()


def store_at(uri: str, config: AppConfig) -> Store:
    """Give the store of an app at a URI, which is checked; nothing is opened. Raise `ConfigError`."""
    return open_store(uri, app=config.name, on_store_error=config.on_store_error)


def open_for(config: AppConfig, around: Around, grouping: Grouping, safelist: NetworkSet) -> Opened:
    """Give what an app with these settings has open; the default store is chosen here. Raise `ConfigError`."""
    if around.open_store is not None:
        store = around.open_store()
    else:
        store = store_at(config.store or default_uri(), config)
        if config.jails and store.name == DAEMONS:
            raise ConfigError(
                f"jails: with store {store.name} the daemon bans: move them to [jails.NAME] of its appguard.toml"
            )
    counters: Counters = store
    if config.counters and around.open_store is None:
        counters = open_counters(config.counters, app=config.name, on_store_error=config.on_store_error)
    return Opened(store, counters, _jails(config, around, store, grouping, safelist))


def _jails(config: AppConfig, around: Around, store: Store, grouping: Grouping, safelist: NetworkSet) -> AppJails:
    jails = config.jails
    is_trapping = config.traps and store.name != DAEMONS
    if is_trapping and not any(PROBE in jail.events for jail in jails):
        jails = (*jails, TRAPS_JAIL)
    return AppJails(jails, grouping, safelist, around.wall)


def _cannot_ask(_asker: Asker) -> None:
    """Ask nothing: see `Asking`."""
