"""The reader of fail2ban's configuration, on small filters of our own: files, includes, values, tags, parameters."""

from collections.abc import Callable
from pathlib import Path

import pytest

from appguard.errors import ConfigError
from appguard.filters.fail2ban import parse_name, read_filter
from appguard.filters.options import FilterOptions

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Give what writes a file below the test's own filter.d."""

    def write(name: str, text: str) -> None:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)

    return write


def read(directory: Path, spelled: str = "x.conf") -> FilterOptions:
    """Read a filter of the test's own."""
    return read_filter(str(directory / spelled))


def test_a_plain_filter(write: Write, tmp_path: Path) -> None:
    """Several regexes stand one a line; comments, the case of option names and empty lines mean nothing."""
    write(
        "x.conf",
        "# a filter\n[Definition]\nFailregex = ^one <HOST>$\n   # not a regex\n   ^two <HOST>$ ; nor this\n"
        "ignoreregex =\nmaxlines : 3\ndatepattern = %%Y-%%m-%%d\njournalmatch = _COMM=x\nusedns = no\n",
    )
    assert read(tmp_path) == FilterOptions(
        failregex=("^one <HOST>$", "^two <HOST>$"),
        maxlines=3,
        datepattern=("%Y-%m-%d",),
        journalmatch="_COMM=x",
        usedns="no",
    )


def test_later_files_win_and_what_they_replace_stays_known(write: Write, tmp_path: Path) -> None:
    """The order is x.conf, x.d/*.conf, x.local, x.d/*.local, and each may build on the value before."""
    write("x.conf", "[Definition]\nfailregex = a <HOST>\nprefregex = p\n")
    write("x.d/2.conf", "[Definition]\nfailregex = %(known/failregex)s\n            c <HOST>\n")
    write("x.d/1.conf", "[Definition]\nfailregex = %(known/failregex)s\n            b <HOST>\nprefregex = q\n")
    write("x.d/9.local", "[Definition]\nfailregex = %(known/failregex)s\n            e <HOST>\n")
    write("x.local", "[Definition]\nfailregex = %(known/failregex)s\n            d <HOST>\n")
    found = read(tmp_path)
    assert found.failregex == tuple(f"{letter} <HOST>" for letter in "abcde")
    assert found.prefregex == "q"


def test_includes(write: Write, tmp_path: Path) -> None:
    """Files before and after, each with its .local behind it, defaults of all; a missing file and a loop do no harm."""
    write("common.conf", "[INCLUDES]\nafter = common.local\n[DEFAULT]\n_daemon = any\npre = ^%(_daemon)s:\n")
    write("common.local", "[DEFAULT]\nend = $\n")
    write("last.conf", "[INCLUDES]\nbefore = x.conf\n[Definition]\nignoreregex = last\n")
    write(
        "x.conf",
        "[INCLUDES]\nbefore = missing.conf\n    common.conf\nafter = last.conf\n"
        "[Definition]\n_daemon = mine\nfailregex = %(pre)s <HOST>%(end)s\nignoreregex = first\n",
    )
    found = read(tmp_path)
    assert found.failregex == ("^mine: <HOST>$",)
    assert found.ignoreregex == ("last",)


def test_tags_are_replaced_innermost_first(write: Write, tmp_path: Path) -> None:
    """`<re-<mode>>` is the option of the mode, an empty one leaves nothing, and the regexes' own tags stay."""
    write(
        "x.conf",
        "[Definition]\nmode = normal\nfailregex = ^<F-USER>.*</F-USER> from <HOST>\n            <re-<mode>>\n"
        "re-normal =\nre-more = ^more <HOST>\n            ^<lt_<mode>/word> <ADDR>\n"
        "[lt_more]\nword = %(first)s word\nfirst = own\n",
    )
    assert read(tmp_path).failregex == ("^<F-USER>.*</F-USER> from <HOST>",)
    assert read(tmp_path, "x.conf[mode=more]").failregex[1:] == ("^more <HOST>", "^own word <ADDR>")


def test_init_and_parameters(write: Write, tmp_path: Path) -> None:
    """`[Init]` wins over `[Definition]` for tags, a parameter over both, and may build on what it replaces."""
    write(
        "x.conf",
        "[Definition]\nfailregex = <HOST> <agents> <word> %(word)s\nword = defined\nmaxlines = <lines>\n"
        "[Init]\nagents = one|two\nword = initial\nlines = 2\n[Init?family=inet6]\nword = six\n",
    )
    found = read(tmp_path)
    assert (found.failregex, found.maxlines) == (("<HOST> one|two initial defined",), 2)
    found = read(tmp_path, "x.conf[agents=\"<known/agents>|three\", word='a, b'][lines=7]")
    assert (found.failregex, found.maxlines) == (("<HOST> one|two|three a, b a, b",), 7)


