r"""The filter for nginx's access log as `contrib/nginx/appguard-log.conf` has it written: one JSON object a line.

Theory of operation. The line is not read as any JSON, but as what that `log_format` makes: the same keys in the same
order, first all that nginx itself knows, then what the client chose. nginx writes `\"` for a quote in any value, so the
first quote without a backslash ends it, and nothing a client sends stands where nginx's own words do. A line that was
cut off keeps its time, client and status: length hides no failure. Bytes that are no UTF-8 are replaced. Whatever
follows the known keys is yours. What a request is, `nginx.py` says for both; this log knows more: the scheme of the
credentials, the proxy the client came through, and that `limit_req` refused, whatever the status.
"""

import json
import re
from collections.abc import Collection, Sequence
from functools import lru_cache

from appguard.address import parse_address
from appguard.briefs import NOTHING, UNREAD, Briefs, Row
from appguard.errors import AddressError
from appguard.event import LIMIT_EXCEEDED, LOGIN_FAIL, Event
from appguard.filters.base import columns_of, host_of
from appguard.filters.literals import Literals
from appguard.filters.nginx import PLAIN, TELLING, TEXT, Wanted, kind_of_request, path_of

LINE = re.compile(
    r'\{"time":(?P<time>[0-9]{1,11}\.[0-9]{3}),"client":"(?P<client>[0-9A-Fa-f:.]+)","peer":"(?P<peer>[^"\\]*)",'
    r'"status":"(?P<status>[0-9]{3})","limit_req":"(?P<limit_req>[A-Z_]*)","auth":"(?P<auth>[a-z]*)",'
    r'"request_id":"(?P<request_id>[0-9a-f]*)",'
    rf'"method":"(?P<method>{TEXT})(?:","uri":"(?P<uri>{TEXT})'
    rf'(?P<rest>","user":"(?P<user>{TEXT})(?:","user_agent":"(?P<agent>{TEXT}))?)?)?',
    re.DOTALL,
)
REFUSED = "REJECTED"
COMMON = re.compile(
    rf'^(?:\{{"time":([0-9]{{1,11}}\.[0-9]{{3}}),"client":"([0-9A-Fa-f:.]{{2,45}}+)","peer":"([0-9A-Za-z:.]*+)",'
    r'"status":"([1-9][0-9]{2})","limit_req":"([A-Z_]*+)","auth":"([a-z]*+)",'
    rf'"request_id":"[0-9a-f]*+","method":"([A-Z]*+)","uri":"({PLAIN}*+)","user":")?+.*$',
    re.MULTILINE,
)  # what most lines begin with; see `nginx.py`


class NginxJsonFilter:
    """Reads JSON lines: failed logins and tokens, refusals, requests for what is not there, any if a jail asks."""

    name = "nginx-json"

    def __init__(self, kinds: Collection[str] = (), statuses: Collection[int] = ()) -> None:
        self._wanted = Wanted(kinds, statuses)
        texts = self._wanted.texts('"status":"{}"')
        self.needs = ((Literals(texts | {f'"limit_req":"{REFUSED}"'}),),) if texts else ()

    def match(self, line: bytes, time: float) -> Event | None:
        """Give the event of a line; most lines are of none."""
        found = LINE.match(line.decode(errors="replace"))
        if found is None:
            return None
        status, is_refused = int(found["status"]), found["limit_req"] == REFUSED
        rest = self._wanted.rest(status)
        if not rest and not is_refused and status not in TELLING:
            return None
        method, path = unescaped(found["method"]), path_of(unescaped((found["uri"] or "").partition("?")[0]))
        kind = LIMIT_EXCEEDED if is_refused else kind_of_request(status, method, path, found["auth"])
        if not kind and status == 401 and method == "POST" and _is_path_cut(found):
            kind = LOGIN_FAIL  # of a path so long that its end is not known, as of no honest client
        kind = kind or rest
        if not kind:
            return None
        try:
            address = parse_address(found["client"])
        except AddressError:
            return None
        return Event(
            kind,
            float(found["time"]),
            address,
            user=unescaped(found["user"]),
            method=method,
            path=path,
            status=status,
            via=_via(found["peer"], found["client"]),
            request_id=found["request_id"],
            user_agent=unescaped(found["agent"]),
        )

    def briefs(self, lines: Sequence[bytes], times: Sequence[float]) -> Briefs:
        """Say what common lines tell, of each; see `TellsBriefly`."""
        return Briefs.of_rows(map(self._brief, *columns_of(COMMON, lines)), lines)

    def _brief(self, *row: str) -> Row:
        time, client, peer, status, limit_req, auth, method, uri = row
        if not time:
            return UNREAD
        what, path = self._wanted.what.get(status), path_of(uri)
        if limit_req == REFUSED:
            what = (LIMIT_EXCEEDED, int(status))
        elif status == "401":
            what = self._wanted.unauthorized(method, path, auth)
        return NOTHING if what is None else (what, host_of(client), float(time), path, _via(peer, client))

    def hosts_of(self, lines: Sequence[bytes]) -> Sequence[bytes]:
        """Give what stands where the client does: everything before it is nginx's own."""
        return [b"".join(line.split(b'"', 6)[5:6]) for line in lines]


def _is_path_cut(found: re.Match[str]) -> bool:
    return found["rest"] is None and "?" not in (found["uri"] or "")


def unescaped(text: str | None) -> str:
    """Give what nginx escaped; the text itself where it was cut inside an escape."""
    if not text or "\\" not in text:
        return text or ""
    try:
        plain = str(json.loads(f'"{text}"', strict=False))
    except ValueError:
        return text
    return plain.encode(errors="replace").decode()  # a lone surrogate would break whoever writes it on


def _via(peer: str, client: str) -> tuple[str, ...]:
    """Give the proxy that a request came through: it is not the client then."""
    return () if peer == client else _proxy(peer)


@lru_cache(maxsize=1024)
def _proxy(peer: str) -> tuple[str, ...]:
    try:
        return (parse_address(peer).text,)
    except AddressError:  # a unix socket
        return ()
