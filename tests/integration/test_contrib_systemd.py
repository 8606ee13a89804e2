"""The systemd units: verified by systemd, run under what they allow, and what daemon and bouncer tell systemd."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from appguard.bouncer_process import READY_MOST
from appguard.config import APP_CHECKS, FILE_CHECKS, TABLE_CHECKS, daemon_config
from appguard.config_jails import JAIL_CHECKS
from appguard.notify import notify
from tests.daemon import Place, in_kernel, running_daemon, web_jail
from tests.lab import Process, User, running, wait_until
from tests.netns import has_table, run
from tests.sandbox import settings

CONTRIB = Path(__file__).parents[2] / "contrib" / "systemd"
UNITS = ("appguard.service", "appguard-bouncer.service")
COMMAND = "/opt/appguard/bin/appguard"
OURS = Path(sys.executable).with_name("appguard")
DAEMON = User(4711)
BOUNCER = User(4712, groups=(4711,), capabilities=("net_admin",))
APART = '[firewall]\nkind = "apart"\n'
PERIOD = 0.3  # seconds of the watchdog
REFUSED = {"bantime_formula"}  # is known, so that the refusal can say what to write instead
FUNCTIONS = {"on_auth_failure", "on_ban", "on_limit", "response"}  # an app gives them in its code
STUCK = """
import sys, time
from pathlib import Path
from appguard import daemon
from appguard.filters import open as filters
class Stuck:
    name, needs = "stuck", ()
    def __init__(self, *_):
        pass
    def match(self, line, time_of_line):
        time.sleep(1000)
filters.FILTERS["stuck"] = Stuck
sys.exit(daemon.main(Path(sys.argv[1])))
"""


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """Give the units, with the command where it is here."""
    for name in UNITS:
        text = (CONTRIB / name).read_text()
        assert f"ExecStart={COMMAND} " in text
        (tmp_path / name).write_text(text.replace(f"ExecStart={COMMAND}", f"ExecStart={OURS}"))
    return [str(tmp_path / name) for name in UNITS]


@pytest.fixture
def place(open_tmp_path: Path) -> Iterator[Place]:
    """Give the directories of a daemon without privilege, and take the bouncer's table away afterwards."""
    place = Place(open_tmp_path, DAEMON)
    place.configure(web_jail(place), APART)
    yield place
    if has_table():
        run("nft", "delete", "table", "inet", "appguard")


class ServiceManager:
    """The end of sd_notify that systemd has."""

    def __init__(self, path: Path) -> None:
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(int(PERIOD * 1_000_000))}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        path.chmod(0o666)

    def hears(self, word: str, within: float = 10.0) -> None:
        """Wait for a word; raise AssertionError if it does not come."""
        wait_until(lambda: self.next(within) == word, within, f"{word} is not said")

    def next(self, within: float) -> str:
        """Give the next word; raise TimeoutError if there is none."""
        self.socket.settimeout(within)
        return self.socket.recv(1000).decode()

    def forget(self) -> None:
        """Take what was said so far."""
        self.socket.setblocking(False)
        with suppress(BlockingIOError):
            while self.socket.recv(1000):
                pass


@contextmanager
def service_manager(path: Path) -> Generator[ServiceManager]:
    """Listen at a path for the length of the block."""
    manager = ServiceManager(path)
    with manager.socket:
        yield manager


def start(manager: ServiceManager, verb: str, place: Place, user: User, unit: str = "") -> Process:
    """Start one of the two under its service manager and, if named, under what its unit allows."""
    sandbox = [sys.executable, "-m", "tests.sandbox", str(CONTRIB / unit)] if unit else []
    command = [*sandbox, sys.executable, "-m", "appguard", verb, "--config", str(place.config)]
    return Process(verb, command, user=user, environment=manager.environment)


def test_systemd_finds_nothing_wrong(units: list[str]) -> None:
    """`systemd-analyze verify` accepts both units, and each alone, without a word."""
    for chosen in (units, units[:1]):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *chosen], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


PROBE = """
[Unit]
DefaultDependencies=no
Requires={first} {then}
After={then}
Before={first}

[Service]
ExecStart=/bin/true
"""


def is_before(first: str, then: str, units: list[str], probe: Path) -> bool:
    """Say whether systemd starts one unit before the other.

    If so, a third one after the latter and before the former is a cycle, which it finds when it is to start all.
    """
    probe.write_text(PROBE.format(first=first, then=then))
    command = ["systemd-analyze", "verify", "--man=no", str(probe), *units]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is ("ordering cycle" not in done.stderr), done.stderr
    return done.returncode != 0


