"""The daemon's control API: HTTP/1.1 and JSON on a unix socket, for the CLI and whatever else an administrator writes.

    GET    /v1/status           DaemonStatus
    GET    /v1/jails/{name}     JailStatus
    GET    /v1/bans[?jail=]     {"bans": [BanRecord...]}
    GET    /v1/bans?follow=[&busy=1] {"cursor", "whole", "enforcing", "facts": [[key, jail or null, end or null]...]}
    POST   /v1/bans             {"address", "bantime", "jail", "reason", "force", "automatic"} -> BanRecord
    POST   /v1/confirm          {"address"} of a ban by force, which else ends within a minute -> BanRecord
    DELETE /v1/bans/{what}      an address, a network or a ban's ref; [?jail=] only this jail's -> BanRecord
    PUT    /v1/enforce          {"on": bool} -> the same
    POST   /v1/explain          {"what", "origin"}, a line or address, and the line's file -> Explanation
    GET    /v1/safelist         {"entries": [SafelistRecord...]}, what was put on it beside the settings
    POST   /v1/safelist         {"address", "for", "reason"} -> {"entry", "lifted": [BanRecord...]}
    DELETE /v1/safelist/{what}  exactly this network -> SafelistRecord
    GET    /v1/events?since=    {"events": [BanEvent...], "cursor"}; of a negative number the last so many; [&wait=1]
                                waits for one if there is none

Every other answer is {"error": "..."}: 400 bad input, 403 not permitted, 404 no such jail or ban, 409 refused for
safety, 413 too long, 429 too many followers of one user, 500 the daemon's own trouble. To follow, ask again and again
with the cursor of the last answer, and without one at first; `following.py` has the rules. A fact without a jail is a
ban lifted. All but followers wait until the bans are back after a restart. Who can connect may read: the socket has
mode 0660 and the daemon's own group. To change anything a peer must be root or in the group `appguard-admin`. To
explain changes nothing.
"""

import asyncio
import grp
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from appguard.address import network_text, parse_network
from appguard.ban import PERMANENT, Ban, parse_duration
from appguard.control_socket import Peer, serve_on
from appguard.controlled import Controlled
from appguard.errors import AddressError, AppGuardError, ConfigError, RefusedForSafety
from appguard.following import WAIT
from appguard.ports import ports_text
from appguard.status import BanRecord, SafelistRecord

ADMIN_GROUP = "appguard-admin"
BODY_MOST = 64 * 1024
RECORDS_PER_PIECE = 500
BRIEFS_PER_PIECE = 5_000  # these take a tenth of the time
FOLLOWERS_PER_USER = 8  # of the connections of one user: the others are for verbs
T = TypeVar("T")
_Endpoint = Callable[[Request], Awaitable[Response]]

logger = logging.getLogger(__name__)


def admin_group_id() -> int | None:
    """Give the id of the group `appguard-admin`, None if this host has no such group."""
    try:
        return grp.getgrnam(ADMIN_GROUP).gr_gid
    except KeyError:
        return None


async def serve(controlled: Controlled, path: Path, *, admin_gid: Callable[[], int | None] = admin_group_id) -> None:
    """Serve the control API until cancelled, then remove the socket file.

    `admin_gid` gives the group whose members may change things. Raise `ConfigError` if the socket cannot be made.
    """
    await serve_on(path, _application(controlled, admin_gid), controlled.following.close)


def _application(controlled: Controlled, admin_gid: Callable[[], int | None]) -> Starlette:
    endpoints = _Endpoints(controlled, admin_gid)
    later = endpoints.when_restored
    routes = [
        Route("/v1/status", later(endpoints.status)),
        Route("/v1/jails/{name:path}", later(endpoints.jail)),
        Route("/v1/bans", endpoints.bans),
        Route("/v1/bans", later(endpoints.ban), methods=["POST"]),
        Route("/v1/bans/{what:path}", later(endpoints.unban), methods=["DELETE"]),
        Route("/v1/confirm", later(endpoints.confirm), methods=["POST"]),
        Route("/v1/enforce", later(endpoints.enforce), methods=["PUT"]),
        Route("/v1/explain", later(endpoints.explain), methods=["POST"]),
        Route("/v1/safelist", later(endpoints.safelist)),
        Route("/v1/safelist", later(endpoints.add_to_safelist), methods=["POST"]),
        Route("/v1/safelist/{what:path}", later(endpoints.remove_from_safelist), methods=["DELETE"]),
        Route("/v1/events", later(endpoints.events)),
    ]
    return Starlette(routes=routes, exception_handlers=dict.fromkeys(_STATUS_OF, _refusal) | {Exception: _unexpected})


class _BanOrder(msgspec.Struct, forbid_unknown_fields=True):
    address: str
    bantime: float | str = 600
    jail: str = "manual"
    reason: str = ""
    force: bool = False
    automatic: bool = False
    ports: list[int | str] = []
    protocol: list[str] = []


class _ConfirmOrder(msgspec.Struct, forbid_unknown_fields=True):
    address: str


