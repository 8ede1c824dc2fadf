"""Real PostgreSQL servers, which root must start as somebody else, and a Kerberos ticket of nobody.

The ticket is what libpq looks for before it asks for encryption by GSSAPI; it opens no door.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from harness.ports import free_port
from real_programs import program

_SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
port = {port}
cluster_name = '{name}'
fsync = off
ssl = {ssl}
ssl_cert_file = 'server.pem'
ssl_key_file = 'server.key'
"""


def need_postgres(name: str) -> str:
    """The path of one of PostgreSQL's programs, which are not in PATH; else the test is skipped."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if not found:
        pytest.skip(f"{name} of PostgreSQL is not installed")
    return str(found[-1])


def _as_user() -> list[str]:
    """What goes before a command that refuses to be root's."""
    return ["setpriv", "--reuid=nobody", "--clear-groups"] if os.geteuid() == 0 else []


class Cluster:
    """A directory in which servers live: made once, copied for each."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._template = directory / "template"
        command = [need_postgres("initdb"), "-N", "-A", "trust", "-U", "me", "-D", self._template]
        self._own(directory)
        subprocess.run([*_as_user(), *command], check=True, capture_output=True, cwd=directory)

    @contextmanager
    def server(self, name: str, certificate: trustme.LeafCert | None) -> Iterator[str]:
        """A server whose `cluster_name` is `name`; its address. Without a certificate: no TLS."""
        port = free_port("v4")
        data = self.directory / name
        shutil.copytree(self._template, data)
        if certificate is not None:
            chain, key = data / "server.pem", data / "server.key"
            certificate.cert_chain_pems[0].write_to_path(chain)
            certificate.private_key_pem.write_to_path(key)
            key.chmod(0o600)
        settings = _SETTINGS.format(port=port, name=name, ssl="on" if certificate else "off")
        with (data / "postgresql.conf").open("a") as conf:
            conf.write(settings)
        self._own(data)
        command = [*_as_user(), need_postgres("postgres"), "-D", data]
        with program(command, self.directory / f"{name}.log", ("127.0.0.1", port)):
            yield f"127.0.0.1:{port}"

    def _own(self, top: Path) -> None:
        if os.geteuid() == 0:
            for path in (top, *top.rglob("*")):
                shutil.chown(path, "nobody")


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster of no server yet, in a directory that others than root may enter."""
    need_postgres("initdb")
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        Path(name).chmod(0o755)
        yield Cluster(Path(name))


def ticket(directory: Path) -> dict[str, str]:
    """The environment of a libpq that believes to have a Kerberos ticket (MIT, "Credential cache
    file format", version 4)."""

    def data(value: bytes) -> bytes:
        return struct.pack(">I", len(value)) + value

    def principal(*parts: bytes) -> bytes:
        return struct.pack(">II", 1, len(parts)) + data(b"X.TEST") + b"".join(map(data, parts))

    me, granter = principal(b"me"), principal(b"krbtgt", b"X.TEST")
    now = int(time.time())
    key = struct.pack(">H", 18) + data(bytes(32))
    times = struct.pack(">IIII", now, now, now + 3600, now + 3600)
    rest = struct.pack(">BIII", 0, 0, 0, 0) + data(b"\x61\x03ticket") + data(b"")
    cache, config = directory / "ticket", directory / "krb5.conf"
    cache.write_bytes(b"\5\4\0\0" + me + me + granter + key + times + rest)
    config.write_text("[libdefaults]\ndefault_realm = X.TEST\ndns_lookup_kdc = false\n")
    return {"KRB5CCNAME": f"FILE:{cache}", "KRB5_CONFIG": str(config)}
