"""docs/tools.md names every option of the tools, and the filters that `--own-filters` replaces."""

from pathlib import Path

import click

from appguard.cli.import_fail2ban import import_fail2ban
from appguard.cli.regex import regex
from appguard.fail2ban_settings import OWN_FILTERS

TEXT = (Path(__file__).parents[2] / "docs/tools.md").read_text()
FOLDED = {"--print-no-missed", "--print-no-ignored", "--print-all-missed", "--print-all-ignored"}  # said in one word


def test_every_option_is_said() -> None:
    """Who reads the page knows all there is to ask for."""
    options = [each for verb in (regex, import_fail2ban) for each in verb.params if isinstance(each, click.Option)]
    unsaid = [
        each.opts for each in options if not any(name in TEXT for name in each.opts) and each.opts[0] not in FOLDED
    ]
    assert unsaid == []
    assert all(f"`{name}`" in TEXT for name in OWN_FILTERS)
