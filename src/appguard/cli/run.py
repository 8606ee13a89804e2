"""The verb that is the daemon."""

import sys
from pathlib import Path

import click

from appguard.cli.client import CommandError, WrongInput
from appguard.errors import AppGuardError, ConfigError


@click.command()
@click.option("--config", type=click.Path(path_type=Path, readable=False), help="The configuration file to read.")
def daemon(config: Path | None) -> None:
    """Run the daemon in the foreground, until SIGTERM."""
    from appguard.daemon import main

    try:
        code = main(config)
    except ConfigError as error:
        raise WrongInput(str(error)) from error
    except AppGuardError as error:
        raise CommandError(str(error)) from error
    sys.exit(code)
