"""The group of all verbs."""

import click

from appguard.cli.change import ban, confirm, enforce, unban
from appguard.cli.events import events
from appguard.cli.explain import explain
from appguard.cli.import_fail2ban import import_fail2ban
from appguard.cli.look import list_, status
from appguard.cli.regex import regex
from appguard.cli.replay import replay
from appguard.cli.reset import reset
from appguard.cli.run import bouncer, daemon
from appguard.cli.safelist import safelist


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="appguard-py")
def appguard() -> None:
    """See and change what AppGuard's daemon shuts out on this host."""


for verb in (
    daemon,
    bouncer,
    status,
    ban,
    confirm,
    unban,
    list_,
    enforce,
    safelist,
    events,
    regex,
    replay,
    explain,
    import_fail2ban,
    reset,
):
    appguard.add_command(verb)
