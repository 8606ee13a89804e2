"""Opens a store by its URI; the only place that names the members of the family for the apps' side."""

from pathlib import Path

from appguard.errors import ConfigError
from appguard.stores.base import Store
from appguard.stores.local import RUNTIME_DIRECTORY, LocalStore
from appguard.stores.memory import MemoryStore


def default_uri() -> str:
    """Give `local://` where a daemon's directory is, else `memory://`."""
    return "local://" if RUNTIME_DIRECTORY.is_dir() else "memory://"


def open_store(uri: str = "") -> Store:
    """Give the store of a URI: `memory://`, `local://` or `local:///path/of/the/daemon`; raise `ConfigError`."""
    uri = uri or default_uri()
    scheme, _, rest = uri.partition("://")
    if scheme == "memory" and not rest:
        return MemoryStore()
    if scheme == "local" and (not rest or rest.startswith("/")):
        return LocalStore(Path(rest) if rest else RUNTIME_DIRECTORY)
    raise ConfigError(f"store = {uri!r}: expected 'memory://', 'local://' or 'local:///run/appguard'")
