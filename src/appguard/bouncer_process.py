"""The bouncer as a process apart: CAP_NET_ADMIN and nothing else, fed by the daemon, which then has no privilege.

It follows the daemon's ban set and keeps the firewall in step. It asks for more only when the firewall has what it was
told, so the daemon knows from its questions how far it is. While the daemon is away the last known bans stay; before
the first answer the firewall is not touched, so bans of an earlier bouncer stay too. Of a long list the firewall is
given everything at once; the bans are made of it afterwards, some at a time, while what is new is asked for.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from appguard.bouncer import Bouncer
from appguard.bouncer_apart import APART
from appguard.config import CONFIG_FILE, DaemonConfig, daemon_config
from appguard.errors import AppGuardError, ConfigError, StoreError
from appguard.firewalls.base import Firewall
from appguard.firewalls.netlink import keeping
from appguard.firewalls.open import kinds_of, open_firewall
from appguard.followed_bans import FollowedBans, ask
from appguard.following import News
from appguard.footing import here_to_stay, settle_memory
from appguard.held import HoldMark
from appguard.judge import Judge, Protections
from appguard.notify import keep_alive, notify, until_signal
from appguard.store_hosts import StoreHosts
from appguard.turns import give_way

RETRY_FIRST, RETRY_MOST = 0.05, 0.5  # seconds between attempts while the daemon is away or the firewall fails
LONG = 0.02  # seconds the firewall may take before what is new does not wait for it
# Seconds a booting host waits for the first bans:
ABSENT_MOST = 2.0  # from a daemon that is not there: systemd makes its directory just before it starts it
READY_MOST = 10.0  # from one that does not answer; that long systemd starts again what fails
ANSWERED_MOST = 20.0  # from one that does

log = logging.getLogger("appguard.bouncer")


class BouncerProcess:
    """Follows the daemon on its control socket and keeps one firewall in step."""

    def __init__(self, config: DaemonConfig, socket: Path) -> None:
        self._socket = socket
        self._bans = FollowedBans()
        proxies, self._protections = config.trusted_proxies.networks, Protections()
        judge = Judge(safelist=config.safelist, proxies=proxies, protections=self._protections)
        mark = HoldMark(socket)
        read_facts = StoreHosts(config.store).facts
        self._bouncer = Bouncer(
            self._bans, _firewall(config.firewall), judge, read_facts=read_facts, is_switched_off=mark.is_set
        )
        self._cursor = ""
        self._complaint = ""
        self._in_step = asyncio.Event()
        self._has_rest = asyncio.Event()

    async def run(self) -> None:
        """Run until cancelled; then the bans stay in the firewall."""
        with keeping():
            await self._run()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keep_alive())
            tasks.create_task(self._follow())
            tasks.create_task(self._enforce())
            tasks.create_task(self._make_rest())
            await self._begin()
            notify("READY=1")

    async def _begin(self) -> None:
        """Wait for the first bans to be in the firewall, as long as it is worth it."""
        began = asyncio.get_running_loop().time()
        patience: tuple[tuple[float, Callable[[], bool]], ...] = (
            (ABSENT_MOST, partial(os.path.isdir, self._socket.parent)),
            (READY_MOST, lambda: not self._complaint),
            (ANSWERED_MOST, lambda: False),
        )
        for most, is_worth_more in patience:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(began + most):
                    await self._in_step.wait()
            if self._in_step.is_set():
                return
            if not is_worth_more():
                break
        log.warning("no bans so far; the host goes on without: %s", self._complaint or "the daemon takes too long")

    async def _enforce(self) -> None:
        """Keep the firewall in step, from the first answer on."""
        await self._in_step.wait()
        log.info("AppGuard bouncer is up: %d bans enforced", self._bouncer.status.enforced)
        await self._bouncer.run()

    async def _follow(self) -> None:
        """Do what the daemon says, again and again; what the firewall did not take is asked for anew."""
        retry, done = RETRY_FIRST, ""
        while True:
            try:
                self._learn(await ask(self._socket, self._cursor))
                await self._enact()
            except AppGuardError as error:
                self._complain(str(error), is_expected=isinstance(error, StoreError) and not self._in_step.is_set())
                self._cursor = done
                await asyncio.sleep(retry)
                retry = min(2 * retry, RETRY_MOST)
                continue
            self._complain("")
            retry, done = RETRY_FIRST, self._cursor
            self._in_step.set()

    def _complain(self, error: str, *, is_expected: bool = False) -> None:
        if error and error != self._complaint:
            level, text = logging.ERROR, "not in step with the daemon, trying again, and what is in force stays: %s"
            if is_expected:  # a daemon that starts at the same time is not there yet
                level, text = logging.INFO, "waiting for the daemon: %s"
            log.log(level, text, error)
        elif self._complaint and not error and self._in_step.is_set():
            log.warning("in step with the daemon again")
        self._complaint = error

    def _learn(self, answer: News) -> None:
        self._cursor = answer.cursor
        self._bans.tell(answer)
        if answer.whole:
            self._bouncer.begin_restore(self._bans.rest)
            self._has_rest.set()
        if answer.protected is not None:
            self._protections.let_in, self._protections.others = answer.protected
        if answer.enforcing:
            self._bouncer.release()
        else:
            self._bouncer.hold()

    async def _enact(self) -> None:
        """Have the firewall agree; where that takes long, go on to learn what is new, which goes with it."""
        settling = asyncio.ensure_future(self._bouncer.settle())
        try:
            await asyncio.wait((settling,), timeout=LONG)
            if not settling.done():
                await self._learn_while(settling)
                await settling
                settling = asyncio.ensure_future(self._bouncer.settle())
            await settling
        finally:
            settling.cancel()

    async def _learn_while(self, settling: asyncio.Future[None]) -> None:
        while not settling.done():
            asking = asyncio.ensure_future(ask(self._socket, self._cursor, is_done=False))
            try:
                await asyncio.wait((settling, asking), return_when=asyncio.FIRST_COMPLETED)
                if not asking.done() or asking.exception():  # which is met again when asked afterwards
                    return
                self._learn(asking.result())
            finally:
                asking.cancel()

    async def _make_rest(self) -> None:
        """Make the bans of whole answers when the firewall has them."""
        while True:
            await self._has_rest.wait()
            self._has_rest.clear()
            with here_to_stay():
                is_made = False
                while not is_made:
                    try:
                        await self._bouncer.settle()
                    except AppGuardError:  # who else has it settle says it
                        await asyncio.sleep(RETRY_MOST)
                        continue
                    is_made = self._bans.take_some()
                    await give_way()
            self._bouncer.end_restore()


def _firewall(settings: Mapping[str, object]) -> Firewall:
    if APART not in kinds_of(settings):
        raise ConfigError(f'[firewall]: the daemon enforces bans itself; for a bouncer apart set kind = "{APART}"')
    return open_firewall("nftables", settings)


def main(path: Path | None = None, socket: Path | None = None) -> int:
    """Run the bouncer until SIGTERM or SIGINT; give the exit code. Raise `AppGuardError` if it cannot start."""
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(message)s", level=logging.INFO)
    config = daemon_config(path or CONFIG_FILE)
    settle_memory()
    process = BouncerProcess(config, socket or config.control_socket)
    try:
        farewell = "AppGuard bouncer stops; bans stay in the firewall until they end"
        asyncio.run(until_signal(process.run(), farewell))
    except* AppGuardError as errors:
        raise errors.exceptions[0] from errors
    return 0
