"""The command by itself: what it imports, what it refuses, and how it fails when no or a strange daemon answers."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import appguard
from appguard.cli.client import CONFIG_READ
from appguard.config import CONFIG_FILE

HEAVY = ("asyncio", "starlette", "uvicorn", "anyio", "redis", "limits", "pyinotify", "msgspec", "fastapi", "sqlite3")
SOURCES = str(Path(appguard.__file__).parents[1])


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the real command."""
    command = [sys.executable, "-m", "appguard", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """Give a path at which no daemon listens: whatever is sent there ends with exit code 4."""
    return tmp_path / "control.sock"


@pytest.mark.parametrize(
    "verb", [["status"], ["list"], ["ban", "192.0.2.1"], ["unban", "192.0.2.1"], ["enforce", "on"]]
)
def test_a_verb_imports_only_what_it_needs(nowhere: Path, verb: list[str]) -> None:
    """The verbs that talk to the daemon import none of the daemon's packages."""
    script = "import atexit, sys; from appguard.cli import main; sys.argv[0] = 'appguard'\n"
    script += f"atexit.register(lambda: print([name for name in {HEAVY} if name in sys.modules]))\nsys.exit(main())"
    command = [sys.executable, "-c", script, *verb, "--socket", str(nowhere)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4, done.stderr
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("arguments", [[], ["status"], ["daemon"]])
def test_without_the_extra_the_command_says_what_to_install(arguments: list[str]) -> None:
    """Where click is not installed, one line names the package to install, and the exit code is 2."""
    script = f"import sys; sys.path.insert(0, {SOURCES!r}); from appguard.cli import main; sys.exit(main())"
    command = [sys.executable, "-S", "-c", script, *arguments]  # -S: without the installed packages
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    wanted = "appguard: the package click is missing; install it with: pip install 'appguard-py[daemon]'\n"
    assert done.stderr == wanted


@pytest.mark.parametrize(
    "verb", [["status"], ["list"], ["ban", "192.0.2.1"], ["unban", "192.0.2.1"], ["enforce", "on"]]
)
def test_no_daemon_is_exit_code_4(nowhere: Path, verb: list[str]) -> None:
    """Without a daemon every verb names the socket and how to start the daemon."""
    done = run(*verb, "--socket", nowhere)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == (
        f"Error: no daemon listens on {nowhere}: start it with 'systemctl start appguard' or 'appguard daemon'\n"
    )


def test_a_dead_daemon_is_exit_code_4(nowhere: Path) -> None:
    """A socket file that nobody listens on any more is reported like a missing one."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(nowhere))
    assert run("status", "--socket", nowhere).returncode == 4


def test_a_path_too_long_is_exit_code_4(tmp_path: Path) -> None:
    """A socket path the kernel cannot take is an error message, not a traceback."""
    done = run("status", "--socket", tmp_path / ("x" * 200))
    assert done.returncode == 4
    assert "too long" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ban"], "Missing argument 'ADDRESS'"),
        (["ban", "203.0.113"], "'203.0.113' is not an IP address or network"),
        (["ban", "203.0.113.5", "--for", "soon"], "--for = 'soon'"),
        (["ban", "203.0.113.5", "--for", "0"], "--for = '0'"),
        (["ban", "203.0.113.5", "--for", "9" * 400], "expected a duration"),
        (["ban", "203.0.113.5", "--jail", "a b"], "jail = 'a b'"),
        (["ban", "203.0.113.5", "--jial", "x"], "--jail"),
        (["unban"], "give either an address, a network or a ref"),
        (["unban", "203.0.113.5", "--ref", "K4TQZ7AB"], "give either"),
        (["unban", "203.0.113"], "'203.0.113' is not an address, a network, or a ban's ref"),
        (["unban", "--ref", "203.0.113.5"], "'203.0.113.5' is not an address, a network, or a ban's ref"),
        (["unban", "--ref", "K4TQZ7A1"], "'K4TQZ7A1' is not"),
        (["enforce", "maybe"], "'on', 'off'"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_sends_nothing(nowhere: Path, arguments: list[str], words: str) -> None:
    """What cannot be right is refused before anything is sent (it would be exit code 4), with the fault named."""
    done = run(*arguments, "--socket", nowhere)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_a_mistyped_verb_gets_a_suggestion() -> None:
    """A verb that does not exist is exit code 2 and names the one that was probably meant."""
    done = run("staus")
    assert done.returncode == 2
    assert "'status'" in done.stderr


def test_help_names_every_verb() -> None:
    """The help lists all verbs, the installed script says the same, and the version is printed."""
    helped = run("--help")
    assert helped.returncode == 0
    for verb in ("ban", "daemon", "enforce", "list", "status", "unban"):
        assert f"\n  {verb} " in helped.stdout
    script = Path(sys.executable).with_name("appguard")
    assert subprocess.run([script, "--help"], capture_output=True, text=True, check=True).stdout == helped.stdout
    assert run("--version").stdout.startswith("appguard, version ")


def test_help_is_cut_short_nowhere() -> None:
    """What a verb does is said in one line of a terminal, and the settings that the help names are those read."""
    for group in ((), ("safelist",)):
        assert "..." not in run(*group, "--help").stdout.partition("Commands:")[2]
    assert str(CONFIG_FILE) in CONFIG_READ


@contextmanager
def strange_daemon(path: Path, answer: bytes) -> Generator[None]:
    """Answer one connection with these bytes, whatever it asks, and close it."""

    def serve() -> None:
        with listener.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(answer)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(20)
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(10)


def http(status: int, body: str) -> bytes:
    """Write an answer."""
    data = body.encode()
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (b"", 4, "did not answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 4, "did not answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{", 4, "did not answer"),
        (http(200, ""), 1, "another version"),
        (http(200, "[1, 2]"), 1, "another version"),
        (http(200, "null"), 1, "another version"),
        (http(200, '{"version": "9.0", "mood": "good"}'), 1, "another version"),
        (http(400, "Invalid HTTP request received."), 1, "another version"),
        (http(500, '{"error": "out of \\u001b[2Jorder"}'), 1, "Error: out of \\x1b[2Jorder\n"),
        (http(503, "Service Unavailable"), 4, "too busy"),
    ],
)
def test_a_strange_answer_is_one_line(nowhere: Path, answer: bytes, code: int, words: str) -> None:
    """A daemon that hangs up, or is another program, another version or out of order, is one clear line."""
    with strange_daemon(nowhere, answer):
        done = run("status", "--socket", nowhere)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def bad_config(tmp_path: Path) -> Iterator[Path]:
    """Give a configuration file with a key that does not exist."""
    path = tmp_path / "appguard.toml"
    path.write_text("stoer = 'memory://'\n")
    yield path


def test_a_bad_configuration_is_exit_code_2(bad_config: Path) -> None:
    """`appguard daemon` with a wrong configuration says what is wrong and where, in one line, and exits 2."""
    done = run("daemon", "--config", bad_config)
    assert (done.returncode, done.stdout) == (2, "")
    assert "stoer" in done.stderr
    assert str(bad_config) in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_missing_configuration_is_exit_code_2(tmp_path: Path) -> None:
    """`appguard daemon` with a file that is not there names it, in one line, and exits 2."""
    done = run("daemon", "--config", tmp_path / "none.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert str(tmp_path / "none.toml") in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_output_may_be_cut_off(nowhere: Path) -> None:
    """A reader that closes the pipe early, as `head` does, is no traceback."""
    body = '{"bans": []}'
    read, write = os.pipe()
    os.close(read)
    with strange_daemon(nowhere, http(200, body)), os.fdopen(write, "wb") as pipe:
        command = [sys.executable, "-m", "appguard", "list", "--socket", str(nowhere)]
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
