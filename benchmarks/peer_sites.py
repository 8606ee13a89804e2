"""One site behind one rate limiter, called in this process: a child of `peers.py`.

    python -m benchmarks.peer_sites fastapi slowapi memory:// 1000/minute

It says "ready" when the site is built. For each number on a line of standard input it then makes so many requests, one
after another, and answers with the processor seconds they took and the status of the last.
"""

# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-call, misc, no-any-return, untyped-decorator"

import asyncio
import io
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import PlainTextResponse
from flask import Flask

from benchmarks.peer_django import django_appguard, django_bare, django_ratelimit, login_appguard, login_axes
from benchmarks.peer_limit import Build, event_log, is_redis, parts

CLIENT = "203.0.113.5"
Calls = Callable[[int], int]
"""Makes so many requests and gives the status of the last."""

# FastAPI


def page(*dependencies: Any) -> FastAPI:
    """Give the site that FastAPI's limiters are put before."""
    app = FastAPI()

    async def hello() -> PlainTextResponse:
        return PlainTextResponse("hello")

    app.add_api_route("/", hello, dependencies=[Depends(dependency) for dependency in dependencies])
    return app


def fastapi_bare(_store: str, _limit: str) -> FastAPI:
    """No limiter."""
    return page()


def fastapi_appguard(store: str, limit: str) -> FastAPI:
    """AppGuard with its header fields."""
    from appguard import AppGuard

    app = page()
    app.add_middleware(AppGuard, name="peers", limits=[limit], store=store, event_log=event_log())
    return app


def slowapi(middleware: str) -> Build:
    """Slowapi with header fields, by one of its two middlewares."""

    def build(store: str, limit: str) -> FastAPI:
        import slowapi.middleware
        from slowapi import Limiter, _rate_limit_exceeded_handler
        from slowapi.errors import RateLimitExceeded
        from slowapi.util import get_remote_address

        app = page()
        app.state.limiter = Limiter(get_remote_address, default_limits=[limit], storage_uri=store, headers_enabled=True)
        app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)
        app.add_middleware(getattr(slowapi.middleware, middleware))
        return app

    return build


def fastapi_guard(detection: bool) -> Build:
    """Fastapi-guard, with or without its search for attacks in the request."""

    def build(store: str, limit: str) -> FastAPI:
        from guard import SecurityConfig, SecurityMiddleware

        amount, window = parts(limit)
        redis = {"redis_url": store} if is_redis(store) else {}
        config = SecurityConfig(
            enable_redis=is_redis(store),
            rate_limit=amount,
            rate_limit_window=window,
            enable_penetration_detection=detection,
            auto_ban_threshold=10**9,
            **redis,
        )
        app = page()
        app.add_middleware(SecurityMiddleware, config=config)
        return app

    return build


def fastapi_limiter(store: str, limit: str) -> FastAPI:
    """Fastapi-limiter, which is a dependency."""
    from fastapi_limiter.depends import RateLimiter
    from pyrate_limiter import InMemoryBucket, Limiter, Rate, RedisBucket

    amount, window = parts(limit)
    rates = [Rate(amount, window * 1000)]
    if not is_redis(store):
        return page(RateLimiter(limiter=Limiter(InMemoryBucket(rates))))
    made: list[Any] = []

    async def limited(request: Request, response: PlainTextResponse) -> None:
        if not made:
            from redis.asyncio import Redis

            bucket = await RedisBucket.init(rates, Redis.from_url(store), "peers")
            made.append(RateLimiter(limiter=Limiter(bucket)))
        await made[0](request, response)

    limited.__annotations__["response"] = __import__("fastapi").Response
    return page(limited)


def fastapi_throttled(store: str, limit: str) -> FastAPI:
    """Throttled-py by its decorator, GCRA, with header fields."""
    from throttled.asyncio.contrib import fastapi
    from throttled.asyncio.contrib.fastapi.key_funcs import get_remote_address
    from throttled.asyncio.contrib.fastapi.limiter import Limiter
    from throttled.asyncio.store import MemoryStore, RedisStore

    amount, window = parts(limit)
    keeps = RedisStore(server=store) if is_redis(store) else MemoryStore()
    unit = {60: "m", 86_400: "d"}[window]
    limiter = Limiter(f"{amount}/{unit}", store=keeps, using="gcra", key_func=get_remote_address)
    app = FastAPI()

    @app.get("/")
    @limiter.limit()
    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    app.add_exception_handler(fastapi.RateLimitExceededError, fastapi.rate_limit_exceeded_handler)
    app.add_middleware(fastapi.RateLimitMiddleware)
    return app


