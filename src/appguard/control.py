"""The daemon's control API: HTTP/1.1 and JSON on a unix socket, for the CLI and whatever else an administrator writes.

    GET    /v1/status           DaemonStatus
    GET    /v1/jails/{name}     JailStatus
    GET    /v1/bans[?jail=]     {"bans": [BanRecord...]}
    POST   /v1/bans             {"address", "bantime", "jail", "reason", "force"} -> BanRecord
    DELETE /v1/bans/{what}      an address, a network or a ban's ref -> BanRecord
    PUT    /v1/enforce          {"on": bool} -> the same

Every other answer is {"error": "..."}: 400 bad input, 403 not permitted, 404 no such jail or ban, 409 refused for
safety, 413 too long, 500 the daemon's own trouble. Who can connect may read: the socket has mode 0660 and the daemon's
own group. To change anything a peer must be root or in the group `appguard-admin`.
"""

import asyncio
import grp
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from appguard.ban import Ban
from appguard.control_socket import Peer, serve_on
from appguard.errors import AddressError, AppGuardError, ConfigError, RefusedForSafety
from appguard.status import BanRecord, DaemonStatus, JailStatus, JailSummary, RefusedBan, SourceSummary

__all__ = [
    "BanRecord",
    "Controlled",
    "DaemonStatus",
    "JailStatus",
    "JailSummary",
    "RefusedBan",
    "SourceSummary",
    "serve",
]

ADMIN_GROUP = "appguard-admin"
BODY_MOST = 64 * 1024
BANS_PER_PIECE = 500

logger = logging.getLogger(__name__)


class Controlled(Protocol):
    """What the control API needs of the daemon. All is called on the daemon's event loop."""

    def status(self) -> DaemonStatus:
        """Say how the daemon is. Reads memory only."""
        ...

    def jail_status(self, name: str) -> JailStatus | None:
        """Say how one jail is; None if there is no such jail. Reads memory only."""
        ...

    def bans(self) -> Sequence[Ban]:
        """Give the bans in force, in a sequence that does not change afterwards. Reads memory only."""
        ...

    async def ban(self, ban: Ban, *, force: bool) -> Ban:
        """Put a ban in force and give it as kept.

        Raise `RefusedForSafety` (which `force` overrides on this host), `ConfigError` or `AddressError`.
        """
        ...

    async def settled(self) -> str:
        """Enforce what is new now; say why it is not enforced, nothing if it is."""
        ...

    async def unban(self, what: str) -> Ban | None:
        """Lift one ban, named by its address, network or ref; give it, None if there is none. Raise `AddressError`."""
        ...

    async def enforce(self, on: bool) -> None:
        """Begin or stop to enforce bans in the firewall. May be repeated. Raise `FirewallError`."""
        ...


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
    await serve_on(path, _application(controlled, admin_gid))


def _application(controlled: Controlled, admin_gid: Callable[[], int | None]) -> Starlette:
    endpoints = _Endpoints(controlled, admin_gid)
    routes = [
        Route("/v1/status", endpoints.status),
        Route("/v1/jails/{name:path}", endpoints.jail),
        Route("/v1/bans", endpoints.bans),
        Route("/v1/bans", endpoints.ban, methods=["POST"]),
        Route("/v1/bans/{what:path}", endpoints.unban, methods=["DELETE"]),
        Route("/v1/enforce", endpoints.enforce, methods=["PUT"]),
    ]
    return Starlette(routes=routes, exception_handlers=dict.fromkeys(_STATUS_OF, _refusal) | {Exception: _unexpected})


class _BanOrder(msgspec.Struct, forbid_unknown_fields=True):
    address: str
    bantime: float | str = 600
    jail: str = "manual"
    reason: str = ""
    force: bool = False


class _EnforceOrder(msgspec.Struct, forbid_unknown_fields=True):
    on: bool


class _Endpoints:
    """One method per verb: read what is asked, check who asks, ask the daemon, write the answer."""

    def __init__(self, controlled: Controlled, admin_gid: Callable[[], int | None]) -> None:
        self._controlled = controlled
        self._admin_gid = admin_gid

    async def status(self, _request: Request) -> Response:
        """Answer how the daemon is."""
        return _json(self._controlled.status())

    async def jail(self, request: Request) -> Response:
        """Answer how one jail is."""
        name: str = request.path_params["name"]
        found = self._controlled.jail_status(name)
        if found is None:
            names = ", ".join(jail.name for jail in self._controlled.status().jails) or "none"
            raise HTTPException(404, f"no such jail: {name!r} (jails: {names})")
        return _json(found)

    async def bans(self, request: Request) -> Response:
        """Answer which bans are in force, all or one jail's."""
        bans, jail = self._controlled.bans(), request.query_params.get("jail")
        if jail is not None:
            bans = [ban for ban in bans if ban.jail == jail]
        return StreamingResponse(_pieces(bans), media_type="application/json")

    async def ban(self, request: Request) -> Response:
        """Put a ban in force."""
        body = await _body(request)
        peer = self._admin(request)
        order = msgspec.json.decode(body, type=_BanOrder)
        asked = Ban.of(order.address, jail=order.jail, bantime=order.bantime, reason=order.reason)
        logger.info("uid %d asks to ban %s%s", peer.uid, asked.key, " by force" if order.force else "")
        kept = BanRecord.of(await self._controlled.ban(asked, force=order.force))
        return _json(replace(kept, not_enforced=await self._controlled.settled()))

    async def unban(self, request: Request) -> Response:
        """Lift a ban."""
        peer = self._admin(request)
        what: str = request.path_params["what"]
        logger.info("uid %d asks to unban %r", peer.uid, what)
        lifted = await self._controlled.unban(what)
        if lifted is None:
            raise HTTPException(404, f"no such ban: {what!r}")
        return _json(BanRecord.of(lifted))

    async def enforce(self, request: Request) -> Response:
        """Begin or stop to enforce."""
        body = await _body(request)
        peer = self._admin(request)
        order = msgspec.json.decode(body, type=_EnforceOrder)
        logger.info("uid %d asks to turn enforcement %s", peer.uid, "on" if order.on else "off")
        await self._controlled.enforce(order.on)
        return _json(order)

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


async def _pieces(bans: Sequence[Ban]) -> AsyncIterator[bytes]:
    """Write a list of any length a few milliseconds at a time, so that no reader delays a ban."""
    opening = b'{"bans":['
    for begin in range(0, len(bans), BANS_PER_PIECE):
        piece = bans[begin : begin + BANS_PER_PIECE]
        yield opening + b",".join(msgspec.json.encode(BanRecord.of(ban)) for ban in piece)
        opening = b","
        await asyncio.sleep(0)
    yield b"]}" if bans else opening + b"]}"


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
