"""What a service and systemd say to each other: ready, stopping, still alive; and how SIGTERM ends it.

The protocol is sd_notify(3): datagrams to the socket named in NOTIFY_SOCKET. Where nobody asks, nothing is sent. The
sign of life is sent by the event loop itself, so a loop that is stuck stops sending it and is killed and started anew.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable

SECONDS_MOST = 0.5  # to wait for room when systemd is behind
SIGNS_PER_PERIOD = 3  # signs of life in the time after which systemd takes the service for dead

log = logging.getLogger("appguard")


def notify(state: str) -> None:
    """Tell systemd, for example `READY=1`."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(SECONDS_MOST)
        try:
            sender.sendto(state.encode(), "\0" + path[1:] if path[0] == "@" else path)
        except OSError as error:
            log.warning("systemd cannot be told %s: %s", state, error)


async def keep_alive() -> None:
    """Send signs of life until cancelled, if systemd watches this process (WATCHDOG_USEC)."""
    period = os.environ.get("WATCHDOG_USEC", "")
    if not period.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(int(period) / 1_000_000 / SIGNS_PER_PERIOD)


async def until_signal(running: Awaitable[None], farewell: str) -> None:
    """Run until it ends or SIGTERM or SIGINT comes, which cancels it; then log the farewell."""
    task = asyncio.ensure_future(running)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        notify("STOPPING=1")
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        log.info(farewell)
