"""What becomes of news of nf_tables that were lost."""

import asyncio
import socket
import time
from collections.abc import Collection

import pytest

from appguard.firewalls import nft_watch
from appguard.firewalls.nft_watch import LOST_APART, Watch


def test_a_loss_soon_after_another_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load overflows what is heard; a loss soon after it is made good too, when a minute has passed."""
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now)
    kernel, ours = socket.socketpair()

    def hear(link: socket.socket, _kinds: Collection[int], _most: int) -> tuple[list[bytes], bool]:
        return [], link.recv(100) != b"lost"

    monkeypatch.setattr(nft_watch, "listen", lambda: ours)
    monkeypatch.setattr(nft_watch, "hear", hear)
    watch = Watch("appguard")

    def is_lost() -> bool:
        return watch.is_lost

    async def scene() -> None:
        nonlocal now
        heard = asyncio.Event()
        with kernel, watch(heard.set):
            kernel.send(b"lost")
            watch.settle()
            assert not is_lost()
            now += 1
            for _ in range(2):
                kernel.send(b"lost")
                await asyncio.wait_for(heard.wait(), 5)
                heard.clear()
            assert not is_lost()
            now += LOST_APART
            assert is_lost()
            kernel.send(b"news")
            watch.settle()
            assert not is_lost()

    asyncio.run(scene())
