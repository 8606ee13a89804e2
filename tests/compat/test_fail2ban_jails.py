"""The installed fail2ban's own jails, imported: every one loads, and means what fail2ban itself says it means."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from appguard.ban import parse_duration
from appguard.cli.import_fail2ban import settings_text
from appguard.config import daemon_config
from appguard.config_jails import JailConfig
from appguard.fail2ban_jails import read_jails
from appguard.fail2ban_settings import carry_over
from appguard.filters.open import open_filter
from appguard.filters.regex import RegexFilter

INSTALLED = Path("/etc/fail2ban")
LETS_IN = {"pass2allow-ftp"}  # its "bans" open a port
JAILS_LEAST = 80


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Give a copy of the installed configuration in which no jail is enabled."""
    copy = tmp_path / "fail2ban"
    shutil.copytree(INSTALLED, copy)
    for file in (*copy.glob("jail.d/*"), *copy.glob("jail.local")):
        file.unlink()
    return copy


def names_of(directory: Path) -> list[str]:
    """Give the names of all jails."""
    found = re.findall(r"(?m)^\[([^\]]+)\]", (directory / "jail.conf").read_text())
    return [name for name in found if name not in ("INCLUDES", "DEFAULT")]


def enabled(names: list[str]) -> str:
    """Write a jail.local that enables jails."""
    return "".join(f"[{name}]\nenabled = true\n" for name in names)


def test_every_jail_loads_by_itself(directory: Path, tmp_path: Path) -> None:
    """Whichever one of them is enabled, what is written is a file of settings that the daemon takes."""
    names = names_of(directory)
    assert len(names) >= JAILS_LEAST
    for name in names:
        (directory / "jail.local").write_text(enabled([name]))
        carried = [carry_over(jail, directory) for jail in read_jails(directory)]
        assert [(each.name, bool(each.failed)) for each in carried] == [(name, name in LETS_IN)]
        file = tmp_path / "appguard.toml"
        file.write_text(settings_text(directory, carried))
        assert [each.jail.name for each in daemon_config(file).jails] == ([] if name in LETS_IN else [name])


def dump(directory: Path) -> dict[str, dict[str, object]]:
    """Give the settings of all jails as fail2ban itself would send them to its server."""
    command = ["fail2ban-client", "-c", str(directory), "-d"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    jails: dict[str, dict[str, object]] = {}
    for line in done.stdout.splitlines():
        words: list[object] = ast.literal_eval(line)
        if words[0] in ("set", "multi-set") and len(words) > 3:
            option = str(words[2])
            value = words[3] if words[0] == "multi-set" or option.startswith("bantime") else words[3:]
            jails.setdefault(str(words[1]), {})[option] = value
    return jails


def meant(config: JailConfig) -> Mapping[str, object]:
    """Give what an imported jail means, in fail2ban's words."""
    made = open_filter(config.filter, config.filter_options)
    assert isinstance(made, RegexFilter)
    return {
        "maxretry": [config.jail.maxretry],
        "findtime": config.jail.findtime,
        "bantime": config.jail.bantime,
        "addfailregex": list(made.options.failregex),
        "addignoreregex": list(made.options.ignoreregex),
        "datepattern": "\n".join(made.options.datepattern),
    }


def expected(told: Mapping[str, object]) -> Mapping[str, object]:
    """Give the same of what fail2ban says."""
    return {
        "maxretry": told["maxretry"],
        "findtime": parse_duration(_first(told["findtime"])),
        "bantime": parse_duration(_first(told["bantime"])),
        "addfailregex": told["addfailregex"],
        "addignoreregex": told.get("addignoreregex", []),
        "datepattern": _first(told.get("datepattern", "")),
    }


def _first(value: object) -> object:
    return cast("list[object]", value)[0] if isinstance(value, list) else value


def test_all_jails_mean_what_fail2ban_says(directory: Path, tmp_path: Path) -> None:
    """maxretry, findtime, bantime, every regex and the datepattern of each jail are those of fail2ban's own dump."""
    names = [name for name in names_of(directory) if name not in LETS_IN]
    (directory / "jail.local").write_text(enabled(names))
    output = tmp_path / "appguard.toml"
    command = [sys.executable, "-m", "appguard", "import-fail2ban", str(directory), "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = dump(directory)
    configs = {each.jail.name: each for each in daemon_config(output).jails}
    assert list(configs) == names
    compared = {name: (meant(configs[name]), expected(told[name])) for name in names if name in told}
    assert len(compared) >= JAILS_LEAST
    assert [name for name, (ours, theirs) in compared.items() if ours != theirs] == []
