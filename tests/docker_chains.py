"""iptables rules as Docker makes them for one published port: its chains, its policy, its address translation.

Written after what `iptables-save` shows on a host with Docker; no Docker is involved. `iptables` is the flavour.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.machine import Machine
from tests.netns import joined, run

BRIDGE, CONTAINER = "10.99.0.1", "10.99.0.2"
PUBLISHED, INSIDE = 8080, 8000  # the port of the host, and of the container
_RULES = f"""
*nat
:PREROUTING ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 10.99.0.0/24 ! -o container -j MASQUERADE
-A DOCKER -i container -j RETURN
-A DOCKER ! -i container -p tcp --dport {PUBLISHED} -j DNAT --to-destination {CONTAINER}:{INSIDE}
COMMIT
*filter
:FORWARD DROP
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:DOCKER-ISOLATION - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION
-A FORWARD -o container -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o container -j DOCKER
-A FORWARD -i container ! -o container -j ACCEPT
-A DOCKER -d {CONTAINER}/32 ! -i container -o container -p tcp --dport {INSIDE} -j ACCEPT
-A DOCKER-USER -j RETURN
-A DOCKER-ISOLATION -j RETURN
COMMIT
"""


@contextmanager
def docker_host(iptables: str) -> Generator[Machine]:
    """Give a container on a link called `container`, its port published by such rules; they go at the end."""
    forward = Path("/proc/sys/net/ipv4/ip_forward")
    forward.write_text("1")
    with joined("container", [f"{BRIDGE}/24"], [f"{CONTAINER}/24"]) as machine:
        machine.run("ip", "route", "add", "default", "via", BRIDGE)
        run(f"{iptables}-restore", "--noflush", text=_RULES)
        try:
            yield machine
        finally:
            run(iptables, "-P", "FORWARD", "ACCEPT")
            for table in ("nat", "filter"):
                run(iptables, "-t", table, "-F")
                run(iptables, "-t", table, "-X")
            forward.write_text("0")
