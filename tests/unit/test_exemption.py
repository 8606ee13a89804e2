"""Exemption: real functions and a real HTTP server, good, wrong, slow and hanging."""

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from appguard.errors import ConfigError
from appguard.exemption import ANSWERS_MOST, REMEMBERED, THREADS_MOST, Exemption, NoAnswer, check_of
from tests.threads import no_more_threads

LET_OFF, NOT_LET_OFF, SLOW, BROKEN, ELSEWHERE = (
    "203.0.113.1",
    "203.0.113.2",
    "203.0.113.3",
    "203.0.113.4",
    "2001:db8::/64",
)


class Customers(BaseHTTPRequestHandler):
    """Answers what its server's `asked` says of the address at the end of the path."""

    def do_GET(self) -> None:
        """Answer by address: 204, 404, after a second, 500, and a redirect to who is let off."""
        address = self.path.rpartition("=")[2]
        status = {LET_OFF: 204, NOT_LET_OFF: 404, BROKEN: 500, "2001%3Adb8%3A%3A%2F64": 302}.get(address, 200)
        if address == SLOW:
            RELEASE.wait(10)
        self.send_response(status)
        self.send_header("Location", f"/?ip={LET_OFF}")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


RELEASE = threading.Event()


@pytest.fixture
def url() -> Iterator[str]:
    """Serve, and give the URL to check."""
    RELEASE.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Customers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/check?ip={{address}}"
        RELEASE.set()
        server.shutdown()
        thread.join()


async def answers(exemption: Exemption, *addresses: str) -> list[bool | str]:
    """Ask about all at once; of no answer give the reason."""

    async def one(address: str) -> bool | str:
        try:
            return await exemption.ask(address)
        except NoAnswer as error:
            return str(error)

    return await asyncio.gather(*map(one, addresses))


def test_url_answers_by_its_status(url: str) -> None:
    """204 lets off, 404 does not; an error, a redirect and silence are no answers and are told."""

    async def main() -> None:
        exemption = Exemption(check_of(url), wait_most=1.0)
        found = await answers(exemption, LET_OFF, NOT_LET_OFF, BROKEN, ELSEWHERE, SLOW)
        assert found == [
            True, False, "HTTPException: the check answers 500", "HTTPException: the check answers 302",
            "no answer within 1 s",
        ]  # fmt: skip

    asyncio.run(main())


def test_nobody_listening_is_no_answer(url: str) -> None:
    """A check that is down lets nobody off."""

    async def main() -> None:
        (found,) = await answers(Exemption(check_of("http://127.0.0.1:1/{address}")), LET_OFF)
        assert "ConnectionRefusedError" in str(found)

    asyncio.run(main())


def test_answers_are_remembered_for_a_while_and_failures_are_not() -> None:
    """The same address is asked about once in five minutes; after a failure it is asked about again."""
    asked: list[str] = []
    now = [0.0]

    def check(address: str) -> bool:
        asked.append(address)
        if address == BROKEN:
            raise RuntimeError("no database")
        return address == LET_OFF

    async def main() -> None:
        exemption = Exemption(check, lambda: now[0])
        for _ in range(2):
            assert await answers(exemption, LET_OFF, NOT_LET_OFF, BROKEN) == [True, False, "RuntimeError: no database"]
        assert sorted(asked) == sorted([LET_OFF, NOT_LET_OFF, BROKEN, BROKEN])
        assert (exemption.remembered(LET_OFF), exemption.remembered(BROKEN)) == (True, None)
        now[0] += REMEMBERED
        assert exemption.remembered(LET_OFF) is None
        for number in range(ANSWERS_MOST):
            exemption._remember(f"10.0.{number >> 8}.{number & 255}", answer=False)  # pyright: ignore[reportPrivateUsage]
        await exemption.ask(LET_OFF)
        assert exemption.remembered("10.0.0.0") is None
        assert exemption.remembered("10.0.0.1") is False

    asyncio.run(main())


def test_checks_that_hang_hold_up_nobody_for_longer_than_the_wait() -> None:
    """With every thread hanging, another address has its no in time; when one ends, the next check runs."""
    hung = threading.Event()
    running: list[str] = []

    def check(address: str) -> bool:
        running.append(address)
        return hung.wait(30)

    async def main() -> None:
        exemption = Exemption(check, wait_most=0.3)
        begin = asyncio.get_running_loop().time()
        found = await answers(exemption, *(f"203.0.113.{n}" for n in range(THREADS_MOST + 3)))
        assert set(found) == {"no answer within 0.3 s"}
        assert asyncio.get_running_loop().time() - begin < 5
        assert len(running) == THREADS_MOST
        hung.set()
        patient = Exemption(check, wait_most=10)
        assert await patient.ask(LET_OFF) is True
        async with asyncio.timeout(10):
            while await answers(exemption, LET_OFF) != [True]:
                pass

    asyncio.run(main())


def test_without_a_thread_to_spare_there_is_no_answer() -> None:
    """Where the system refuses another thread nobody is let off; with threads again all of them answer."""

    async def main() -> None:
        exemption = Exemption(lambda address: True)
        with no_more_threads():
            asked = await answers(exemption, *(f"10.0.0.{number}" for number in range(2 * THREADS_MOST)))
        assert asked == ["can't start new thread"] * 2 * THREADS_MOST
        assert await answers(exemption, LET_OFF) == [True]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("no.such.module:function", "ModuleNotFoundError"),
        ("os.path:no_such_function", "AttributeError"),
        ("os.path:sep", "that is no function"),
    ],
)
def test_function_that_is_not_there_is_told_at_the_start(target: str, complaint: str) -> None:
    """A name that leads nowhere is an error of the settings."""
    with pytest.raises(ConfigError, match=complaint):
        check_of(target)


def test_function_is_found_by_name() -> None:
    """`package.module:function` is called with the address."""
    assert check_of("ipaddress:ip_address")(LET_OFF)
