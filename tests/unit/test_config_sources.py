"""What a jail may say of its sources, which source that means, and what is said of a mistake."""

from pathlib import Path

import pytest

from appguard.config import DaemonConfig, daemon_config
from appguard.errors import ConfigError
from appguard.members import sources_of

SSHD = "_SYSTEMD_UNIT=ssh.service"


def config_of(tmp_path: Path, *jails: str) -> DaemonConfig:
    """Read the settings of jails called a, b, ..."""
    settings = tmp_path / "appguard.toml"
    settings.write_text(
        "".join(f"[jails.{name}]\nfilter = 'nginx'\n{jail}\n" for name, jail in zip("abc", jails, strict=False))
    )
    return daemon_config(settings)


def names_of(config: DaemonConfig) -> list[list[str]]:
    """Give the names of each jail's sources."""
    return [list(sources_of(jail)) for jail in config.jails]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (f"'{SSHD}'", (SSHD,)),
        (f"'{SSHD} + _COMM=sshd'", (SSHD, "+", "_COMM=sshd")),
        (f"['{SSHD}', '+', '_COMM=sshd']", (SSHD, "+", "_COMM=sshd")),
        (f'"""\n{SSHD}\n_COMM=sshd PRIORITY=6\n"""', (SSHD, "+", "_COMM=sshd", "PRIORITY=6")),
        ("""'MESSAGE="two words"'""", ("MESSAGE=two words",)),
        ("['MESSAGE=two words']", ("MESSAGE=two words",)),
    ],
)
def test_journalmatch_is_a_text_or_a_list(tmp_path: Path, setting: str, expected: tuple[str, ...]) -> None:
    """fail2ban's spelling, with lines as alternatives, and a list mean what journalctl is given."""
    (jail,) = config_of(tmp_path, f"source = 'journal'\njournalmatch = {setting}").jails
    assert jail.journalmatch == expected
    (origin,) = sources_of(jail).values()
    assert (origin.kind, origin.arguments) == ("journal", expected)


def test_jails_that_name_the_same_share_a_source(tmp_path: Path) -> None:
    """The same matches, command or port are one source; other matches, or a filter of another kind of line, are not."""
    journal = f"source = 'journal'\njournalmatch = '{SSHD}'"
    first, second, other = names_of(config_of(tmp_path, journal, journal + "\nmaxretry = 2", "source = 'journal'"))
    assert first == second == [f"journal {SSHD} (messages)"] != other
    command = "source = ['command', '/var/log/x']\ncommand = ['podman', 'logs', 'a b']"
    first, second = names_of(config_of(tmp_path, command, command))
    assert first == second == ["command podman logs 'a b'", "/var/log/x"]
    port = "source = 'udp://0.0.0.0:5514'\npeers = ['192.0.2.7', '198.51.100.0/24']"
    turned = "source = 'udp://0.0.0.0:5514'\npeers = ['198.51.100.0/24', '192.0.2.7']"
    assert names_of(config_of(tmp_path, port, turned)) == [["udp://0.0.0.0:5514"]] * 2


def test_every_kind_of_source(tmp_path: Path) -> None:
    """A jail may have one of each kind; all files are one source."""
    setting = (
        "source = ['events', 'syslog', 'journal:/var/log/journal/remote', 'stdin', 'udp://[::1]:514', '/a', '~/*.log']"
        "\nusers = ['33']"
    )
    (jail,) = config_of(tmp_path, setting).jails
    kinds = {name: origin.kind for name, origin in sources_of(jail).items()}
    assert kinds == {
        "events": "events",
        "syslog": "syslog",
        "journal:/var/log/journal/remote (messages)": "journal",
        "stdin": "stdin",
        "udp://[::1]:514": "udp",
        "/a ~/*.log": "files",
    }


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            "source = 'syslogs'",
            'with its whole path, or "events", "syslog", "journal", "stdin", "command", "bans", "udp://',
        ),
        ("source = 'log/x'", "with its whole path"),
        ("source = 'udp://127.0.0.1'", "expected an address and a port, such as udp://127.0.0.1:5514"),
        ("source = 'udp://127.0.0.1:0'", "expected an address and a port"),
        ("source = 'udp://127.0.0.1:99999'", "expected an address and a port"),
        ("source = 'udp://localhost:514'", "expected an address and a port"),
        ("source = 'udp://[::1:514'", "expected an address and a port"),
        ("source = 'udp://127.0.0.1:514/x'", "expected an address and a port"),
        ("source = 'udp://0.0.0.0:514'", "peers is missing: say which hosts may send"),
        ("source = 'udp://0.0.0.0:514'\npeers = []", "peers is missing"),
        ("source = 'udp://192.0.2.1:514'\npeers = ['host']", "peers = ['host']: 'host' is not"),
        (
            "source = '/x'\npeers = ['192.0.2.7']",
            'peers is for source = "udp://ADDRESS:PORT", which this jail does not',
        ),
        (f"source = '/x'\njournalmatch = '{SSHD}'", 'journalmatch is for source = "journal"'),
        ("source = 'journal'\njournalmatch = ''", "leave it out to read the whole journal"),
        ("source = 'journal'\njournalmatch = 'sshd'", "'sshd': expected FIELD=value"),
        ("source = 'journal'\njournalmatch = ['--vacuum-size=1']", "expected FIELD=value"),
        ("source = 'journal'\njournalmatch = 'A=1 +'", '"+" (or) stands between two matches'),
        ("source = 'journal'\njournalmatch = 'A=1 + + B=1'", '"+" (or) stands between two matches'),
        ("source = 'journal'\njournalmatch = 'A=\"1'", "No closing quotation"),
        ("source = 'command'", "command is missing: say which one"),
        ("source = 'command'\ncommand = 'tail -f x'", "expected a list, a program and its arguments"),
        ("source = 'command'\ncommand = []", "expected a list, a program and its arguments"),
        ("source = 'stdin'\ncommand = ['x']", 'command is for source = "command"'),
    ],
)
def test_mistakes_are_named(tmp_path: Path, setting: str, said: str) -> None:
    """A mistake is said with the jail, the key, the value and what is accepted."""
    with pytest.raises(ConfigError) as error:
        config_of(tmp_path, setting)
    assert "[jails.a]" in str(error.value) and said in str(error.value)


def test_two_jails_on_a_port_admit_the_same_peers(tmp_path: Path) -> None:
    """One port cannot admit a host for one jail and not for another."""
    port = "source = 'udp://0.0.0.0:5514'\npeers = ['192.0.2.{}']"
    with pytest.raises(ConfigError, match=r"jails a and b give different peers for udp://0\.0\.0\.0:5514"):
        config_of(tmp_path, port.format(1), port.format(2))
