"""The demonstration is what README.md says of it, and what it quotes."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.demo import options_of
from scripts.demos.one_server import staged
from scripts.demos.timeline import Timeline

CHECKOUT = Path(__file__).parents[2]
README = (CHECKOUT / "README.md").read_text()
BANTIME = 8.0  # seconds; the real one has 15


def sections(text: str) -> Iterator[tuple[str, Counter[str]]]:
    """Give each section's title and how often it has each line, numbers masked: addresses stay, times do not."""
    for block in re.split(r"\n\n+", text.strip("\n")):
        title, *lines = block.splitlines()
        yield masked(title), Counter(masked(line) for line in lines if line.strip() != "...")


def masked(line: str) -> str:
    """Mask the time a line begins with, and every number that is measured or that the length of the ban is."""
    line = re.sub(r"^ +\d+\.\d{4} ", "TIME ", line).replace("before the last 401", "after the last 401")
    line = re.sub(r"\d+(\.\d+)? (?=(ms|s|seconds|requests|packets)\b)", "N ", line)
    return re.sub(r"(\d+[ms]+)+", "N", line)


@pytest.mark.lab
def test_readme_quotes_the_demonstration(capsys: pytest.CaptureFixture[str]) -> None:
    """Every quoted section is printed in this order, and every quoted line in its section as often, but for numbers."""
    timeline = Timeline()
    with staged(timeline, bantime=BANTIME) as demo:
        demo.show()
        timeline.section(f"Each step was observed, in {timeline.elapsed():.0f} seconds.")
    printed = dict(sections(capsys.readouterr().out))
    block = re.findall(r"```text\n(.*?)```", README, re.DOTALL)[0]
    quoted = dict(sections(block))
    assert len(quoted) == 7
    assert [title for title in printed if title in quoted] == list(quoted)
    for title, lines in quoted.items():
        assert lines <= printed[title], lines - printed[title]


def test_where_there_is_one_user_only_that_is_said() -> None:
    """Without other users' ids all of it still works, nginx's reloads included, and it says what it does not show."""
    lab, demo = str(CHECKOUT / "scripts/lab"), str(CHECKOUT / "scripts/demo.py")
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", lab, sys.executable, demo, "--balancer"],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "this lab has one user only: who may do what is NOT shown" in done.stdout


def test_readme_names_every_option() -> None:
    """The table of what can be shown has every option there is, and each is accepted."""
    named = re.findall(r"(?m)^\| (`--.*`) \|", README)
    for option in (option for row in named for option in re.findall(r"`(.*?)`", row)):
        options_of(option.split())
    assert {word.split()[0] for row in named for word in re.findall(r"`(.*?)`", row)} == {
        *("--app", "--store", "--docker-like", "--balancer")
    }


@pytest.mark.parametrize("words", ["--docker-like --balancer", "--balancer --app flask", "--docker-like --store redis"])
def test_what_is_not_shown_is_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Options that do not go together are a usage error, not a demonstration of something else."""
    with pytest.raises(SystemExit) as ended:
        options_of(words.split())
    assert ended.value.code == 2
    assert "--docker-like" in capsys.readouterr().err
