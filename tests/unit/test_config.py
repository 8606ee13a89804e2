"""Settings: who wins, and that every mistake is named with its place, key, value and what is accepted."""

from pathlib import Path

import pytest

from appguard.address import parse_network
from appguard.config import AppConfig, DaemonConfig, app_config, daemon_config
from appguard.errors import ConfigError
from appguard.jail import Jail
from appguard.limit import Limit
from appguard.proxies import Proxies

JAIL = """
[jails.login]
source = "events"
users = ["www-data", 1000]
"""


def write(path: Path, text: str) -> Path:
    """Write a settings file, and its directory if need be."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def daemon(tmp_path: Path, text: str) -> DaemonConfig:
    """Read the daemon's settings from a text."""
    return daemon_config(write(tmp_path / "appguard.toml", text))


def complaint(tmp_path: Path, text: str) -> str:
    """Give what is said of a wrong settings file, which must begin with the file's name."""
    with pytest.raises(ConfigError) as caught:
        daemon(tmp_path, text)
    where = f"{tmp_path}/appguard.toml: "
    assert str(caught.value).startswith(where)
    return str(caught.value).removeprefix(where)


def app(*, file: Path | None = None, environment: dict[str, str] | None = None, **options: object) -> AppConfig:
    """Read an app's settings."""
    variables = {"APPGUARD_CONFIG": str(file)} if file else {}
    return app_config(options, variables | (environment or {}))


