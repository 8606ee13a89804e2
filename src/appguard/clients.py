"""Clients: who sent a request to an app, and what to say, once, when that cannot be told."""

import logging
from collections.abc import Callable

from appguard.address import Grouping
from appguard.advice import ADVICE, REWRITTEN, SILENT_PROXY
from appguard.config import AppConfig
from appguard.host import read_host_facts
from appguard.proxies import UNKNOWN_HEADER, UNKNOWN_PEER, Client, ClientFinder, Peer

Say = Callable[..., None]  # (what, level, message, *args): logs it once for each `what`


class Clients:
    """The clients of one app."""

    def __init__(self, config: AppConfig, say: Say) -> None:
        self._config = config
        self._say = say
        self.grouping = Grouping()
        self.finder = ClientFinder(config.trusted_proxies, self.grouping)

    def learn_host(self) -> None:
        """Ask this host for its on-link networks, by which addresses are counted; before the first client."""
        self.grouping.learn(read_host_facts().on_link)

    def behind(self, peer: Peer, port: int | None, forwarded: str | None, has_other_header: bool) -> Client:
        """Give the client behind a peer whose forwarding headers are to be looked at.

        `port` 0 is how servers mark a peer they have rewritten; `has_other_header` says that the forwarding header
        that is not configured was sent. A rewritten peer that is itself a trusted proxy is one the server did not know
        of: the walk goes on from it.
        """
        is_rewritten = port == 0 and peer.client.address is not None
        proxies = self._config.trusted_proxies
        if is_rewritten and (proxies.networks or proxies.unix):
            self._say("rewritten", logging.WARNING, REWRITTEN)
        if forwarded is None and has_other_header and peer.is_trusted:
            return Client(None, unknown=UNKNOWN_HEADER, evidence=str(peer.client.address))
        return self.finder.behind(peer, forwarded, is_rewritten=is_rewritten and not peer.is_trusted)

    def explain(self, client: Client) -> None:
        """Say once, for each way a client can be unknown, which line to add."""
        is_silent = client.unknown == UNKNOWN_PEER and not client.evidence and self._config.trusted_proxies.unix
        why = SILENT_PROXY if is_silent else client.unknown
        level = logging.INFO if client.evidence == "testclient" else logging.ERROR
        header = self._config.forwarding_header
        other = "forwarded" if header == "x-forwarded-for" else "x-forwarded-for"
        self._say(why, level, ADVICE[why], {"evidence": client.evidence, "header": header, "other": other})
