"""Sample lines as users run them: `appguard regex --samples` finds what is right, what is wrong, and says where."""

import subprocess
import sys
from pathlib import Path

import pytest

from appguard.errors import ConfigError
from appguard.filters.samples import read_samples

RIGHT = """\
# filter: uvicorn
INFO:     203.0.113.5:1 - "POST /login HTTP/1.1" 401 Unauthorized
=> authn_login_fail 203.0.113.5 - path="/login" status=401

INFO:     203.0.113.5:1 - "GET / HTTP/1.1" 200 OK
=> -
"""
OWN = """\
[[line]]
kind = "guard_probe"
regex = 'probe (?P<address>[0-9.]++)'
"""


def run(directory: Path) -> subprocess.CompletedProcess[str]:
    """Run the verb."""
    command = [sys.executable, "-m", "appguard", "regex", "--samples", str(directory)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_right_samples_are_a_table(tmp_path: Path) -> None:
    """Each file has its row, with its filter: of its first line, of the data file beside it, or of its own name."""
    (tmp_path / "app.txt").write_text(RIGHT)
    (tmp_path / "own.toml").write_text(OWN)
    (tmp_path / "own.txt").write_text("probe 203.0.113.5\n=> guard_probe 203.0.113.5 -\n")
    (tmp_path / "gunicorn.txt").write_text("nothing\n=> -\n")
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[:4] == [
        ["FILE", "FILTER", "LINES", "RIGHT", "WRONG"],
        ["app.txt", "uvicorn", "2", "2", "0"],
        ["gunicorn.txt", "gunicorn", "1", "1", "0"],
        ["own.txt", "own", "1", "1", "0"],
    ]
    assert "Note on gunicorn: " in done.stdout


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("authn_login_fail", "guard_probe", "authn_login_fail 203.0.113.5 2026-11-20T12:00:00.000Z"),
        ("=> authn_login_fail 203.0.113.5 ", "=> authn_login_fail 203.0.113.6 ", "authn_login_fail 203.0.113.5"),
        ("203.0.113.5 - path", "203.0.113.5 2026-11-20T12:00:01Z path", "authn_login_fail"),
        ("status=401", "status=403", "Z status=401"),
        ("status=401", "state=401", "state=null"),
        ('=> authn_login_fail 203.0.113.5 - path="/login" status=401', "=> -", "authn_login_fail"),
        ("=> -", "=> guard_probe 203.0.113.5 -", "found -"),
        ("status=401", "status", "cannot be read"),
        ("203.0.113.5 - path", "203.0.113.5 noon path", "cannot be read"),
    ],
)
def test_a_wrong_sample_is_told_and_fails(tmp_path: Path, old: str, new: str, found: str) -> None:
    """The exit code is 1, and a line says file, number, what was expected and what was found."""
    assert old in RIGHT
    (tmp_path / "app.txt").write_text(RIGHT.replace(old, new, 1))
    done = run(tmp_path)
    assert done.returncode == 1
    number = 5 if old == "=> -" else 2
    problem = next(line for line in done.stdout.splitlines() if line.startswith(f"{tmp_path}/app.txt:{number}: "))
    assert found in problem
    assert "1 of 2 lines are not as expected" in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# filter: uvicorn\n", "no sample lines"),
        ("# filter: uvicon\nx\n=> -\n", "did you mean 'uvicorn'"),
        ("# filter: uvicorn\nx\n", ":2: expected a line and below it"),
        ("# filter: uvicorn\nx\ny\n=> -\n", ":3: expected a line and below it"),
        ("# filter: uvicorn\n=> -\nx\n", ":3: expected a line and below it"),
        ("x\n=> -\n", "filter: Expected one of"),
    ],
)
def test_a_file_that_cannot_be_read_is_wrong_usage(tmp_path: Path, text: str, message: str) -> None:
    """The exit code is 2, and the message says the file and what is expected."""
    file = tmp_path / "zzzzz.txt"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as raised:
        read_samples(file)
    assert str(file) in str(raised.value)
    done = run(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert str(file) in done.stderr


def test_a_directory_without_samples_is_wrong_usage(tmp_path: Path) -> None:
    """Nothing checked is not all right."""
    assert run(tmp_path).returncode == 2
    assert run(tmp_path / "nowhere").returncode == 2
