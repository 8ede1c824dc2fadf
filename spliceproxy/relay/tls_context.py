"""What OpenSSL needs to know before a connection: contexts, from PEM texts.

The supervisor tries by this what workers will use, so that a worker never meets what fails.

OpenSSL reads certificates and keys from files only (SSLContext.load_cert_chain); a memfd is one
that nobody else sees, so that a key is never written anywhere.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from typing import Final

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: forward secrecy and authenticated encryption only (RFC 9325, 4.2). Those of TLS 1.3
are OpenSSL's."""
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CLIENT_CERTIFICATE: Final = {
    "off": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}


def server_context(
    chains: Sequence[str],
    *,
    min_version: str = "1.2",
    alpn: Sequence[str] = (),
    client_ca: str = "",
    client_certificate: str = "off",
) -> ssl.SSLContext:
    """For connections that clients make. `chains` as `load_chain` takes them, of different kinds of
    keys; `client_certificate`: off, optional or required, signed by `client_ca` (PEM).

    Raises ssl.SSLError where something of it is of no use.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[min_version]
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION
    for chain in chains:
        load_chain(context, chain)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if client_ca:
        context.load_verify_locations(cadata=client_ca)
        context.verify_mode = _CLIENT_CERTIFICATE[client_certificate]
    return context


def client_context(
    *, verify: bool = True, ca: str = "", certificate: str = "", alpn: Sequence[str] = ()
) -> ssl.SSLContext:
    """For connections to upstreams. `ca` (PEM): who may have signed their certificates; empty: whom
    this machine trusts. `certificate`, as `load_chain` takes it, is shown to those that ask.

    Raises ssl.SSLError where something of it is of no use.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca:
        context.load_verify_locations(cadata=ca)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if certificate:
        load_chain(context, certificate)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def load_chain(context: ssl.SSLContext, pem: str) -> None:
    """Have a context show a certificate: `pem` is the chain, the own one first, and its key.

    Raises ssl.SSLError: no certificate, no key, another one's, or one that is encrypted.
    """
    fd = os.memfd_create("spliceproxy-certificate", os.MFD_CLOEXEC)
    try:
        with open(fd, "w", closefd=False) as file:
            file.write(pem)
        # A password, as OpenSSL would ask the terminal for one.
        context.load_cert_chain(f"/proc/self/fd/{fd}", password="")
    finally:
        os.close(fd)
