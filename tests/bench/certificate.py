"""The certificate of whoever ends TLS: ECDSA P-256, like most of today, the same for all."""

from __future__ import annotations

from pathlib import Path

import trustme

HOST = "bench.example"


def certificate_files(directory: Path) -> dict[str, str]:
    """Paths below `directory`, made at the first call: CHAIN, KEY, PEM (both), and CA."""
    place = directory / "certificate"
    files = {name: place / f"{name.lower()}.pem" for name in ("CHAIN", "KEY", "PEM", "CA")}
    if not place.exists():
        place.mkdir(parents=True)
        authority = trustme.CA()
        leaf = authority.issue_cert(HOST)  # trustme's own kind of key is ECDSA P-256
        files["CHAIN"].write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        files["KEY"].write_bytes(leaf.private_key_pem.bytes())
        files["PEM"].write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
        files["CA"].write_bytes(authority.cert_pem.bytes())
    return {name: str(path) for name, path in files.items()}
