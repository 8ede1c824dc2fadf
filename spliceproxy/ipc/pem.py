"""Certificates as both wings give them to OpenSSL, so that what the supervisor tried succeeds in a
worker too."""

from __future__ import annotations

import os
import ssl


def load_chain(context: ssl.SSLContext, pem: str) -> None:
    """Have `context` show the certificate in `pem`, a chain and its key.

    `ssl` reads them from files alone: a memfd is one that nobody else can open, and that is gone
    when it is closed. Raises ssl.SSLError.
    """
    fd = os.memfd_create("spliceproxy-certificate", os.MFD_CLOEXEC)
    try:
        with open(fd, "w", closefd=False) as file:
            file.write(pem)
        # A password, as OpenSSL would ask the terminal for one.
        context.load_cert_chain(f"/proc/self/fd/{fd}", password="")
    finally:
        os.close(fd)
