"""The verbs that are processes of their own: `daemon`, and `bouncer` where the daemon has no privilege."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import click

from appguard.cli.client import CONFIG_READ, CommandError, WrongInput, config_option
from appguard.errors import AppGuardError, ConfigError


@click.command()
@config_option(CONFIG_READ)
def daemon(config: Path | None) -> None:
    """Run the daemon in the foreground, until SIGTERM."""
    from appguard.daemon import main

    _run(lambda: main(config))


@click.command()
@config_option(CONFIG_READ)
@click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path, readable=False),
    help="The daemon's control socket; as the configuration says if not given.",
)
def bouncer(config: Path | None, socket_path: Path | None) -> None:
    """Run the bouncer apart from the daemon.

    In the foreground, until SIGTERM; it needs CAP_NET_ADMIN.
    """
    from appguard.bouncer_process import main

    _run(lambda: main(config, socket_path))


def _run(main: Callable[[], int]) -> NoReturn:
    try:
        code = main()
    except ConfigError as error:
        raise WrongInput(str(error)) from error
    except AppGuardError as error:
        raise CommandError(str(error)) from error
    sys.exit(code)
