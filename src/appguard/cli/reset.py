"""The verb `reset`: makes the daemon forget all it keeps, while it does not run."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import click

from appguard.cli.client import CONFIG_READ, CommandError, WrongInput, config_option, say
from appguard.errors import ConfigError, StateError

KEPT = {
    "ban": "bans",
    "past": "earlier bans, by which later ones are longer",
    "lift": "lifts, by which no lifted ban comes back",
    "failure": "keys that jails count",
    "position": "logs with how far they were read: what they hold now is not counted again",
    "total": "jails with their totals",
    "setting": "settings: that enforcement is off, what was put on the safelist",
}


@click.command()
@config_option(CONFIG_READ)
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(config: Path | None, yes: bool) -> None:
    """Forget what the daemon keeps, while it does not run.

    That is bans, counted events, positions in logs.
    """
    from appguard.config import CONFIG_FILE, daemon_config
    from appguard.state import FILE_NAME, State

    try:
        settings = daemon_config(config or CONFIG_FILE)
        path = settings.state_directory / FILE_NAME
        if not path.exists():
            say(f"There is nothing to forget: {path} does not exist")
            return
        with closing(State(settings.state_directory)) as state:
            state.open()
            say(_question(path, state.counts(), settings.store))
            if not yes:
                click.confirm("Remove it?", abort=True)
            state.remove()
    except ConfigError as error:
        raise WrongInput(str(error)) from error
    except StateError as error:
        raise CommandError(str(error)) from error
    say("Removed. The next start begins anew")


def _question(path: Path, counts: Mapping[str, int], store: str) -> str:
    lines = [f"This removes {path} with", *(f"  {counts[table]:8} {what}" for table, what in KEPT.items())]
    lines.append(
        "Blocks in the firewall stay until they end, or until the daemon starts and sees that they are no bans."
    )
    if store != "local://":
        lines.append(
            "The fleet's bans and safelist are in Redis: they come back from there. Lift with `appguard unban`."
        )
    return "\n".join(lines)
