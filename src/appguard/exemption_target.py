"""What `ignorecommand` may name: a Python function `package.module:function`, or the URL of a check."""

import re
from urllib.parse import urlsplit

from appguard.errors import ConfigError

ADDRESS_IN_URL = "{address}"
_FUNCTION = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def is_url(target: str) -> bool:
    """Say whether a target is a URL rather than a function."""
    return target.startswith(("http://", "https://"))


def check_target(target: str, what: str) -> None:
    """Raise `ConfigError` if this names neither a function nor a check."""
    if _FUNCTION.fullmatch(target):
        return
    try:
        host = urlsplit(target).hostname if is_url(target) else ""
    except ValueError:
        host = ""
    if not host or ADDRESS_IN_URL not in target.partition(host)[2]:
        raise ConfigError(
            f"{what} = {target!r}: expected a function such as 'shop.bans:is_customer' or a URL with"
            f" {ADDRESS_IN_URL} in it; a command is not run (fail2ban's is to become a function)"
        )