def test_no_settings_are_the_documented_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word the app is named by its directory, limited to 100 a second per client, and bans nobody itself."""
    (tmp_path / "shop").mkdir()
    monkeypatch.chdir(tmp_path / "shop")
    found = app()
    assert (found.name, [str(limit) for limit in found.limits], found.jails) == ("shop", ["100/second"], ())
    assert (found.store, found.event_log, found.on_store_error, found.enabled) == ("", "", "local", True)
    assert (found.trusted_proxies, found.safelist, found.exempt_paths) == (Proxies(), (), ())
    assert (found.forwarding_header, found.login_paths) == ("x-forwarded-for", ("login", "signin", "token"))


def test_name_of_an_app_whose_directory_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory removed under the app is no reason not to start."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert app().name == "app"


def test_app_options_of_every_kind() -> None:
    """Options are checked into values; limits may be texts, limits or tables."""
    found = app(
        name="shop",
        limits=[
            "600/minute",
            Limit("5/minute", path="/login"),
            {"rate": "9/hour", "methods": ["post"], "name": "nine"},
        ],
        jails=[Jail("login")],
        store="redis://127.0.0.1",
        trusted_proxies=["127.0.0.1", "10.0.0.0/8", "unix:"],
        forwarding_header="forwarded",
        safelist=("192.0.2.7/24",),
        exempt_paths=["/healthz", "/static/*"],
        login_paths=["login", "/api/session"],
        event_log="stderr",
        on_store_error="closed",
        enabled=False,
    )
    assert [limit.name for limit in found.limits] == ["600/minute", "/login 5/minute", "nine"]
    assert found.trusted_proxies == Proxies((parse_network("127.0.0.1"), parse_network("10.0.0.0/8")), unix=True)
    assert found.safelist == (parse_network("192.0.2.0/24"),)
    assert (found.enabled, found.on_store_error, found.forwarding_header) == (False, "closed", "forwarded")


def test_argument_wins_over_environment_over_file_over_default(tmp_path: Path) -> None:
    """Each key is taken whole from the first place that has it: no list is merged."""
    file = write(
        tmp_path / "a.toml",
        '[app]\nname = "file"\nstore = "local://"\nevent_log = "stderr"\nlimits = ["1/second", "2/minute"]\n'
        'safelist = ["192.0.2.1"]\nenabled = false',
    )
    environment = {"APPGUARD_STORE": "memory://", "APPGUARD_EVENT_LOG": "logger", "APPGUARD_ENABLED": "on"}
    everywhere = app(file=file, environment=environment, event_log="/x.jsonl", limits=["3/hour"])
    assert (everywhere.event_log, everywhere.store, everywhere.name) == ("/x.jsonl", "memory://", "file")
    assert everywhere.enabled
    assert [str(limit) for limit in everywhere.limits] == ["3/hour"]
    assert everywhere.safelist == (parse_network("192.0.2.1"),)
    assert [str(limit) for limit in app(file=file).limits] == ["1/second", "2/minute"]
    assert app(limits=[]).limits == ()


def test_empty_variable_is_as_good_as_none() -> None:
    """A variable that a container passes on empty changes nothing, other variables neither."""
    found = app(
        environment={"APPGUARD_STORE": "", "APPGUARD_ENABLED": "", "APPGUARD_CONFIG": "", "APPGUARD_LIMITS": "x"}
    )
    assert (found.store, found.enabled) == ("", True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": ["5/minute"]}, "unknown key 'limit': did you mean 'limits'?"),
        ({"colour": 1}, "unknown key 'colour': known keys are ban_status, ban_text, counters, enabled,"),
        ({"name": ""}, "name = '': expected a text"),
        ({"name": 5}, "name = 5: expected a text"),
        ({"limits": "5/minute"}, "limits = '5/minute': expected a list"),
        ({"limits": {"rate": "5/minute"}}, "limits = {'rate': '5/minute'}: expected a list"),
        ({"limits": None}, "limits = None: expected a list"),
        ({"limits": ["5/minuet"]}, "limits = ['5/minuet']: limit '5/minuet': expected one rate such as '5/minute'"),
        ({"limits": [5]}, "limits = [5]: 5: expected a rate such as '5/minute'"),
        ({"limits": ["5/minute", "5/minute"]}, "two limits are named '5/minute': they would be counted together"),
        ({"limits": [{"path": "/"}]}, "limits = [{'path': '/'}]: limit '': expected one rate"),
        ({"limits": [{"rate": "5/minute", "pth": "/"}]}, "limit: unknown key 'pth': did you mean 'path'?"),
        ({"limits": [{"rate": "5/minute", "path": "x"}]}, "path 'x': expected '/...'"),
        ({"jails": [Jail("a", escalate=3)]}, "jail a: escalate: only a jail of the daemon can"),
        ({"jails": [Jail("a", ignorecommand="a:b")]}, "jail a: ignorecommand: only a jail of the daemon can"),
        ({"jails": [Jail("a", events="guard_ban")]}, "jail a: events = 'guard_ban': only a jail of the daemon can"),
        ({"jails": ["login"]}, "jails = ['login']: 'login': expected Jail(...)"),
        ({"jails": [Jail("a"), Jail("a", maxretry=3)]}, "two jails are named 'a'"),
        ({"trusted_proxies": "127.0.0.1"}, "trusted_proxies = '127.0.0.1': expected a list"),
        ({"trusted_proxies": ["nginx"]}, "trusted_proxies = ['nginx']: 'nginx' is not an IP address or network"),
        ({"trusted_proxies": ["*"]}, "'*' is not an IP address or network"),
        ({"safelist": ["unix:"]}, "'unix:' is not an IP address or network"),
        ({"forwarding_header": "X-Real-IP"}, "'X-Real-IP': expected one of 'x-forwarded-for', 'forwarded'"),
        ({"exempt_paths": ["healthz"]}, "exempt_paths = ['healthz']: path 'healthz': expected '/...'"),
        ({"exempt_paths": ["/a/*/b"]}, "path '/a/*/b': expected '/...'"),
        ({"on_store_error": "ignore"}, "on_store_error = 'ignore': expected one of 'local', 'open', 'closed'"),
        ({"on_store_error": ["local"]}, "on_store_error = ['local']: expected one of"),
        ({"enabled": "maybe"}, "enabled = 'maybe': expected true or false"),
        ({"traps": ["*"]}, "trap '*': expected a path such as '/.env', or '/wp-*'"),
        ({"traps": ["/*"]}, "trap '/*': expected a path"),
        ({"traps": ["/"]}, "trap '/': expected a path"),
        ({"traps": "/.env"}, "traps = '/.env': expected a list"),
        ({"headers": "x"}, "headers = 'x': expected one of 'draft', 'legacy', 'both', 'none'"),
        ({"ban_status": 200}, "ban_status = 200: expected a status from 400 to 599"),
        ({"on_ban": "print"}, "on_ban = 'print': expected a function"),
        ({"hash_users": "maybe"}, "hash_users = 'maybe': expected true or false"),
    ],
)  # fmt: skip
def test_wrong_app_option_is_named(options: dict[str, object], message: str) -> None:
    """A wrong option is refused with the key, the value and what is accepted."""
    with pytest.raises(ConfigError) as caught:
        app_config(options, {})
    assert str(caught.value).startswith("AppGuard(...): ")
    assert message in str(caught.value)


def test_wrong_variable_is_named() -> None:
    """The message says which variable of the environment is wrong."""
    with pytest.raises(ConfigError, match=r"^environment: APPGUARD_ENABLED = 'perhaps': expected true or false$"):
        app(environment={"APPGUARD_ENABLED": "perhaps"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[app]\nlimit = []", "[app]: unknown key 'limit': did you mean 'limits'?"),
        ('[app]\nname = ["x"]', "[app]: name = ['x']: expected a text"),
        ("app = 5", "app = 5: expected a table"),
        ("[jail.x]", "unknown key 'jail': did you mean 'jails'?"),
        ('[firewall]\nkinds = "nftables"', "[firewall]: unknown key 'kinds': did you mean 'kind'?"),
    ],
)
def test_app_checks_the_whole_file(tmp_path: Path, text: str, message: str) -> None:
    """A mistyped key anywhere in the file is an error wherever the file is read, by app and daemon alike."""
    file = write(tmp_path / "appguard.toml", text)
    with pytest.raises(ConfigError) as caught:
        app(file=file)
    assert str(caught.value) == f"{file}: {message}"
    assert complaint(tmp_path, text) == message


def test_daemon_defaults(tmp_path: Path) -> None:
    """A file with one jail is enough."""
    found = daemon(tmp_path, JAIL)
    assert (found.store, found.firewall, found.safelist) == ("local://", {}, ())
    assert found.runtime_directory == Path("/run/appguard")
    assert found.state_directory == Path("/var/lib/appguard")
    assert found.control_socket == Path("/run/appguard-control/control.sock")
    (login,) = found.jails
    assert (login.jail, login.sources, login.filter) == (Jail("login"), ("events",), "appguard")
    assert login.users == ("www-data", "1000")


def test_daemon_settings_of_every_kind(tmp_path: Path) -> None:
    """Every key is read; the safelist may be spelled as fail2ban spells it, and both spellings add up."""
    found = daemon(
        tmp_path,
        """
        store = "local://"
        safelist = ["192.0.2.0/24"]
        ignoreip = "127.0.0.1/8 ::1, 198.51.100.7"
        trusted_proxies = ["10.0.0.1"]
        runtime_directory = "/run/other"
        state_directory = "/var/lib/other"
        [app]
        name = "shop"
        [firewall]
        kind = "dry_run"
        [control]
        socket = "/run/control.sock"
        [jails.nginx-probe]
        source = ["/var/log/nginx/*.log", "/srv/access.log"]
        filter = "nginx"
        events = ["guard_probe"]
        maxretry = 20
        findtime = "1h"
        bantime = -1
        """,
    )
    assert found.safelist == tuple(map(parse_network, ("192.0.2.0/24", "127.0.0.0/8", "::1", "198.51.100.7")))
    assert (found.firewall["kind"], found.control_socket) == (("dry_run",), Path("/run/control.sock"))
    assert (found.runtime_directory, found.state_directory) == (Path("/run/other"), Path("/var/lib/other"))
    (probe,) = found.jails
    assert probe.jail == Jail("nginx-probe", 20, 3600, -1, ("guard_probe",))
    assert (probe.sources, probe.filter) == (("/var/log/nginx/*.log", "/srv/access.log"), "nginx")


def test_filter_options_in_fail2bans_words(tmp_path: Path) -> None:
    """What a jail sets beside its filter is kept in one place, with a list or a line for each regex."""
    found = daemon(
        tmp_path,
        """
        [jails.x]
        source = "/a.log"
        filter = "fail2ban:sshd[mode=aggressive]"
        failregex = ['^a <HOST>$', '^b <HOST>$']
        ignoreregex = "^c$\\n^d$"
        usedns = "no"
        maxlines = 2
        """,
    )
    (jail,) = found.jails
    assert jail.filter == "fail2ban:sshd[mode=aggressive]"
    assert jail.filter_options == {
        "failregex": ("^a <HOST>$", "^b <HOST>$"),
        "ignoreregex": ("^c$", "^d$"),
        "usedns": "no",
        "maxlines": 2,
    }


def test_control_socket_stands_beside_the_runtime_directory(tmp_path: Path) -> None:
    """Moving the runtime directory moves the control socket along."""
    assert daemon(tmp_path, 'runtime_directory = "/run/x"').control_socket == Path("/run/x-control/control.sock")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("safelst = []", "unknown key 'safelst': did you mean 'safelist'?"),
        ("safelist = '127.0.0.1'", "safelist = '127.0.0.1': expected a list"),
        ("ignoreip = 'localhost'", "ignoreip = 'localhost': 'localhost' is not an IP address or network"),
        ("state_directory = 'state'", "state_directory = 'state': expected an absolute path"),
        ("store = 5", "store = 5: expected a text"),
        ("jails = 5", "jails = 5: expected a table"),
        ("[[jails]]", "jails = [{}]: expected a table, with [ ] and not [[ ]]"),
        ("[jails.x]\nenabled = true", "[jails.x]: enabled = True: a jail that is written down is in use"),
        ("jails.x = 5", "[jails.x] = 5: expected a table"),
        ("[control]\npath = 'x'", "[control]: unknown key 'path': known keys are socket"),
        ("[firewall]\nkind = 5", "[firewall]: kind = 5: expected a list"),
        ("[jails.'a b']\nsource='events'\nusers=['x']", "[jails.a b]: jail name 'a b': expected 1 to 64 letters"),
        ("[jails.x]", '[jails.x]: source is missing: give a log file, a glob, "events" or "bans"'),
        ("[jails.x]\nsource = []", "[jails.x]: source is missing"),
        ("[jails.x]\nsource = 'event'\nusers = ['x']", "[jails.x]: source = 'event': 'event': expected a log file"),
        ("[jails.x]\nsource = 'access.log'", "[jails.x]: source = 'access.log': 'access.log': expected a log file"),
        ("[jails.x]\nsource = '/a.log'", "[jails.x]: filter is missing: say how to read /a.log"),
        ("[jails.x]\nsource = ['events', '/a.log']\nusers = ['x']", "[jails.x]: filter is missing: say how to read"),
        ("[jails.x]\nsource = 'events'", "[jails.x]: users is missing: say which users' apps may report to this jail"),
        ("[jails.x]\nsource = 'events'\nusers = []", "[jails.x]: users is missing"),
        ("[jails.x]\nsource = 'events'\nusers = 'www-data'", "[jails.x]: users = 'www-data': expected a list"),
        ("[jails.x]\nsource = 'events'\nusers = [true]", "[jails.x]: users = [True]: expected a list of user names"),
        ("[jails.x]\nsource = 'events'\nusers = ['']", "[jails.x]: users = ['']: expected a list of user names"),
        ("[jails.x]\nbantime.increment = true", "[jails.x]: bantime: TOML takes"),
        ("[jails.x]\nignoreip = 'localhost'", "[jails.x]: ignoreip = 'localhost': 'localhost' is not an IP"),
        ("[jails.x]\nmaxretries = 5", "[jails.x]: unknown key 'maxretries': did you mean 'maxretry'?"),
        ("[jails.x]\nfailregex = 5", "[jails.x]: failregex = 5: expected a text, one regex a line, or a list of texts"),
        ("[jails.x]\nmaxlines = '0'", "[jails.x]: maxlines = '0': expected a whole number from 1 to 100"),
        ("[jails.x]\nusedns = 'on'", "[jails.x]: usedns = 'on': expected one of 'yes', 'warn', 'no', 'raw'"),
        ("[jails.x]\nname = 'y'", "[jails.x]: unknown key 'name': "),
        ("[jails.x]\nmaxretry = '5'", "[jails.x]: maxretry = '5': expected a whole number from 1 to 10000"),
        ("[jails.x]\nfindtime = 'soon'", "[jails.x]: findtime = 'soon': expected a duration such as 600"),
        ("[jails.x]\nbantime = 0", "[jails.x]: bantime = 0: expected a duration"),
        ("[jails.x]\nbantime = inf", "[jails.x]: bantime = inf: expected a duration"),
        ("[jails.x]\nfindtime = [1]", "[jails.x]: findtime = [1]: expected a duration"),
        ("[jails.x]\nevents = 'login'", "[jails.x]: events = ['login']: expected some of authn_login_fail"),
        ("[jails.x]\nevents = [5]", "[jails.x]: events = [5]: expected a text"),
        ("[jails.x]\nsource = 'bans'\nscope = 'fleet'", "[jails.x]: scope = 'fleet' needs a store that the hosts"),
        ("[jails.x]\nsource = 'bans'\nscope = 'both'", "[jails.x]: scope = 'both': expected 'host'"),
        ("x =", "not valid TOML: "),
        ("store = 'a'\nstore = 'b'", "not valid TOML: "),
    ],
)  # fmt: skip
def test_wrong_daemon_setting_is_named(tmp_path: Path, text: str, message: str) -> None:
    """A wrong file is refused with the file, the table, the key, the value and what is accepted."""
    assert complaint(tmp_path, text).startswith(message)


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A file that is missing, is a directory or is not UTF-8 is an error with its name."""
    for path, message in (
        (tmp_path / "none.toml", "cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a dir"),
    ):
        with pytest.raises(ConfigError) as caught:
            daemon_config(path)
        assert str(caught.value).startswith(f"{path}: {message}")
    (tmp_path / "bytes.toml").write_bytes(b'store = "\xff"')
    with pytest.raises(ConfigError, match=r"bytes\.toml: not valid TOML"):
        app(file=tmp_path / "bytes.toml")


