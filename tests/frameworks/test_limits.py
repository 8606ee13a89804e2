"""Limits stand before routing: what is counted, what is not, and under whose key."""

from collections.abc import Sequence

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount

from appguard import AppGuard, Limit
from appguard.config import AppOptions
from tests.frameworks.asgi_client import ALICE, MALLORY, Caller


def shop(**options: object) -> FastAPI:
    """Give an app with pages, an included router with a parameter, a mounted app and a websocket."""
    app = FastAPI(root_path=str(options.pop("root_path", "")))
    router = APIRouter(prefix="/books")

    @router.get("/{number}")
    async def book(number: int) -> int:  # pyright: ignore[reportUnusedFunction]
        return number

    @app.api_route("/login", methods=["GET", "POST"])
    async def login() -> str:  # pyright: ignore[reportUnusedFunction]
        return "in"

    @app.websocket("/live")
    async def live(socket: WebSocket) -> None:  # pyright: ignore[reportUnusedFunction]
        await socket.accept()
        await socket.close()

    sub = FastAPI()
    sub.get("/page")(login)
    app.include_router(router)
    app.mount("/sub", sub)
    typed: AppOptions = {**options}  # type: ignore[typeddict-item]  # pyright: ignore
    app.add_middleware(AppGuard, **typed)
    return app
