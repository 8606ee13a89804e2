"""A small shop: a page, a login and a private page behind HTTP Basic, guarded by AppGuard."""

import secrets
from collections.abc import Mapping
from typing import Annotated, cast

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from appguard import AppGuard, Limit, report_auth_failure

PASSWORDS = {"alice": "wonderland"}
PAGE = """<!doctype html>
<title>The shop</title>
<h1>The shop</h1>
<form method="post" action="/login">
  <label>User <input name="user"></label> <label>Password <input name="password" type="password"></label>
  <button>Log in</button>
</form>
<p><a href="/private">Private page</a></p>
"""

app = FastAPI(title="The shop")
app.add_middleware(
    AppGuard,
    name="shop",
    limits=["100/second", Limit("60/minute", path="/login", methods=["POST"])],
    trusted_proxies=["127.0.0.1", "::1"],  # the nginx of nginx-site.conf, on this host
)


@app.get("/", response_class=HTMLResponse)
def home() -> str:
    """Show the page with the login form."""
    return PAGE


@app.post("/login")
async def login(request: Request) -> dict[str, str]:
    """Log in with a form or with JSON: `user` and `password`."""
    user, password = await credentials(request)
    if not is_right(user, password):
        report_auth_failure(request, user=user)
        raise HTTPException(401, "wrong user or password")
    return {"hello": user}


@app.get("/private")
def private(basic: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> dict[str, str]:
    """Show the private page. A 401 to HTTP Basic credentials is a failed login without being reported."""
    if not is_right(basic.username, basic.password):
        raise HTTPException(401, "wrong user or password", {"WWW-Authenticate": "Basic"})
    return {"private": basic.username}


async def credentials(request: Request) -> tuple[str, str]:
    """Give the user and the password of a login, whichever way it was sent."""
    try:
        is_json = request.headers.get("content-type", "").startswith("application/json")
        sent: object = await request.json() if is_json else await request.form()
    except ValueError as error:
        raise HTTPException(400, "not valid JSON") from error
    if not isinstance(sent, Mapping):
        raise HTTPException(400, "expected user and password")
    fields = cast("Mapping[str, object]", sent)
    return str(fields.get("user", "")), str(fields.get("password", ""))


def is_right(user: str, password: str) -> bool:
    """Compare a password in constant time, known user or not."""
    return secrets.compare_digest(password.encode(), PASSWORDS.get(user, secrets.token_hex()).encode())
