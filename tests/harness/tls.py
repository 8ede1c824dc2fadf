"""TLS for tests: authorities and their files, and a peer that can do all that a real one may.

`ssl.SSLSocket` cannot close one direction and read on where data of the other one is on its way:
`TlsPeer` can, and can break off wherever a test wants it to.
"""

from __future__ import annotations

import datetime
import hashlib
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from select import POLLIN, POLLOUT, poll

import trustme

from harness.load import blocks

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
KEYS = {"ecdsa": trustme.KeyType.ECDSA, "rsa": trustme.KeyType.RSA}


class Authority:
    """One that signs certificates, and the directory in which their files are."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self._authority = trustme.CA()
        self.file = directory / "ca.pem"
        """The authority itself, for those that are to trust it."""
        self._authority.cert_pem.write_to_path(str(self.file))

    def certificate(
        self, *names: str, file: str = "", key: str = "ecdsa", expired: bool = False
    ) -> Path:
        """A PEM file of a new certificate for `names`, and its key. It is put in place at once,
        also where it is another one's."""
        now = datetime.datetime.now(datetime.UTC)
        made = self._authority.issue_cert(
            *names,
            common_name=names[0],
            key_type=KEYS[key],
            not_before=now - datetime.timedelta(days=2),
            not_after=now + datetime.timedelta(days=-1 if expired else 90),
        )
        path = self.directory / (file or f"{names[0].replace('*', 'any')}-{key}.pem")
        new = path.with_suffix(".new")
        made.private_key_and_cert_chain_pem.write_to_path(str(new))
        return new.rename(path)

    def client(
        self,
        version: str | None = None,
        *,
        certificate: Path | None = None,
        alpn: Sequence[str] = (),
    ) -> ssl.SSLContext:
        """For clients that trust this authority alone, and speak this version alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(str(self.file))
        return _complete(context, version, certificate, alpn)

    def server(
        self, certificate: Path, version: str | None = None, alpn: Sequence[str] = ()
    ) -> ssl.SSLContext:
        """For servers."""
        return _complete(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), version, certificate, alpn)


def _complete(
    context: ssl.SSLContext, version: str | None, certificate: Path | None, alpn: Sequence[str]
) -> ssl.SSLContext:
    if version is not None:
        context.minimum_version = context.maximum_version = VERSIONS[version]
    if certificate is not None:
        context.load_cert_chain(str(certificate))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def client_hello(name: str | None, *alpn: str) -> bytes:
    """A ClientHello that asks for `name` and offers these protocols."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if alpn:
        context.set_alpn_protocols(list(alpn))
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


class TlsPeer:
    """One end of a blocking connection, with TLS from its first byte on.

    Reading raises ConnectionResetError after a reset, and ssl.SSLEOFError after a FIN without
    close_notify. The socket's timeout holds.
    """

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, server_name: str | None = None
    ) -> None:
        """A client's, which asks for `server_name`; or a server's, by what the context is for.
        The handshake waits for `shake_hands`."""
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = context.protocol == ssl.PROTOCOL_TLS_SERVER
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server, server_name)

    def __enter__(self) -> TlsPeer:
        try:
            self.shake_hands()
        except BaseException:
            self.sock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def shake_hands(self) -> None:
        """Raises ssl.SSLError where one of both is not content."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self._fill()
            except ssl.SSLError:
                with suppress(OSError):
                    self.flush()  # the alert
                raise
            else:
                self.flush()
                return

    def flush(self) -> None:
        """Send all that is encrypted."""
        self.sock.sendall(self.outgoing.read())

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.tls.write(data)
        self.flush()

    def recv(self, size: int = 65536) -> bytes:
        """At least one byte; none after close_notify."""
        while True:
            try:
                return self.tls.read(size)
            except ssl.SSLWantReadError:
                self._fill()
            except ssl.SSLZeroReturnError:
                return b""

    def read_exactly(self, size: int) -> bytes:
        """`size` bytes, or fewer where the stream ends before."""
        data = b""
        while len(data) < size and (more := self.recv(size - len(data))):
            data += more
        return data

    def read_to_end(self) -> bytes:
        """All that comes before close_notify."""
        data = bytearray()
        while more := self.recv():
            data += more
        return bytes(data)

    def close_write(self) -> None:
        """close_notify; reading goes on."""
        self._close_notify()
        self.flush()

    def trade(self, size: int, seed: int) -> tuple[int, str]:
        """Send the stream of `load.blocks`, then close_notify, and read to the end, at once: how
        many bytes came, and their SHA-256 in hex."""
        sock, sha, total, open_ = self.sock, hashlib.sha256(), 0, True
        view = memoryview(bytearray(16384))
        patience = sock.gettimeout() or 60
        sending = chain(self._encrypted(size, seed))
        left = memoryview(next(sending, b""))
        sock.setblocking(False)
        waiter = poll()
        while open_ or left:
            waiter.register(sock, (POLLIN if open_ else 0) | (POLLOUT if left else 0))
            if not waiter.poll(patience * 1000):
                raise TimeoutError("neither reads nor writes")
            with suppress(BlockingIOError):
                while left:
                    left = left[sock.send(left) :] or memoryview(next(sending, b""))
            if not open_:
                continue
            with suppress(BlockingIOError):
                self._fill(256 * 1024)
            try:
                while count := int(self.tls.read(16384, view)):
                    sha.update(view[:count])
                    total += count
                open_ = False
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                open_ = False
        sock.settimeout(patience)
        return total, sha.hexdigest()

    def _encrypted(self, size: int, seed: int) -> Iterator[bytes]:
        for block in blocks(size, seed):
            self.tls.write(block)
            yield self.outgoing.read()
        self._close_notify()
        yield self.outgoing.read()

    def _close_notify(self) -> None:
        # SSL_shutdown would fail where it finds data of the other direction.
        unseen = self.incoming.read()
        with suppress(ssl.SSLWantReadError, ssl.SSLSyscallError):
            self.tls.unwrap()
        self.incoming.write(unseen)

    def _fill(self, size: int = 65536) -> None:
        data = self.sock.recv(size)
        if data:
            self.incoming.write(data)
        else:
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "FIN without close_notify")
