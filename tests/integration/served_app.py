"""An app for a real server. The environment variable SETTINGS holds the options of its AppGuard as JSON."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from starlette.responses import PlainTextResponse, StreamingResponse

from appguard import AppGuard, report_auth_failure


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[dict[str, asyncio.Event]]:
    """Keep what a stream waits for in the state."""
    yield {"may_end": asyncio.Event()}


app = FastAPI(lifespan=lifespan)
app.add_middleware(AppGuard, **json.loads(os.environ["SETTINGS"]))


@app.api_route("/", methods=["GET", "HEAD", "POST"])
async def page() -> PlainTextResponse:
    """Answer a page."""
    return PlainTextResponse("page")


@app.get("/login")
async def login(request: Request) -> PlainTextResponse:
    """Report a failed login."""
    report_auth_failure(request, user="alice")
    return PlainTextResponse("no", 401)


@app.get("/basic")
async def basic(credentials: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> PlainTextResponse:
    """Refuse whoever comes."""
    return PlainTextResponse(f"not {len(credentials.username)}", 401)


@app.get("/stream")
async def stream(request: Request) -> StreamingResponse:
    """Send one chunk, and the other when `/end` was asked for."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"one\n"
        await request.state.may_end.wait()
        yield b"two\n"

    return StreamingResponse(chunks())


@app.get("/end")
async def end(request: Request) -> PlainTextResponse:
    """Let the streams end."""
    request.state.may_end.set()
    return PlainTextResponse("ended")