def test_other_sections(write: Write, tmp_path: Path) -> None:
    """`%(section/x)s` is that section's text in the own section's scope; without one there, the default's."""
    write(
        "x.conf",
        "[DEFAULT]\nname = default\n[Definition]\nname = mine\n"
        "failregex = %(other/line)s <HOST> %(other/name)s %(__name__)s 100%%\n[other]\nline = line of %(name)s\n",
    )
    assert read(tmp_path).failregex == ("line of mine <HOST> default Definition 100%",)


def test_logtype(write: Write, tmp_path: Path) -> None:
    """The source says what it gives, unless the filter or a parameter says otherwise."""
    write("x.conf", "[DEFAULT]\nlogtype = file\n[Definition]\nfailregex = <HOST> <logtype>\n")
    write("y.conf", "[Definition]\nlogtype = short\nfailregex = <HOST> <logtype>\n")
    assert read_filter(str(tmp_path / "x"), "journal").failregex == ("<HOST> journal",)
    assert read_filter(str(tmp_path / "x[logtype=file]"), "journal").failregex == ("<HOST> file",)
    assert read_filter(str(tmp_path / "y"), "journal").failregex == ("<HOST> short",)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[Definition]\nfailregex = %(x)s\nx = %(y)s\ny = %(x)s\n", "'x' is expanded within itself"),
        ("[Definition]\nfailregex = <a> <HOST>\na = <b>\nb = 1<a>\n", "'a' is expanded within itself"),
        ("[Definition]\nfailregex = %(nowhere)s\n", "%(nowhere)s is set nowhere"),
        ("[Definition]\nfailregex = 100% <HOST>\n", "a '%' that is neither"),
        ("[Definition]\nfailregex = a\nfailregex = b\n", "option 'failregex' in section 'Definition' already exists"),
        ("failregex = a\n", "File contains no section headers"),
        ("[Definition]\nmaxlines = many\n", "maxlines = 'many': expected a whole number from 1 to 100"),
        ("[Definition]\nusedns = perhaps\n", "usedns = 'perhaps': expected one of"),
        ("[Definition]\nfailregex = <b><b><b><b><b><b><b><b><b>\nb = <c><c><c><c><c><c><c><c><c>\n"
         "c = <d><d><d><d><d><d><d><d><d>\nd = <e><e><e><e><e><e><e><e><e>\ne = <f><f><f><f><f><f>\nf = x\n",
         "expands to too much"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(write: Write, tmp_path: Path, text: str, complaint: str) -> None:
    """A filter that is wrong is an error of one kind, which says what is wrong and where."""
    write("x.conf", text)
    with pytest.raises(ConfigError) as caught:
        read(tmp_path)
    assert complaint in str(caught.value)


def test_files_that_cannot_be_read(write: Write, tmp_path: Path) -> None:
    """A filter that is not there, is no text, or is a directory, is an error that names the file."""
    (tmp_path / "binary.conf").write_bytes(b"[Definition]\nfailregex = \xff\n")
    (tmp_path / "directory.conf").mkdir()
    for name in ("missing", "binary", "directory"):
        with pytest.raises(ConfigError, match=rf"{name}\.conf"):
            read(tmp_path, name)


def test_names_and_parameters() -> None:
    """Parameters may be quoted, and come in one pair of brackets or several."""
    assert parse_name("sshd") == ("sshd", {})
    assert parse_name("sshd[]") == ("sshd", {})
    assert parse_name("a/b.conf[x=1]") == ("a/b.conf", {"x": "1"})
    expected = {"mode": "more", "a": "1, 2]", "b": '"', "c": ""}
    assert parse_name('f [ mode = more , a="1, 2]" ][b=\'"\', c=]') == ("f", expected)


@pytest.mark.parametrize("spelled", ["", "[x=1]", "f[x", "f[x]", "f[x=1", "f[x=1]]", 'f[x="1]', "f[=1]", "f[x=1]y"])
def test_names_that_are_none(spelled: str) -> None:
    """What cannot be understood is refused, not guessed."""
    with pytest.raises(ConfigError):
        parse_name(spelled)