class _EnforceOrder(msgspec.Struct, forbid_unknown_fields=True):
    on: bool


class _ExplainOrder(msgspec.Struct, forbid_unknown_fields=True):
    what: str
    origin: str = ""


class _SafelistOrder(msgspec.Struct, forbid_unknown_fields=True):
    address: str
    reason: str
    lasts: float | str = msgspec.field(name="for", default=PERMANENT)


class _Endpoints:
    """One method per verb: read what is asked, check who asks, ask the daemon, write the answer."""

    def __init__(self, controlled: Controlled, admin_gid: Callable[[], int | None]) -> None:
        self._controlled = controlled
        self._admin_gid = admin_gid
        self._followers: Counter[int] = Counter()  # by uid

    def when_restored(self, endpoint: _Endpoint) -> _Endpoint:
        """Give an endpoint that waits until the bans are back after a restart."""

        async def answer(request: Request) -> Response:
            await self._controlled.following.restored.wait()
            return await endpoint(request)

        return answer

    async def status(self, _request: Request) -> Response:
        """Answer how the daemon is."""
        return _json(self._controlled.status())

    async def jail(self, request: Request) -> Response:
        """Answer how one jail is."""
        name: str = request.path_params["name"]
        found = await self._controlled.jail_status(name)
        if found is None:
            names = ", ".join(jail.name for jail in self._controlled.status().jails) or "none"
            raise HTTPException(404, f"no such jail: {name!r} (jails: {names})")
        return _json(found)

    async def bans(self, request: Request) -> Response:
        """Answer which bans are in force, all or one jail's; or what a follower does not know yet."""
        if "follow" in request.query_params:
            return await self._follow(request)
        await self._controlled.following.restored.wait()
        bans, jail = self._controlled.bans(), request.query_params.get("jail")
        if jail is not None:
            bans = [ban for ban in bans if ban.jail == jail]
        records = _pieces(b'{"bans":[', bans, self._controlled.record)
        return StreamingResponse(records, media_type="application/json")

    async def _follow(self, request: Request) -> Response:
        await _body(request)
        peer: Peer = request.state.peer
        with self._place(peer.uid):
            cursor = request.query_params["follow"]
            is_done = "busy" not in request.query_params
            asked = self._controlled.following.news(cursor, peer.pid, is_done=is_done)
            news = await _unless_gone(request, asked)
        head: dict[str, object] = {"cursor": news.cursor, "whole": news.whole, "enforcing": news.enforcing}
        if news.protected is not None:
            head["protected"] = [[(network_text(net), what) for net, what in part] for part in news.protected]
        opening = msgspec.json.encode(head)[:-1] + b',"facts":['
        facts = _pieces(opening, news.facts, lambda brief: brief, BRIEFS_PER_PIECE)
        return StreamingResponse(facts, media_type="application/json")

    @contextmanager
    def _place(self, uid: int) -> Generator[None]:
        """Hold one of a user's places for followers that wait."""
        if self._followers[uid] >= FOLLOWERS_PER_USER:
            raise HTTPException(429, f"uid {uid} has {FOLLOWERS_PER_USER} followers already")
        self._followers[uid] += 1
        try:
            yield
        finally:
            self._followers[uid] -= 1

    async def ban(self, request: Request) -> Response:
        """Put a ban in force."""
        order, peer = await self._order(request, _BanOrder)
        asked = Ban.of(order.address, jail=order.jail, bantime=order.bantime, reason=order.reason)
        asked = replace(asked, automatic=order.automatic, ports=ports_text(order.ports, order.protocol))
        logger.info("uid %d asks to ban %s%s", peer.uid, asked.key, " by force" if order.force else "")
        return await self._kept(await self._controlled.ban(asked, force=order.force))

    async def confirm(self, request: Request) -> Response:
        """Let a ban by force last."""
        order, peer = await self._order(request, _ConfirmOrder)
        logger.info("uid %d confirms the ban of %r", peer.uid, order.address)
        kept = await self._controlled.confirm(order.address)
        if kept is None:
            raise HTTPException(404, f"no ban waits to be confirmed: {order.address!r}")
        return await self._kept(kept)

    async def _kept(self, ban: Ban) -> Response:
        """Answer with a ban just made, when it is enforced, or why it is not."""
        not_enforced = await self._controlled.settled()
        return _json(replace(self._controlled.record(ban), not_enforced=not_enforced))

    async def unban(self, request: Request) -> Response:
        """Lift a ban."""
        peer = self._admin(request)
        what: str = request.path_params["what"]
        logger.info("uid %d asks to unban %r", peer.uid, what)
        lifted = await self._controlled.unban(what, request.query_params.get("jail"))
        if lifted is None:
            raise HTTPException(404, f"no such ban: {what!r}")
        return _json(BanRecord.of(lifted))

    async def enforce(self, request: Request) -> Response:
        """Begin or stop to enforce."""
        order, peer = await self._order(request, _EnforceOrder)
        logger.info("uid %d asks to turn enforcement %s", peer.uid, "on" if order.on else "off")
        await self._controlled.enforce(order.on)
        return _json(order)

    async def explain(self, request: Request) -> Response:
        """Explain a line or an address; whoever may look may ask."""
        order = msgspec.json.decode(await _body(request), type=_ExplainOrder)
        return _json(await self._controlled.explain(order.what, order.origin))

    async def safelist(self, _request: Request) -> Response:
        """Answer what was put on the safelist."""
        return _json({"entries": [SafelistRecord.of(entry) for entry in self._controlled.safelisted()]})

    async def add_to_safelist(self, request: Request) -> Response:
        """Put a network on the safelist."""
        order, peer = await self._order(request, _SafelistOrder)
        network, seconds = parse_network(order.address), parse_duration(order.lasts, "for")
        logger.info("uid %d puts %s on the safelist", peer.uid, network)
        until = None if seconds == PERMANENT else seconds
        entry, lifted = await self._controlled.add_to_safelist(network, until, order.reason)
        await self._controlled.settled()
        return _json({"entry": SafelistRecord.of(entry), "lifted": [BanRecord.of(ban) for ban in lifted]})

    async def remove_from_safelist(self, request: Request) -> Response:
        """Take a network off the safelist."""
        peer = self._admin(request)
        network = parse_network(request.path_params["what"])
        logger.info("uid %d takes %s off the safelist", peer.uid, network)
        removed = await self._controlled.remove_from_safelist(network)
        if removed is None:
            raise HTTPException(404, f"not on the safelist beside the settings: {network_text(network)}")
        return _json(SafelistRecord.of(removed))

    async def events(self, request: Request) -> Response:
        """Answer what became of bans."""
        await _body(request)
        peer: Peer = request.state.peer
        since = request.query_params.get("since", "0")
        if not re.fullmatch(r"-?[0-9]{1,15}", since):
            raise HTTPException(400, f"since = {since!r}: expected the cursor of an event, a number")
        changed = self._controlled.following.changed
        found, newest = await self._controlled.events(int(since))
        if not found and "wait" in request.query_params:
            with self._place(peer.uid):
                await _unless_gone(request, _within(changed, WAIT))
            found, newest = await self._controlled.events(int(since))
        cursor = found[-1].cursor if found else min(int(since), newest) if int(since) >= 0 else newest
        opening = msgspec.json.encode({"cursor": cursor})[:-1] + b',"events":['
        return StreamingResponse(_pieces(opening, found, lambda event: event), media_type="application/json")

    async def _order(self, request: Request, kind: type[T]) -> tuple[T, Peer]:
        """Read what is ordered by somebody who may."""
        body = await _body(request)
        peer = self._admin(request)
        return msgspec.json.decode(body, type=kind), peer

    def _admin(self, request: Request) -> Peer:
        peer: Peer = request.state.peer
        if peer.uid == 0 or self._admin_gid() in peer.groups:
            return peer
        raise HTTPException(403, f"only root and members of the group {ADMIN_GROUP} may do this; uid {peer.uid} is not")


