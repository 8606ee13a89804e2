"""The verb `regex`: what filters make of lines.

Exit codes: 0 if a line matched, 1 if none did or a sample is not as expected, 2 for wrong usage.
"""

import sys
from pathlib import Path

import click

from appguard.cli.client import WrongInput, config_option
from appguard.errors import AppGuardError


@click.command()
@click.argument("log", required=False)
@click.argument("filter_", metavar="[FILTER|REGEX]", required=False)
@click.argument("ignoreregex", required=False, default="")
@click.option(
    "--samples",
    "directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Check the sample lines of every FILTER.txt in this directory; FILTER.toml beside it is a filter of your own.",
)
@click.option("-d", "--datepattern", help="How dates are written in the log.")
@click.option("-L", "--maxlines", help="How many lines are searched as one text.")
@click.option("--usedns", help="What of clients that are host names: yes, warn, no or raw.")
@click.option(
    "-m", "--journalmatch", default="", help="What the journal is asked for; as the filter says if not given."
)
@click.option("-o", "--out", type=click.Choice(["ip", "id", "user", "row"]), help="Print only this of each failure.")
@click.option("--print-all-matched", "every", flag_value="matched", multiple=True, help="Print all lines that matched.")
@click.option("--print-all-missed", "every", flag_value="missed", multiple=True, help="Print all lines that did not.")
@click.option("--print-all-ignored", "every", flag_value="ignored", multiple=True, help="Print all lines let off.")
@click.option("--print-no-missed", "no", flag_value="missed", multiple=True, help="Print no lines that did not match.")
@click.option("--print-no-ignored", "no", flag_value="ignored", multiple=True, help="Print no lines let off.")
@click.option("-v", "--verbose", is_flag=True, help="Print all regexes, and whom each of them found.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@config_option(
    "The daemon's settings, for its safelist and proxies.  [default: /etc/appguard/appguard.toml if it is there]"
)
def regex(
    log: str | None,
    filter_: str | None,
    ignoreregex: str,
    directory: Path | None,
    datepattern: str | None,
    maxlines: str | None,
    usedns: str | None,
    journalmatch: str,
    out: str | None,
    every: tuple[str, ...],
    no: tuple[str, ...],
    verbose: bool,
    as_json: bool,
    config: Path | None,
) -> None:
    """Show what a filter makes of lines.

    LOG is a file, packed or not, "journal", or a line. FILTER is one of AppGuard's filters, one of fail2ban's
    ("sshd[mode=aggressive]", "fail2ban:sshd", a .conf file), a data file of your own (.toml), "log_format:...", else it
    is a regex.
    """
    if directory is not None:
        from appguard.cli.samples import check_samples

        check_samples(directory)
        return
    if log is None or filter_ is None:
        raise click.UsageError("give LOG and FILTER or REGEX, or --samples DIRECTORY")
    from appguard.cli.regex_run import Asked, run

    given = {"datepattern": datepattern, "maxlines": maxlines, "usedns": usedns}
    options: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    asked = Asked(
        log, filter_, ignoreregex, options, journalmatch, config, out or "",
        frozenset(every), frozenset(no), verbose, as_json,
    )  # fmt: skip
    try:
        code = run(asked)
    except AppGuardError as error:
        raise WrongInput(str(error)) from error
    sys.exit(code)
