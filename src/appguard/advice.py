"""What to do when an app's clients cannot be told apart: for each way, the line to add."""

from appguard.address import UNKNOWN_HEADER, UNKNOWN_HOP, UNKNOWN_PEER, UNKNOWN_PROXY

SILENT_PROXY = "silent"
NGINX_LINE = "`proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;`"
ADVICE = {
    UNKNOWN_PEER: (
        "the server gives no client address (peer %(evidence)r), so this app's clients cannot be told apart: if a "
        'proxy talks to it over a unix socket, add trusted_proxies=["unix:"]'
    ),
    UNKNOWN_PROXY: (
        "%(evidence)s sends forwarding headers but is not trusted, so this app's clients cannot be told apart: if it "
        'is your proxy, add trusted_proxies=["%(evidence)s"]'
    ),
    UNKNOWN_HOP: (
        "a trusted proxy forwards %(evidence)r, which is no address: let it send the client's address alone, in nginx "
        f"for example by {NGINX_LINE}"
    ),
    UNKNOWN_HEADER: (
        "%(evidence)s sends another forwarding header than %(header)s, so this app's clients cannot be told apart: "
        "add forwarding_header=%(other)r"
    ),
    SILENT_PROXY: (
        "the proxy at the unix socket sends no %(header)s header, so this app's clients cannot be told apart: let it "
        f"send one, in nginx for example by {NGINX_LINE}"
    ),
}
