"""Certificates for a server that speaks TLS."""

import subprocess
from pathlib import Path


def make_certificates(directory: Path) -> None:
    """Make an authority, a server's and a client's certificate."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)

    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    may_sign = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]  # Python 3.13 wants that said
    openssl("req", "-x509", *new, *may_sign, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority")
    for name, place in (("server", "IP:127.0.0.1"), ("client", "DNS:client")):
        signing = ["-CA", "ca.crt", "-CAkey", "ca.key", "-addext", f"subjectAltName={place}"]
        signing += ["-addext", "basicConstraints=CA:FALSE", "-addext", "authorityKeyIdentifier=keyid"]
        files = ["-keyout", f"{name}.key", "-out", f"{name}.crt"]
        openssl("req", "-x509", *new, *signing, *files, "-subj", f"/CN={name}")


def tls_options(directory: Path) -> list[str]:
    """Give the options of a Redis server that uses them."""
    files = {"cert": "server.crt", "key": "server.key", "ca-cert": "ca.crt"}
    return [word for option, name in files.items() for word in (f"--tls-{option}-file", str(directory / name))]