def test_bans_are_back_before_there_is_a_network(units: list[str], tmp_path: Path) -> None:
    """At boot the bouncer, which is ready when the kernel has the bans, comes before network-pre.target.

    It brings the daemon along, and neither waits for the other to be ready: the daemon tells it of the bans before.
    """
    probe, (daemon, bouncer) = tmp_path / "probe.service", UNITS
    assert is_before(bouncer, "network-pre.target", units, probe)
    assert not is_before("network-pre.target", bouncer, units, probe)
    for first, then in ((daemon, bouncer), (bouncer, daemon), ("network-pre.target", daemon)):
        assert not is_before(first, then, units, probe), f"{first} is before {then}"
    assert {daemon, "network-pre.target"} <= set(settings(Path(units[1]))["Wants"][0].split())


@pytest.mark.parametrize("number", [0, 1])
def test_exposure_is_at_most_two(units: list[str], number: int) -> None:
    """`systemd-analyze security` gives an exposure of at most 2.0, and would say so if it were more."""
    command = ["systemd-analyze", "security", "--no-pager", "--offline=true", units[number]]
    done = subprocess.run([*command, "--threshold=20"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    overall = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert overall is not None
    assert float(overall[1]) <= 2.0
    assert subprocess.run([*command, "--threshold=1"], capture_output=True, check=False).returncode != 0


def test_the_units_fit_the_program(units: list[str]) -> None:
    """The verbs exist; the daemon has no capability, the bouncer one; both are ready when they say so."""
    for unit, capabilities in zip(units, ("", "CAP_NET_ADMIN"), strict=True):
        found = settings(Path(unit))
        program, verb = found["ExecStart"][0].split()
        assert subprocess.run([program, verb, "--help"], capture_output=True, check=False).returncode == 0
        assert found["CapabilityBoundingSet"] == [capabilities]
        assert found.get("AmbientCapabilities", [""]) == [capabilities]
        assert (found["Type"], found["NoNewPrivileges"]) == (["notify"], ["yes"])
        assert float(found["WatchdogSec"][0]) >= 10
    daemon = settings(Path(units[0]))
    config = daemon_config(CONTRIB / "appguard.toml")
    made = {Path("/run") / name for name in daemon["RuntimeDirectory"][0].split()}
    assert made == {config.runtime_directory, config.control_socket.parent}
    assert Path("/var/lib") / daemon["StateDirectory"][0] == config.state_directory
    assert daemon["RuntimeDirectoryPreserve"] == ["yes"]


def test_users_and_groups_are_made(tmp_path: Path, units: list[str]) -> None:
    """`systemd-sysusers` makes the users and groups of the units; the bouncer may ask the daemon, nobody may log in."""
    (tmp_path / "etc").mkdir()
    subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", str(CONTRIB / "appguard.sysusers")], check=True, capture_output=True
    )
    users = dict(line.split(":", 1) for line in (tmp_path / "etc/passwd").read_text().splitlines())
    groups = dict(line.split(":", 1) for line in (tmp_path / "etc/group").read_text().splitlines())
    assert set(users) == {settings(Path(unit))["User"][0] for unit in units}
    assert all(user.endswith("nologin") for user in users.values())
    assert set(groups) == {"appguard", "appguard-bouncer", "appguard-admin"}
    assert groups["appguard"].endswith(":appguard-bouncer")
    assert settings(Path(units[1]))["SupplementaryGroups"] == ["appguard"]


def test_the_configuration_is_accepted_as_it_is_and_with_everything_set(tmp_path: Path) -> None:
    """The commented appguard.toml loads, also with every setting it comments out, and leaves none out."""
    shipped = (CONTRIB / "appguard.toml").read_text()
    config = daemon_config(CONTRIB / "appguard.toml")
    assert config.firewall == {"kind": ("apart",)}
    assert [each.jail.name for each in config.jails] == ["login"]
    everything = re.sub(r"(?m)^#(?=[^ \n])", "", shipped)
    (tmp_path / "appguard.toml").write_text(everything)
    whole = daemon_config(tmp_path / "appguard.toml")
    names = ["login", "probe", "probing", "passwords", "gate", "shop", "container", "remote"]
    assert [each.jail.name for each in whole.jails] == names
    keys = set(re.findall(r"(?m)^(\w+) =", everything))
    tables = {name.partition(".")[0] for name in re.findall(r"(?m)^\[([\w.]+)\]", everything)}
    known = {*JAIL_CHECKS, *APP_CHECKS, *(key for checks in TABLE_CHECKS.values() for key in checks)}
    assert keys | tables == (known | set(FILE_CHECKS)) - REFUSED - FUNCTIONS


@pytest.mark.lab
def test_ready_alive_stopping(place: Place) -> None:
    """The daemon says when it is ready, shows signs of life faster than its watchdog asks, and says that it stops."""
    with service_manager(place.runtime.parent / "notify") as manager:
        with running(start(manager, "daemon", place, DAEMON)) as daemon:
            manager.hears("READY=1")
            wait_until(lambda: place.run("status").returncode == 0, 10, daemon.output)
            manager.forget()
            for _ in range(6):
                assert manager.next(10 * PERIOD) == "WATCHDOG=1"
        manager.hears("STOPPING=1")
        assert "cannot be told STOPPING" not in daemon.output()


@pytest.mark.lab
def test_a_stuck_daemon_shows_no_sign_of_life(place: Place) -> None:
    """When a filter never comes back from a line, the signs of life stop, so that systemd kills the daemon."""
    place.configure(web_jail(place).replace('filter = "nginx"', 'filter = "stuck"'), APART)
    with service_manager(place.runtime.parent / "notify") as manager:
        command = [sys.executable, "-c", STUCK, str(place.config)]
        with running(Process("daemon", command, user=DAEMON, environment=manager.environment)) as daemon:
            manager.hears("READY=1")
            manager.hears("WATCHDOG=1")
            place.append("203.0.113.5")
            silence = 5 * PERIOD
            with pytest.raises(TimeoutError):
                for _ in range(100):
                    manager.next(silence)
            assert daemon.status is None


@pytest.mark.lab
def test_the_bouncer_is_ready_when_the_kernel_has_the_bans(place: Place) -> None:
    """When the bouncer says it is ready, the bans are in the kernel; for a daemon that is not started it waits less.

    systemd has not begun to start it where there is no directory for its socket.
    """
    with running_daemon(place), service_manager(place.runtime.parent / "notify") as manager:
        assert place.run("ban", "203.0.113.5").returncode == 0
        with running(start(manager, "bouncer", place, BOUNCER)):
            manager.hears("READY=1")
            assert "203.0.113.5" in in_kernel()
            manager.hears("WATCHDOG=1")
        manager.hears("STOPPING=1")
    shutil.rmtree(place.control.parent)
    with (
        service_manager(place.runtime.parent / "again") as manager,
        running(start(manager, "bouncer", place, BOUNCER)) as bouncer,
    ):
        manager.hears("READY=1", READY_MOST - 1)
        bouncer.wait_for("the host goes on without")


@pytest.mark.lab
def test_both_work_under_what_their_units_allow(place: Place) -> None:
    """With the units' system calls, address families, memory protection and umask, a line becomes a kernel ban."""
    with service_manager(place.runtime.parent / "notify") as manager:
        del manager.environment["WATCHDOG_USEC"]  # nobody would read the signs of life
        with (
            running(start(manager, "daemon", place, DAEMON, UNITS[0])) as daemon,
            running(start(manager, "bouncer", place, BOUNCER, UNITS[1])) as bouncer,
        ):
            bouncer.wait_for("AppGuard bouncer is up")
            place.append("203.0.113.5", 3)
            wait_until(lambda: "203.0.113.5" in in_kernel(), 5, lambda: daemon.output() + bouncer.output())
            assert (place.runtime / "bans").stat().st_mode & 0o777 == 0o644
            assert place.run("enforce", "off").returncode == 0
            assert not has_table()
        for process in (daemon, bouncer):
            assert process.status == 0
            assert not re.search("Traceback|not permitted|denied|not supported", process.output()), process.output()


@pytest.mark.parametrize(
    ("unit", "code", "error"),
    [
        (UNITS[1], "import socket; socket.socket(socket.AF_INET)", "Address family not supported"),
        (UNITS[0], "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", "Address family not supported"),
        (UNITS[0], "import os; os.sethostname if 0 else os.chroot('/')", "Operation not permitted"),
        (UNITS[1], "import os; os.chown('.', -1, -1)", "Operation not permitted"),
        (UNITS[1], "import mmap; mmap.mmap(-1, 4096, prot=7)", "Permission denied"),
    ],
)
def test_the_sandbox_of_these_tests_forbids(unit: str, code: str, error: str) -> None:
    """What a unit does not allow fails in the sandbox, so what works there proves something."""
    command = [sys.executable, "-m", "tests.sandbox", str(CONTRIB / unit), sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert error in done.stderr


def test_an_abstract_socket_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service manager whose socket has no file (as in containers) is told too; without one nothing happens."""
    name = f"appguard-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify("READY=1")
        assert listener.recv(100) == b"READY=1"
        monkeypatch.delenv("NOTIFY_SOCKET")
        notify("READY=1")
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.recv(100)
