"""What `regex --samples` says: whether filters make of sample lines what is expected."""

from pathlib import Path

from appguard.cli.client import CommandError, WrongInput, say
from appguard.cli.text import aligned
from appguard.errors import ConfigError
from appguard.filters.open import warnings_of
from appguard.filters.samples import read_samples

NAME_MOST = 40


def check_samples(directory: Path) -> None:
    """Check the sample lines of every file in a directory, and say which are not as expected; raise `CommandError`."""
    try:
        read = [read_samples(file) for file in sorted(directory.glob("*.txt"))]
    except ConfigError as error:
        raise WrongInput(str(error)) from error
    if not read:
        raise WrongInput(f"{directory}: no samples: expected files such as nginx.txt")
    wrong = {each.file: each.wrong() for each in read}
    rows = [("FILE", "FILTER", "LINES", "RIGHT", "WRONG")]
    for each in read:
        lines, missed = len(each.samples), len(wrong[each.file])
        rows.append((each.file.name, _short(each.filter.name), str(lines), str(lines - missed), str(missed)))
    say(*aligned(rows))
    for each in read:
        say(*(f"Note on {_short(each.filter.name)}: {warning}" for warning in warnings_of(each.filter)))
    problems = [problem for found in wrong.values() for problem in found]
    say(*problems)
    if problems:
        raise CommandError(f"{len(problems)} of {sum(len(each.samples) for each in read)} lines are not as expected")


def _short(name: str) -> str:
    return name if len(name) <= NAME_MOST else f"{name[: NAME_MOST - 3]}..."