async def _body(request: Request) -> bytes:
    """Read the body, and all of it before any answer: a client still writing would not see a refusal."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_MOST:
            raise HTTPException(413, f"the body is longer than {BODY_MOST} bytes")
    return bytes(body)


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _unless_gone(request: Request, answering: Coroutine[None, None, T]) -> T:
    """Wait for an answer that may take long, but not for a client that is gone; raise `ClientDisconnect` then."""
    answer, gone = asyncio.ensure_future(answering), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return answer.result()
    finally:
        answer.cancel()
        gone.cancel()


async def _within(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def _pieces(
    opening: bytes, items: Sequence[T], record: Callable[[T], object], at_once: int = RECORDS_PER_PIECE
) -> AsyncIterator[bytes]:
    """Write a list of any length a few milliseconds at a time, so that no reader delays a ban."""
    for begin in range(0, len(items), at_once):
        piece = items[begin : begin + at_once]
        yield opening + b",".join(msgspec.json.encode(record(item)) for item in piece)
        opening = b","
        await asyncio.sleep(0)
    yield b"]}" if items else opening + b"]}"


_STATUS_OF: dict[type[Exception], int] = {
    HTTPException: 500,  # carries its own
    ClientDisconnect: 400,  # nobody reads it
    msgspec.MsgspecError: 400,
    UnicodeDecodeError: 400,  # what msgspec raises for a body that is not UTF-8
    AddressError: 400,
    ConfigError: 400,
    RefusedForSafety: 409,
    AppGuardError: 500,
}


async def _refusal(_request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return _json({"error": error.detail}, error.status_code)
    status = next(status for kind, status in _STATUS_OF.items() if isinstance(error, kind))
    if status == 500:
        logger.error("control request failed: %s", error)
    return _json({"error": str(error)}, status)


async def _unexpected(_request: Request, _error: Exception) -> Response:
    return _json({"error": "unexpected error; the daemon's log says which"}, 500)  # uvicorn logs it with its traceback