def test_drop_ins_win_key_by_key_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Later files replace keys and whole jails; jails of other names stay, whichever file they are in."""
    nginx = '[jails.{}]\nsource = "/{}.log"\nfilter = "nginx"\n'
    write(tmp_path / "conf.d" / "20-b.toml", 'store = "b"\n' + nginx.format("two", "b") + "maxretry = 2\n")
    write(tmp_path / "conf.d" / "10-a.toml", 'store = "a"\nsafelist = ["192.0.2.2"]\n' + nginx.format("one", "a"))
    write(tmp_path / "conf.d" / "ignored.conf", "not toml")
    write(tmp_path / "conf.d" / ".#30-c.toml", "not toml")
    text = 'store = "main"\nsafelist = ["192.0.2.1"]\nstate_directory = "/s"\n[app]\nname = "x"\nstore = "memory://"\n'
    found = daemon(tmp_path, text + nginx.format("two", "main") + 'bantime = "1h"\n' + nginx.format("three", "main"))
    assert (found.store, found.state_directory) == ("b", Path("/s"))
    assert found.safelist == (parse_network("192.0.2.2"),)
    jails = {each.jail.name: each for each in found.jails}
    assert {name: each.sources for name, each in jails.items()} == {
        "one": ("/a.log",),
        "two": ("/b.log",),
        "three": ("/main.log",),
    }
    assert (jails["two"].jail.maxretry, jails["two"].jail.bantime) == (2, 600)
    write(tmp_path / "conf.d" / "30-c.toml", '[app]\nname = "y"')
    found_app = app(file=tmp_path / "appguard.toml")
    assert (found_app.name, found_app.store) == ("y", "memory://")


def test_mistake_in_a_drop_in_is_found_there(tmp_path: Path) -> None:
    """The message names the file that has the mistake, not the one it is read with."""
    wrong = write(tmp_path / "conf.d" / "10-a.toml", "[jails.x]\nmaxretries = 5")
    with pytest.raises(ConfigError) as caught:
        daemon(tmp_path, JAIL)
    assert str(caught.value) == f"{wrong}: [jails.x]: unknown key 'maxretries': did you mean 'maxretry'?"


def test_drop_ins_that_cannot_be_listed_are_an_error(tmp_path: Path) -> None:
    """Jails are not left out silently because their directory cannot be read."""
    (tmp_path / "conf.d").symlink_to("conf.d")
    with pytest.raises(ConfigError, match=r"conf\.d: cannot be read: "):
        daemon(tmp_path, JAIL)


def test_passwords_are_not_in_the_repr(tmp_path: Path) -> None:
    """What a traceback with its variables may show has neither the secret nor the password of a store."""
    uri = "redis://me:hidden@h/0"
    app = app_config({"store": uri, "counters": "memcached://me:hidden@h", "secret": "hidden"}, {})
    assert "hidden" not in repr(app)
    assert "hidden" not in repr(daemon(tmp_path, f'store = "{uri}"'))
