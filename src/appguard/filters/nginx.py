"""The filter for nginx's `combined` access log (and Apache's, which has the same form).

Where each field ends cannot be forged: for a quote in any value nginx writes `\\x22` and Apache `\\"`, so the first
quote without a backslash opens the request, and the time is what stands right before it, whatever the user name is.
Nor can length hide a failure: what follows the status may be cut off, and a request so long that its status is cut off
counts as refused (nginx itself takes no longer ones by default).

Most lines are of a common request: a request line of three words, no escapes. They are told in brief:
one expression reads many of them at once. Others are left to `match`.
"""

import posixpath
import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from urllib.parse import unquote

from appguard.address import parse_address
from appguard.briefs import Briefs, Told
from appguard.errors import AddressError
from appguard.event import LIMIT_EXCEEDED, LINE_MOST, PROBE, REQUEST, Event, What, kind_of_answer
from appguard.filters.base import columns_of, hosts_in_brief
from appguard.filters.literals import Literals
from appguard.filters.times import seconds_of

TEXT = r'[^"\\]*+(?:\\.[^"\\]*+)*+'  # up to a quote without a backslash; possessive, so the time is linear
LINE = re.compile(
    rf'(?P<address>[0-9A-Fa-f:.]+) - (?P<user_and_time>(?:"")?+{TEXT})"(?P<request>{TEXT})'
    rf'(?:" (?P<status>[0-9]{{3}}) (?:(?:[0-9]+|-) "{TEXT}" "(?P<agent>{TEXT}))?|(?:\\|"[ 0-9]{{0,4}})?\Z)',
    re.DOTALL,
)
PLAIN = r"[!#-\[\]-~]"  # what a quoted value has without escapes, but blanks
PATH = r"[!$->@-\[\]-~]"  # the same up to where a path ends
SHORT = 256  # letters of a path
COMMON = re.compile(
    rf'^(?:([0-9A-Fa-f:.]{{2,45}}+) - ([^ "\\\n]++ \[.{{26}})\] '
    rf'"([A-Z]{{1,16}}+ {PATH}{{1,{SHORT}}}+)(?:[?#]{PLAIN}*+)?+ HTTP/[0-9.]++" ([1-9][0-9]{{2}}) |).*+$',
    re.MULTILINE,
)  # what most lines begin with: address, user and time, method and path, status
UNAUTHORIZED_MOST = 4096  # requests that are remembered: clients choose them, so they are short
TIME_LENGTH = len(" [20/Nov/2026:09:11:02 +0000] ")
NO_USER = "- "
DATE_LENGTH = TIME_LENGTH - len(" [] ")
END_OF_PATH = re.compile("[?#]")
PROBED = (400, 404, 405, 444)
UNAUTHORIZED = 401
TELLING = (UNAUTHORIZED, 403, 429, *PROBED)  # a request with another status tells of nothing by itself


