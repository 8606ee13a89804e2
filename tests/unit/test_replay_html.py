"""The page of a replay: nothing in it is an attacker's, and the drawing has one mark for each ban."""

from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from appguard.cli.replay_html import html_of
from appguard.cli.replay_plot import MARKS_MOST
from appguard.replay import Replayed
from tests.replaying import nginx_line, replayed, settings, write

HOSTILE = [
    "/<script>alert(1)</script>",
    "/\"'><img/src=x/onerror=alert(1)>",
    "/</style></code><svg/onload=alert(1)>",
    "/]]><!--&lt;script&gt;",
    "/\u202e\x1b[31m\x07",
]


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags = Counter[str]()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.marks: list[dict[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count a tag."""
        found = {name: value or "" for name, value in attrs}
        self.tags[tag] += 1
        self.attributes += found.items()
        if "ban" in found.get("class", "").split():
            self.marks.append(found)

    def handle_data(self, data: str) -> None:
        """Take a text."""
        self.text += data


def hostile(directory: Path) -> Replayed:
    """Replay requests and user names made to break out of a page, in a jail whose path and file are ours."""
    lines = [
        nginx_line(f"203.0.113.{number}", number * 100 + at, path=text, user=text.replace('"', ""))
        for number, text in enumerate(HOSTILE)
        for at in range(3)
    ]
    (directory / "access.log").write_bytes(b"".join(line.replace(b"\"'", b"\\x22'") for line in lines))
    return replayed(settings(directory), [directory / "access.log"])


def test_no_text_of_an_attacker_becomes_markup(tmp_path: Path) -> None:
    """Whatever users and paths are, the page has our elements only, and shows what was written."""
    found = hostile(tmp_path)
    page = Page(html_of(found))
    assert len(found.bans) == len(HOSTILE)
    harmless = {"html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "div", "svg", "line", "text"}
    harmless |= {"rect", "table", "thead", "tbody", "tr", "th", "td", "code"}
    assert set(page.tags) <= harmless
    assert page.tags["style"] == 1
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("href", "src", "style")]
    assert "<script>alert(1)</script>" in page.text
    assert "onerror=alert(1)" in page.text
    assert "\\u202e\\x1b[31m\\x07" in page.text
    assert not {"\u202e", "\x1b", "\x07"} & set(html_of(found))


def test_nothing_is_loaded_from_anywhere(tmp_path: Path) -> None:
    """The page names no other resource, and forbids the browser to load or run any."""
    text = html_of(hostile(tmp_path))
    assert "default-src 'none'; style-src 'unsafe-inline'" in text
    assert not [word for word in ("url(", "http:", "https:", "@import", "<link", "<iframe") if word in text]


def test_every_ban_is_one_mark_where_it_belongs(tmp_path: Path) -> None:
    """Marks are as many as bans, begin in the order of the bans, end inside the drawing, and longer bans are longer."""
    log = write(tmp_path / "access.log", {n * 10: f"203.0.113.{n % 40}" for n in range(2000)})
    more = (
        f'[jails.slow]\nsource = "{log}"\nfilter = "nginx"\nevents = ["guard_probe"]\nmaxretry = 9\nfindtime = "1d"\n'
    )
    found = replayed(settings(tmp_path, more + "bantime = -1\ndry_run = true\n", findtime="1h"), [log])
    page = Page(html_of(found))
    assert len(found.bans) > 100
    assert len(page.marks) == len(found.bans)
    assert sum("dry" in mark["class"].split() for mark in page.marks) == sum(ban.dry_run for ban in found.bans) > 0
    by_jail = {name: [mark for mark in page.marks if name in mark["class"].split()] for name in ("c0", "c1")}
    assert {len(marks) for marks in by_jail.values()} == {each.total_banned for each in found.jails}
    for marks in by_jail.values():
        begins = [float(mark["x"]) for mark in marks]
        assert begins == sorted(begins)
        assert all(
            begin >= 150 and begin + float(mark["width"]) <= 985 for begin, mark in zip(begins, marks, strict=True)
        )
    ended, endless = (by_jail[name][0] for name in (("c1", "c0") if found.jails[0].name == "slow" else ("c0", "c1")))
    assert float(ended["width"]) < float(endless["width"])
    assert page.text.count("banned by probes at") == found.jails[-1].total_banned


@pytest.mark.parametrize("bans", [0, 1])
def test_few_bans_are_a_page_too(tmp_path: Path, bans: int) -> None:
    """No ban is said in a sentence; one, at one moment, is a drawing with one mark."""
    log = write(tmp_path / "access.log", dict.fromkeys([0.1, 0.2, 0.3][: 3 if bans else 2], "203.0.113.5"))
    page = Page(html_of(replayed(settings(tmp_path), [log])))
    assert (len(page.marks), page.tags["svg"]) == (bans, bans)
    assert ("No ban." in page.text) is not bool(bans)


def test_more_bans_than_can_be_drawn_are_told(tmp_path: Path) -> None:
    """Above the most marks the page stays of a bearable size and says how many there are."""
    total = MARKS_MOST + 10
    lines = {float(n): f"10.{n // 65536}.{n // 256 % 256}.{n % 256}" for n in range(total)}
    log = write(tmp_path / "access.log", lines)
    page = Page(html_of(replayed(settings(tmp_path, maxretry=1), [log])))
    assert len(page.marks) == MARKS_MOST
    assert f"The first {MARKS_MOST:,} of {total:,} bans." in page.text