def asgi_calls(app: Any) -> Calls:
    """Call an ASGI app, with one event loop for all calls."""
    loop = asyncio.new_event_loop()
    status = 0

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    async def request(times: int) -> None:
        for _ in range(times):
            asked = False

            async def receive() -> dict[str, object]:
                nonlocal asked
                if asked:
                    await asyncio.sleep(3600)
                asked = True
                return {"type": "http.request", "body": b"", "more_body": False}

            scope = {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "http_version": "1.1",
                "method": "GET",
                "scheme": "http",
                "path": "/",
                "raw_path": b"/",
                "query_string": b"",
                "root_path": "",
                "headers": [(b"host", b"shop.example"), (b"user-agent", b"peers"), (b"accept", b"*/*")],
                "client": (CLIENT, 4711),
                "server": ("127.0.0.1", 8000),
            }
            await app(scope, receive, send)

    def calls(times: int) -> int:
        loop.run_until_complete(request(times))
        return status

    return calls


# Flask


def hello_flask() -> Flask:
    """Give the site that Flask's limiters are put before."""
    app = Flask("peers")
    app.add_url_rule("/", view_func=lambda: "hello", endpoint="hello")
    return app


def flask_bare(_store: str, _limit: str) -> Any:
    """No limiter."""
    return hello_flask()


def flask_appguard(store: str, limit: str) -> Any:
    """AppGuard with its header fields."""
    from appguard.flask import AppGuard

    app = hello_flask()
    AppGuard(app, name="peers", limits=[limit], store=store, event_log=event_log())
    return app


def flask_limiter(strategy: str) -> Build:
    """Flask-Limiter with header fields."""

    def build(store: str, limit: str) -> Any:
        from flask_limiter import Limiter
        from flask_limiter.util import get_remote_address

        app = hello_flask()
        Limiter(
            get_remote_address,
            app=app,
            default_limits=[limit],
            storage_uri=store,
            strategy=strategy,
            headers_enabled=True,
            key_prefix=strategy,  # or two strategies fail over the same key
        )
        return app

    return build


def wsgi_calls(app: Any, method: str = "GET", path: str = "/", body: bytes = b"") -> Calls:
    """Call a WSGI app."""
    status = ""

    def start_response(line: str, _headers: object, _exc_info: object = None) -> Callable[[bytes], object]:
        nonlocal status
        status = line
        return len

    def calls(times: int) -> int:
        for _ in range(times):
            environ = {
                "REQUEST_METHOD": method,
                "SCRIPT_NAME": "",
                "PATH_INFO": path,
                "QUERY_STRING": "",
                "SERVER_NAME": "127.0.0.1",
                "SERVER_PORT": "8000",
                "SERVER_PROTOCOL": "HTTP/1.1",
                "HTTP_HOST": "shop.example",
                "HTTP_USER_AGENT": "peers",
                "REMOTE_ADDR": CLIENT,
                "CONTENT_TYPE": "application/x-www-form-urlencoded",
                "CONTENT_LENGTH": str(len(body)),
                "wsgi.version": (1, 0),
                "wsgi.url_scheme": "http",
                "wsgi.input": io.BytesIO(body),
                "wsgi.errors": sys.stderr,
                "wsgi.multithread": False,
                "wsgi.multiprocess": False,
                "wsgi.run_once": False,
            }
            answer = app(environ, start_response)
            for _part in answer:
                pass
            if hasattr(answer, "close"):
                answer.close()
        return int(status[:3])

    return calls


def login_calls(app: Any) -> Calls:
    """Try a wrong password."""
    return wsgi_calls(app, "POST", "/login", b"username=jim&password=wrong")


CALLS: dict[str, Callable[[Any], Calls]] = {
    "fastapi": asgi_calls,
    "flask": wsgi_calls,
    "django": wsgi_calls,
    "django login": login_calls,
}

SITES: dict[str, dict[str, Build]] = {
    "fastapi": {
        "bare": fastapi_bare,
        "AppGuard": fastapi_appguard,
        "slowapi (ASGI)": slowapi("SlowAPIASGIMiddleware"),
        "slowapi": slowapi("SlowAPIMiddleware"),
        "fastapi-limiter": fastapi_limiter,
        "throttled-py": fastapi_throttled,
        "fastapi-guard, no detection": fastapi_guard(False),
        "fastapi-guard": fastapi_guard(True),
    },
    "flask": {
        "bare": flask_bare,
        "AppGuard": flask_appguard,
        "Flask-Limiter": flask_limiter("fixed-window"),
        "Flask-Limiter, moving window": flask_limiter("moving-window"),
    },
    "django": {"bare": django_bare, "AppGuard": django_appguard, "django-ratelimit": django_ratelimit},
    "django login": {
        "bare": django_bare,
        "AppGuard": login_appguard,
        "django-axes (cache)": login_axes("axes.handlers.cache.AxesCacheHandler"),
        "django-axes (database)": login_axes("axes.handlers.database.AxesDatabaseHandler"),
    },
}


def main() -> None:
    """Build the site and make requests as asked."""
    framework, name, store, limit = sys.argv[1:]
    logging.disable()
    calls = CALLS[framework](SITES[framework][name](store, limit))
    print("ready", flush=True)
    for line in sys.stdin:
        begun = time.process_time()
        status = calls(int(line))
        print(time.process_time() - begun, status, flush=True)


if __name__ == "__main__":
    main()
