"""The verb `explain`: what becomes of a line, or what is known of an address, and why it is not banned."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from appguard.cli.client import (
    NotReachable,
    Reply,
    WrongInput,
    ask,
    config_option,
    control_options,
    say,
    say_json,
    understanding,
)
from appguard.cli.explain_text import explanation_lines
from appguard.errors import AppGuardError
from appguard.explained import Explanation

LINES_MOST = 100

Explain = Callable[[str, str], Reply]


@click.command()
@click.argument("what", required=False, metavar="[LINE|ADDRESS]")
@click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Explain the lines of this file (- is standard input), by the jails that read it; with LINE, that line of it.",
)
@config_option("Explain by this configuration; ask no daemon.")
@control_options
def explain(what: str | None, file: Path | None, config: Path | None, socket_path: Path, as_json: bool) -> None:
    """Explain why a line or an address is not banned.

    Says what becomes of a log line, or what is known of an address. Counts nothing.
    """
    if what is None and file is None:
        raise click.UsageError("give a line, an address, or --file FILE")
    texts = [os.fsencode(what).decode(errors="replace")] if what is not None else _lines(file)
    origin = "" if file is None or str(file) == "-" else str(file.absolute())
    explained = _explained(texts, origin, config, socket_path)
    if as_json:
        return say_json(explained[0] if what is not None else {"explanations": explained})
    for number, reply in enumerate(explained):
        with understanding():
            lines = explanation_lines(Explanation.from_json(reply))
        say(*([""] if number else []), *lines)


def _explained(texts: Sequence[str], origin: str, config: Path | None, socket_path: Path) -> list[Reply]:
    if config is not None:
        by_settings = _by_settings(config)
        return [by_settings(text, origin) for text in texts]
    try:
        return [ask(socket_path, "POST", "/v1/explain", {"what": text, "origin": origin}) for text in texts]
    except NotReachable as error:
        return _without_daemon(texts, origin, error)


def _without_daemon(texts: Sequence[str], origin: str, unreached: NotReachable) -> list[Reply]:
    """Explain by the settings this host has; if there are none, it matters that no daemon answers."""
    from appguard.config import CONFIG_FILE

    if not CONFIG_FILE.exists():
        raise unreached
    by_settings = _by_settings(CONFIG_FILE)
    return [by_settings(text, origin) for text in texts]


def _by_settings(config: Path) -> Explain:
    import asyncio
    import time

    from msgspec import to_builtins

    from appguard.config import daemon_config
    from appguard.explain import from_settings

    try:
        explainer = from_settings(daemon_config(config))
    except AppGuardError as error:
        raise WrongInput(str(error)) from error

    def by_settings(text: str, origin: str) -> Reply:
        try:
            reply: Reply = to_builtins(asyncio.run(explainer.explain(text, origin, time.time())))
        except AppGuardError as error:
            raise WrongInput(str(error)) from error
        return reply

    return by_settings


def _lines(file: Path | None) -> list[str]:
    """Read the lines to explain; every other thing that could be meant by so many is `replay`."""
    from itertools import islice

    from appguard.sources.packed import read_lines

    try:
        lines = sys.stdin.buffer if file is None or str(file) == "-" else read_lines(file)
        found = [line.rstrip(b"\r\n").decode(errors="replace") for line in islice(lines, LINES_MOST + 1)]
    except AppGuardError as error:
        raise WrongInput(str(error)) from error
    if len(found) > LINES_MOST:
        raise WrongInput(f"more than {LINES_MOST} lines: give a few of them, or see what appguard replay {file} says")
    if not found:
        raise WrongInput("there is no line to explain")
    return found