class NginxFilter:
    """Reads `combined` lines: failed logins, refusals, and requests for what is not there, any if a jail asks.

    Where all jails that ask for any request look at some `statuses` only, those are the requests it gives.
    """

    def __init__(self, kinds: Collection[str] = (), name: str = "nginx", statuses: Collection[int] = ()) -> None:
        self.name = name
        self._wanted = Wanted(kinds, statuses)
        self._told: dict[str, Told] = {"": None} | {str(status): () for status in range(100, 1000)} | self._wanted.what
        self._unauthorized = lru_cache(maxsize=UNAUTHORIZED_MOST)(self._read_unauthorized)
        texts = self._wanted.texts('" {} ')
        self.needs = ((Literals(texts),),) if texts else ()

    def match(self, line: bytes, time: float) -> Event | None:
        """Give the event of a line; most lines are of none."""
        found = LINE.match(line.decode(errors="replace"))
        if found is None:
            return None
        client, user_and_time, request, status_text, agent = found.groups()
        status, user = int(status_text or 0), user_and_time[:-TIME_LENGTH]
        kind, rest = KIND_OF.get(status, ""), ""
        if not kind:
            rest = self._wanted.rest(status)
            if not rest and status != UNAUTHORIZED and (status or len(line) < LINE_MOST):
                return None
        method, path = request_of(request)
        if not kind:
            scheme = "" if user == "-" else "basic"
            kind = kind_of_request(status, method, path, scheme) if status else kind_of_cut(method, path, scheme)
            kind = kind or rest
        time_text = user_and_time[-TIME_LENGTH:]
        told = _seconds(time_text[2:-2]) if time_text[:2] == " [" and time_text[-2:] == "] " else None
        if not kind or told is None:
            return None
        try:
            address = parse_address(client)
        except AddressError:
            return None
        user = "" if user in ("-", '""') else user  # Apache writes two quotes for an empty name
        return Event(kind, told, address, 1, "", user, method, path, status, (), "", agent or "")

    def briefs(self, lines: Sequence[bytes], _times: Sequence[float]) -> Briefs:
        """Say what common lines tell, of each; see `TellsBriefly`."""
        hosts, stamps, requests, statuses = columns_of(COMMON, lines)
        told = self._told
        whats = [told[status] for status in statuses]
        for at in [at for at, status in enumerate(statuses) if status == "401"]:
            whats[at] = self._unauthorized(requests[at], stamps[at].startswith(NO_USER))
        seconds = {stamp: _seconds(stamp[-DATE_LENGTH:]) for stamp in set(stamps)}
        times = [seconds[stamp] for stamp in stamps]
        return Briefs.of(whats, hosts_in_brief(hosts), times, requests, [()] * len(lines), lines, path_in)

    def _read_unauthorized(self, request: str, has_no_user: bool) -> Told:
        """Say what a common request tells of that was answered 401."""
        method, scheme = request.partition(" ")[0], "" if has_no_user else "basic"
        return self._wanted.unauthorized(method, path_in(request), scheme) or ()

    def hosts_of(self, lines: Sequence[bytes]) -> Sequence[bytes]:
        """Give the first words."""
        return [line.partition(b" ")[0] for line in lines]


class Wanted:
    """Which requests are given that are nothing else: none, any, or those with some statuses.

    `what` are the kinds of requests that their status alone tells, and any other that is wanted.
    """

    def __init__(self, kinds: Collection[str], statuses: Collection[int]) -> None:
        self._is_any = REQUEST in kinds and not statuses
        self._statuses = frozenset(statuses if REQUEST in kinds else ())
        told = {status: KIND_OF.get(status) or self.rest(status) for status in range(100, 1000)}
        self.what: dict[str, What] = {str(status): (kind, status) for status, kind in told.items() if kind}

    def rest(self, status: int) -> str:
        """Give the kind of a request that is nothing else."""
        return REQUEST if status and (self._is_any or status in self._statuses) else ""

    def unauthorized(self, method: str, path: str, scheme: str) -> What | None:
        """Say what an answer 401 means."""
        kind = kind_of_request(UNAUTHORIZED, method, path, scheme)
        return (kind, UNAUTHORIZED) if kind else self.what.get(str(UNAUTHORIZED))

    def texts(self, form: str) -> frozenset[str]:
        """Give the texts of which a line that tells of something has one, unless it was cut; none if any may."""
        return frozenset() if self._is_any else frozenset(map(form.format, self._statuses.union(TELLING)))


def kind_of_request(status: int, method: str, path: str, scheme: str) -> str:
    """Say which kind of event a request of an access log is; empty for none."""
    if status == 429:
        return LIMIT_EXCEEDED
    if status in PROBED:
        return PROBE
    return kind_of_answer(status, scheme=scheme, method=method, path=path)


KIND_OF = {status: kind_of_request(status, "", "", "") for status in TELLING if status != UNAUTHORIZED}


def path_of(target: str) -> str:
    """Give the path a request's target means to nginx: `/login/.` and `/login#x` are the login."""
    path = END_OF_PATH.split(target, maxsplit=1)[0] if "?" in target or "#" in target else target
    if "%" in path:
        path = unquote(path)
    return posixpath.normpath(path) if "/." in path else path


def path_in(request: str) -> str:
    """Give the path that a common request, its method and target, means."""
    target = request.partition(" ")[2]
    return path_of(target) if "%" in target or "/." in target else target


def kind_of_cut(method: str, path: str, scheme: str) -> str:
    """Say which kind of event a request is whose status was cut off: so long, it counts as refused."""
    return kind_of_request(401, method, path, scheme) or PROBE


def request_of(request: str) -> tuple[str, str]:
    """Give the method and the path of a request line."""
    method, _, rest = request.partition(" ")
    return method, path_of(rest.rpartition(" ")[0] or rest)


@lru_cache(maxsize=1024)
def _seconds(text: str) -> float | None:
    return seconds_of(text, ("clf",), 0.0)
