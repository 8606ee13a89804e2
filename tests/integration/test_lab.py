"""The lab itself: private, complete, open to other users, and gone with its command."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.internet import SERVER4, SERVER6, Internet, Place
from tests.lab import Process, User, has_user, processes, running, wait_until

pytestmark = pytest.mark.lab

CHECKOUT = Path(__file__).parents[2]
ENTER = CHECKOUT / "scripts/enter_lab.py"
STRANGER = 61234
INTERRUPTED = """
import time
try:
    print("up", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    raise SystemExit(5)
"""


def lab(*command: str | Path) -> list[str | Path]:
    """Give the command that runs a command in a lab of its own."""
    return [sys.executable, "-P", ENTER, *command]


def run_in_lab(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a lab of its own to its end."""
    return subprocess.run(lab(*command), capture_output=True, text=True, timeout=60, check=False)


def test_the_status_of_the_command_is_the_status_of_the_lab() -> None:
    """A failed test run must fail scripts/test, and a killed one too."""
    assert run_in_lab("bash", "-c", "exit 7").returncode == 7
    assert run_in_lab("bash", "-c", "kill -9 $$").returncode == 128 + 9


def test_a_command_that_is_not_there_is_named() -> None:
    """A typing error gives one clear line, not a traceback."""
    done = run_in_lab("no-such-command")
    assert done.returncode == 1
    assert done.stderr == "scripts/lab: cannot run 'no-such-command': No such file or directory\n"


def test_only_a_loopback_with_both_versions_of_ip_is_there() -> None:
    """Nothing in the lab can reach a real network, and IPv6 works."""
    code = (
        "import socket; print([name for _, name in socket.if_nameindex()]);"
        "socket.create_server(('::1', 80), family=socket.AF_INET6); socket.create_server(('127.0.0.1', 80))"
    )
    done = run_in_lab(sys.executable, "-c", code)
    assert (done.stdout, done.returncode) == ("['lo']\n", 0), done.stderr


def test_tables_addresses_mounts_and_processes_stay_inside() -> None:
    """What a lab does to nftables, addresses and /run cannot be seen outside of it, nor outside's processes inside."""
    before = (nft_tables(), addresses(), sorted(Path("/run").iterdir()))
    script = (
        "nft add table inet lab_leak && ip address add 203.0.113.99/32 dev lo && touch /run/leak"
        " && nft list tables && ls /proc | grep -c '^[0-9]'"
    )
    done = run_in_lab("bash", "-c", script)
    table, count = done.stdout.splitlines()
    assert table == "table inet lab_leak", done.stderr
    assert int(count) < 10
    assert (nft_tables(), addresses(), sorted(Path("/run").iterdir())) == before


def nft_tables() -> str:
    """List the tables of nftables where the test runs."""
    return subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout


def addresses() -> str:
    """List the addresses where the test runs."""
    return subprocess.run(["ip", "-brief", "address"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_ends_all_of_it(signum: signal.Signals) -> None:
    """A lab that is told to end, or killed, leaves no process behind, not even one that left its parent."""
    with running(Process("lab", lab("bash", "-c", "setsid sleep 600 & echo up; wait"))) as process:
        process.wait_for("up")
        wait_until(lambda: "sleep 600" in processes().values(), 5, "the orphan runs")
        process.send(signum)
        assert process.wait() != 0
        wait_until(lambda: "sleep 600" not in processes().values(), 5, "the orphan was killed")


def test_the_end_of_the_command_ends_its_orphans() -> None:
    """A test that forgets a process cannot leave it on the machine."""
    assert run_in_lab("bash", "-c", "setsid sleep 601 & true").returncode == 0
    wait_until(lambda: "sleep 601" not in processes().values(), 5, "the orphan was killed")


def test_an_interrupt_reaches_the_command() -> None:
    """Ctrl-C is for the command: pytest prints its summary, and the lab ends with its status."""
    with running(Process("lab", lab(sys.executable, "-c", INTERRUPTED))) as process:
        process.wait_for("up")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait() == 5


def test_another_user_runs_python_and_reads_the_checkout_below_a_closed_directory(open_tmp_path: Path) -> None:
    """The app's and the daemon's users must work even where the checkout and Python lie in /root."""
    with below_closed_directory(open_tmp_path) as (enter, python):
        home = enter.parents[1]
        as_stranger = [*User(STRANGER).prefix(), "env"]  # setpriv itself may still enter any directory
        refused = subprocess.run([*as_stranger, "cat", enter], capture_output=True, text=True, check=False)
        assert "Permission denied" in refused.stderr
        code = "import os, asyncio; print(os.getuid(), len(open('scripts/enter_lab.py').read()) > 100, os.getcwd())"
        command: list[str | Path] = [python, "-P", enter, *as_stranger, python, "-c", code]
        done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=60, check=False)
        assert (done.stdout, done.stderr) == (f"{STRANGER} True {home}\n", "")
        listing: list[str | Path] = [python, "-P", enter, "ls", home.parent]
        assert subprocess.run(listing, capture_output=True, text=True, check=False).stdout == "checkout\n"


def test_a_checkout_closed_to_others_is_named(open_tmp_path: Path) -> None:
    """Who cloned with a strict umask is told what to do, not left with an app that cannot be imported."""
    with below_closed_directory(open_tmp_path) as (enter, python):
        checkout = enter.parents[1]
        checkout.chmod(0o700)
        done = subprocess.run([python, "-P", enter, "true"], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert f"chmod -R go+rX {checkout}" in done.stderr


@contextmanager
def below_closed_directory(directory: Path) -> Generator[tuple[Path, Path]]:
    """Make a checkout and an environment below a 0700 directory, beside something private."""
    closed = directory / "closed"
    scripts = closed / "checkout/scripts"
    scripts.mkdir(parents=True)
    shutil.copy(ENTER, scripts)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", scripts.parent / ".venv"], check=True)
    (closed / "private").write_text("secret")
    closed.chmod(0o700)
    yield scripts / ENTER.name, scripts.parent / ".venv/bin/python"


def test_users_keep_no_capability_but_those_they_were_given() -> None:
    """What a test says of the daemon's privileges must be true of the process it starts."""
    if not has_user(STRANGER):
        pytest.skip("this lab has one user only: run as root, or install uidmap and add yourself to /etc/subuid")
    shown = "grep -E '^(Uid|Gid|Groups|CapEff|CapBnd|CapAmb|NoNewPrivs):' /proc/self/status"
    with running(
        Process("user", ["sh", "-c", shown], user=User(STRANGER, groups=(4,), capabilities=("net_admin",)))
    ) as it:
        it.wait_for("NoNewPrivs:")  # the last of them
        seen = dict(line.text.replace("\t", " ").split(": ", 1) for line in it.lines())
    assert seen["Uid"].split() == seen["Gid"].split() == [str(STRANGER)] * 4
    assert seen["Groups"].split() == ["4"]
    assert seen["CapEff"] == seen["CapBnd"] == seen["CapAmb"] == f"{1 << 12:016x}"
    assert seen["NoNewPrivs"] == "1"


def test_clients_reach_the_server_under_their_own_addresses() -> None:
    """The small internet routes both versions of IP and translates nothing."""
    client = Place("client", ("203.0.113.5/24", "2001:db8:a::5/64"))
    with Internet([client]) as internet:
        for here, there in ((SERVER4, "203.0.113.5"), (SERVER6, "2001:db8:a::5")):
            family = socket.AF_INET6 if ":" in here else socket.AF_INET
            with internet.server, socket.create_server((here, 80), family=family) as server:
                with internet.machines["client"]:
                    socket.create_connection((here, 80), timeout=5).close()
                accepted, peer = server.accept()
                accepted.close()
            assert peer[0] == there
    assert [name for _, name in socket.if_nameindex()] == ["lo"]


def run_pytest(directory: Path, test: str, *, within: Sequence[str | Path] = (), **environment: str) -> str:
    """Run one test under our conftest in a process of its own, with or without what marks the lab and CI."""
    (directory / "test_it.py").write_text(f"import pytest\n{test}\n")
    kept = {
        name: value for name, value in os.environ.items() if name not in ("APPGUARD_LAB", "CI", "APPGUARD_NO_SKIPS")
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        f"--rootdir={directory}",
    ]
    done = subprocess.run(
        [*within, *command, directory / "test_it.py"],
        env={**kept, "PYTHONPATH": str(CHECKOUT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def test_a_test_for_the_lab_fails_outside_of_it(tmp_path: Path) -> None:
    """A test that changes nftables must never run on the machine itself, nor vanish silently."""
    test = "@pytest.mark.lab\ndef test_it(): print('ran')"
    assert "run it with scripts/test" in (outside := run_pytest(tmp_path, test)) and "1 error" in outside
    assert "1 passed" in run_pytest(tmp_path, test, APPGUARD_LAB="1")


@pytest.mark.parametrize("test", ["def test_it(): pytest.skip('no redis')", "pytest.importorskip('no_such_module')"])
def test_a_skip_fails_under_ci(tmp_path: Path, test: str) -> None:
    """A green run under CI means that everything ran, single tests and whole files."""
    assert "1 skipped" in run_pytest(tmp_path, test)
    under_ci = run_pytest(tmp_path, test, CI="true")
    assert "skipped, which CI does not accept" in under_ci
    assert "1 failed" in under_ci or "1 error" in under_ci


def test_a_process_left_running_fails_its_test(tmp_path: Path) -> None:
    """A test that leaves a process behind is found, and the process named."""
    test = "import subprocess\ndef test_it(): subprocess.run('sleep 602 & sleep 0.2', shell=True)"
    found = run_pytest(tmp_path, test, within=lab())
    assert "left running: sleep 602" in found
    assert "1 passed, 1 error" in found
