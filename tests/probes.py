"""When does the kernel begin to drop a client's packets? Answered by a stream of small packets from it.

A thread sends numbered UDP packets from the client to the server, one every `EVERY` seconds, and notes when; another
notes the highest number that arrived. The first packet after which none arrives is the first dropped one; its time is
when it was sent, so the answer is late by at most the time between two packets (`spacing`), and never early.
"""

import socket
import statistics
import struct
import threading
from itertools import pairwise
from time import monotonic, sleep
from types import TracebackType
from typing import Self

from tests.lab import wait_until
from tests.machine import Machine

EVERY = 0.0001
QUIET = 500  # packets in a row that must not arrive
NUMBER = struct.Struct("!Q")


class Probes:
    """A stream of packets from `source` on the client to `target` on the server. Use it as a context.

    `behind` is the server's own address where `target` is another machine's that is translated to it, ports kept.
    """

    def __init__(self, client: Machine, source: str, server: Machine, target: str, behind: str = "") -> None:
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        with server:
            self._receiver = socket.socket(family, socket.SOCK_DGRAM)
        self._receiver.bind((behind or target, 0))
        self._receiver.settimeout(0.05)
        with client:
            self._sender = socket.socket(family, socket.SOCK_DGRAM)
        self._sender.bind((source, 0))
        self._sender.connect((target, self._receiver.getsockname()[1]))
        self._sent: list[float] = []
        self._arrived = -1
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]

    def _send(self) -> None:
        while not self._ended.is_set():
            number = len(self._sent)
            self._sent.append(monotonic())
            self._sender.send(NUMBER.pack(number))
            sleep(EVERY)

    def _receive(self) -> None:
        while not self._ended.is_set():
            try:
                data = self._receiver.recv(NUMBER.size)
            except TimeoutError:
                continue
            self._arrived = max(self._arrived, NUMBER.unpack(data)[0])

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        wait_until(lambda: self._arrived >= 0, 5, "probes arrive")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._sender.close()
        self._receiver.close()

    def first_dropped(self, deadline: float) -> float:
        """Wait until packets are dropped and give the monotonic time the first one was sent."""
        wait_until(lambda: len(self._sent) > self._arrived + 1 + QUIET, deadline, "the kernel drops the probes")
        return self._sent[self._arrived + 1]

    def spacing(self) -> float:
        """Give the median time between two packets."""
        sent = self._sent[-5000:]
        return statistics.median(later - earlier for earlier, later in pairwise(sent))
