"""The verb `import-fail2ban`: fail2ban's jails as AppGuard's settings, and a report of what is not carried over."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from appguard.cli.client import CommandError, WrongInput, printable
from appguard.errors import ConfigError

if TYPE_CHECKING:
    from appguard.fail2ban_settings import Carried

HEAD = """\
The jails of {directory}, written by appguard import-fail2ban. Read it before you use it: below each jail
stands what could not be carried over. Stop fail2ban before the daemon begins, or both will ban.
"""


@click.command("import-fail2ban")
@click.argument(
    "directory", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path("/etc/fail2ban")
)
@click.option("--output", type=click.Path(path_type=Path), help="The file to write, which must not be there yet.")
@click.option("--own-filters", is_flag=True, help="Take AppGuard's own filters where one does the same.")
def import_fail2ban(directory: Path, output: Path | None, own_filters: bool) -> None:
    """Print fail2ban's enabled jails as settings of AppGuard.

    DIRECTORY is /etc/fail2ban if not given. What could not be carried over is said on standard error. Exits with 1 if a
    whole jail is left out.
    """
    from appguard.fail2ban_jails import read_jails
    from appguard.fail2ban_settings import carry_over

    try:
        jails = read_jails(directory.absolute())
    except ConfigError as error:
        raise WrongInput(str(error)) from error
    if not jails:
        raise CommandError(f"{directory}: no jail is enabled")
    carried = [carry_over(jail, directory.absolute(), own_filters=own_filters) for jail in jails]
    _write(settings_text(directory, carried), output)
    _report(carried)
    sys.exit(1 if any(each.failed for each in carried) else 0)


def settings_text(directory: Path, carried: "Sequence[Carried]") -> str:
    """Write all jails as one file of settings."""
    from appguard.toml_text import toml_comment, toml_table

    done = [each for each in carried if not each.failed]
    shared = {each.ignoreip for each in done}
    is_same = len(shared) == 1 and shared != {()}
    parts = [toml_comment(HEAD.format(directory=directory))]
    if is_same:
        parts.append(toml_table("", {"safelist": list(shared.pop())}))
    names: set[str] = set()
    parts += [_jail_text(each, names, with_ignoreip=not is_same) for each in carried]
    return "\n".join(parts)


def _jail_text(carried: "Carried", names: set[str], *, with_ignoreip: bool) -> str:
    from appguard.toml_text import toml_comment, toml_key, toml_table

    if not carried.failed and carried.name in names:
        carried.failed = f"another jail is named {carried.name} here"
    if carried.failed:
        return toml_comment(f"[{carried.jail.name}] is left out: {carried.failed}")
    names.add(carried.name)
    table = dict(carried.table)
    if with_ignoreip and carried.ignoreip:
        table["ignoreip"] = list(carried.ignoreip)
    remarks = "".join(toml_comment(f"{remark.option}: {remark.text}") for remark in carried.remarks)
    return toml_table(f"jails.{toml_key(carried.name)}", table) + remarks


def _write(text: str, output: Path | None) -> None:
    if output is None:
        print(text, end="", flush=True)
        return
    try:
        with output.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError as error:
        raise WrongInput(f"{output} is there already: it is not overwritten") from error
    except OSError as error:
        raise WrongInput(f"{output}: cannot be written: {error.strerror}") from error


def _report(carried: "Sequence[Carried]") -> None:
    lines = [f"Carried over: {', '.join(each.name for each in carried if not each.failed) or 'no jail'}"]
    lines += [f"Left out: [{each.jail.name}] {each.failed}" for each in carried if each.failed]
    lines += [str(remark) for each in carried if not each.failed for remark in each.remarks]
    for line in lines:
        print(printable(line), file=sys.stderr)
