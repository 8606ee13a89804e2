"""The same small shop on Flask: a page, a login and a private page behind HTTP Basic (Flask-HTTPAuth)."""

import secrets

from flask import Flask, Response, jsonify, request
from flask_httpauth import HTTPBasicAuth  # type: ignore[import-untyped]  # it has no types

from appguard import Limit, report_auth_failure
from appguard.flask import AppGuard

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

app = Flask(__name__)
guard = AppGuard(
    app,
    name="shop",
    limits=["100/second", Limit("60/minute", path="/login", methods=["POST"])],
    trusted_proxies=["127.0.0.1", "::1"],  # the nginx of nginx-site.conf, on this host
)
auth = HTTPBasicAuth()


@app.get("/")
def home() -> str:
    """Show the page with the login form."""
    return PAGE


@app.post("/login")
def login() -> Response | tuple[Response, int]:
    """Log in with a form or with JSON: `user` and `password`."""
    sent = request.get_json(silent=True) if request.is_json else request.form
    user, password = (str((sent or {}).get(field, "")) for field in ("user", "password"))
    if not is_right(user, password):
        report_auth_failure(request, user=user)
        return jsonify(detail="wrong user or password"), 401
    return jsonify(hello=user)


@app.get("/private")
@auth.login_required  # type: ignore[untyped-decorator]
def private() -> Response:
    """Show the private page. A 401 to HTTP Basic credentials is a failed login without being reported."""
    return jsonify(private=str(auth.current_user()))


@auth.verify_password  # type: ignore[untyped-decorator]
def is_right(user: str, password: str) -> bool:
    """Compare a password in constant time, known user or not."""
    return secrets.compare_digest(password.encode(), PASSWORDS.get(user, secrets.token_hex()).encode())
