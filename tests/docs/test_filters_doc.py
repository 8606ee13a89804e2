"""docs/filters.md: every filter is in it, and what it shows works as it says."""

import re
import tomllib
from pathlib import Path

from appguard.config_jails import read_jail
from appguard.filters.fields import FIELDS
from appguard.filters.open import FILTERS, open_filter
from appguard.filters.samples import read_samples
from appguard.filters.times import FORMS

TEXT = (Path(__file__).parents[2] / "docs/filters.md").read_text()


def blocks(language: str) -> list[str]:
    """Give the blocks of code in a language."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", TEXT)


def test_every_filter_is_in_the_table() -> None:
    """Who looks for a filter finds it, and none that is gone."""
    rows = set(re.findall(r"(?m)^\| `([^`]+)` \|", TEXT))
    assert rows - set(FILTERS) == {"json", "log_format:...", "/etc/appguard/filters/shop.toml"}
    assert set(FILTERS) <= rows


def test_every_field_and_form_of_time_is_named() -> None:
    """What a data file may hold is said."""
    assert all(f"`{field}`" in TEXT for field in FIELDS)
    assert all(form in TEXT for form in FORMS)


def test_every_filter_shown_opens() -> None:
    """Each `filter = ...` of a jail can be copied."""
    shown = [tomllib.loads(block) for block in blocks("toml")]
    settings = [each for each in shown if "filter" in each] + [
        each["jails"]["web"] for each in shown if "jails" in each
    ]
    assert len(settings) == 3
    for each in settings:
        config = read_jail("web", {"source": "/var/log/x", **each}, "[jails.web]")
        assert open_filter(config.filter).name


def test_the_data_file_shown_reads_the_samples_shown(tmp_path: Path) -> None:
    """The example of a user's own filter does what its sample lines say."""
    (tmp_path / "shop.toml").write_text(next(block for block in blocks("toml") if "[[line]]" in block))
    (tmp_path / "shop.txt").write_text(TEXT.partition("Prove it")[2].split("```")[1])
    read = read_samples(tmp_path / "shop.txt")
    assert (len(read.samples), read.wrong()) == (2, [])
