"""Certificates for tests: issued by an authority of the test, or made by the openssl command."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import trustme


@functools.cache
def authority() -> trustme.CA:
    """One authority for all tests of a process."""
    return trustme.CA()


def chain_of(issued: trustme.LeafCert) -> bytes:
    """The certificate and what is between it and its root."""
    return b"".join(blob.bytes() for blob in issued.cert_chain_pems)


def key_of(issued: trustme.LeafCert) -> bytes:
    """Its private key."""
    return issued.private_key_pem.bytes()


def write_pem(path: Path, *names: str) -> trustme.LeafCert:
    """A certificate for `names` and its key in one file."""
    issued = authority().issue_cert(*names)
    path.write_bytes(chain_of(issued) + key_of(issued))
    return issued


def openssl(*arguments: str | Path, input: bytes = b"") -> bytes:
    """What the openssl command prints."""
    command = ["openssl", *map(str, arguments)]
    return subprocess.run(command, input=input, capture_output=True, check=True).stdout


def self_signed(directory: Path, stem: str, *options: str) -> tuple[Path, Path]:
    """A certificate that `openssl req -x509` makes with these options, and its key."""
    chain, key = directory / f"{stem}.crt", directory / f"{stem}.key"
    openssl("req", "-x509", "-noenc", "-keyout", key, "-out", chain, *options)
    return chain, key
