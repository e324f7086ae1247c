"""A certificate authority of the tests' own, and certificates of it for servers on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from support import needs
from support.peers import run


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, in PEM, and what it is trusted by: an authority, or itself."""

    certificate: Path
    key: Path
    authority: Path


def self_signed(place: Path, name: str = "signer") -> Certificate:
    """A certificate that vouches for itself, with an RSA key: what signs tokens."""
    certificate, key = place / f"{name}.crt", place / f"{name}.key"
    run(
        needs.tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30",
        "-subj", f"/CN={name}", "-keyout", key, "-out", certificate,
    )  # fmt: skip
    return Certificate(certificate, key, certificate)


def for_servers(place: Path, *names: str, authority: str = "ca") -> Certificate:
    """A new authority, and a certificate of it for 127.0.0.1, localhost and ``names``."""
    openssl = needs.tool("openssl")
    root, root_key = place / f"{authority}.crt", place / f"{authority}.key"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    run(
        openssl, "req", "-x509", *curve, "-days", "30", "-subj", f"/CN={authority}",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", root_key, "-out", root,
    )  # fmt: skip
    request, key, certificate = (place / f"{authority}-server.{kind}" for kind in ("csr", "key", "crt"))
    run(openssl, "req", *curve, "-subj", "/CN=registry", "-keyout", key, "-out", request)
    extensions = place / f"{authority}-server.ext"
    alternatives = ",".join(["IP:127.0.0.1", *(f"DNS:{name}" for name in ("localhost", *names))])
    extensions.write_text(f"subjectAltName={alternatives}\nextendedKeyUsage=serverAuth\n")
    run(
        openssl, "x509", "-req", "-in", request, "-CA", root, "-CAkey", root_key, "-CAcreateserial", "-days", "30",
        "-extfile", extensions, "-out", certificate,
    )  # fmt: skip
    return Certificate(certificate, key, root)
