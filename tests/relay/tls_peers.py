"""Far ends that speak TLS: OpenSSL between two memory BIOs, every byte in the test's hands.

`TlsFar` has the methods of a socket that a `Reader` and `write` use, so that the tests of plain
relays can be made with it. `Records` makes TLS 1.3 records that OpenSSL never would.
"""

from __future__ import annotations

import ctypes
import functools
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from relay_rig import acknowledged, connected, parts

from spliceproxy.relay.tls_context import client_context, server_context
from spliceproxy.relay.tls_end import RECORD, TlsEnd

NAME = "a.example"
VERSIONS = ("1.2", "1.3")
_libssl = ctypes.CDLL("libssl.so.3")
_SSL_OF_PYTHON = 24
"""Where Python 3.11 keeps the SSL* of an object (PySSLSocket in Modules/_ssl.c)."""


@functools.cache
def authority() -> trustme.CA:
    return trustme.CA()


@functools.cache
def chain() -> str:
    """A certificate for NAME, and its key."""
    made = authority().issue_cert(NAME)
    return (made.private_key_pem.bytes() + made.cert_chain_pems[0].bytes()).decode()


@functools.cache
def contexts(version: str, ours: bool = True) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For a server and for a client, of one version; `ours`, or such that renegotiate."""
    pair = server_context([chain()]), client_context(ca=authority().cert_pem.bytes().decode())
    for context in pair:
        context.maximum_version = context.minimum_version = {
            "1.2": ssl.TLSVersion.TLSv1_2,
            "1.3": ssl.TLSVersion.TLSv1_3,
        }[version]
        if not ours:
            context.options &= ~ssl.OP_NO_RENEGOTIATION
    return pair


class TlsFar:
    """The peer of a TlsEnd. It reads and writes as a non-blocking socket does."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self.family = sock.family
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = context.protocol == ssl.PROTOCOL_TLS_SERVER
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server, None if server else NAME)
        self.backlog = self.left = b""
        self.stream_ended = ""
        """How the raw stream ended: fin or reset."""
        self.dead = False
        """A send told that nobody takes it."""
        self._fin = False

    def pump(self) -> bool:
        """Send what is encrypted: whether all of it went."""
        self.backlog += self.outgoing.read()
        try:
            while self.backlog:
                self.backlog = self.backlog[self.sock.send(self.backlog) :]
            if self._fin:
                self._fin = False
                self.sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return False
        except OSError:
            self.dead = True
            return False
        return True

    def fill(self, most: int = 1 << 16) -> bool:
        """Take in what has arrived; False: nothing has."""
        try:
            data = self.sock.recv(most)
        except BlockingIOError:
            return False
        except OSError:
            self.stream_ended = "reset"
            raise
        if data:
            self.incoming.write(data)
        else:
            self.stream_ended = "fin"
            self.incoming.write_eof()
        return bool(data)

    def shake_hands(self) -> bool:
        """One step; whether it is done."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self.fill()
            return False
        finally:
            self.pump()
        return True

    # What a socket has.

    def fileno(self) -> int:
        return self.sock.fileno()

    def setsockopt(self, *arguments: Any) -> None:
        self.sock.setsockopt(*arguments)

    def getsockopt(self, *arguments: Any) -> Any:
        return self.sock.getsockopt(*arguments)

    def send(self, data: Any, flags: int = 0) -> int:
        sent = self.pump()
        if self.dead or self.stream_ended == "reset":
            raise ConnectionResetError
        if not sent:
            raise BlockingIOError
        if flags:
            return self.sock.send(data, flags)
        size = self.tls.write(data[:50_000])
        self.pump()
        return size

    def sendall(self, data: bytes) -> None:
        assert self.send(data) == len(data)

    def recv(self, size: int) -> bytes:
        """Raises OSError for a FIN that no close_notify precedes, as for a reset."""
        self.pump()
        while not self.left:
            try:
                self.left = self.tls.read(RECORD)  # a whole one: see the end's own docstring, 1
            except ssl.SSLWantReadError:
                if not self.fill() and not self.stream_ended:
                    raise BlockingIOError from None
            except ssl.SSLZeroReturnError:
                return b""
            else:
                if not self.left:
                    return b""
        data, self.left = self.left[:size], self.left[size:]
        return data

    def shutdown(self, _how: int) -> None:
        self.close_notify()
        self._fin = True
        self.pump()

    def close_notify(self) -> None:
        """Send close_notify, and go on reading."""
        self._write_close_notify()
        self.pump()

    def last_words(self) -> bytes:
        """close_notify, not sent."""
        self._write_close_notify()
        return self.outgoing.read()

    def _write_close_notify(self) -> None:
        unseen = self.incoming.read()
        with suppress(ssl.SSLWantReadError, ssl.SSLSyscallError, ssl.SSLEOFError):
            self.tls.unwrap()
        if not self.stream_ended:
            self.incoming.write(unseen)

    def close(self) -> None:
        self.sock.close()

    # What no program of ours does.

    def key_update(self, *, asked: bool) -> None:
        """Take new keys, and say so; `asked`: the peer shall do the same."""
        assert _libssl.SSL_key_update(self._ssl(), int(asked)) == 1
        self.tls.do_handshake()

    def renegotiate(self) -> None:
        """Ask for new keys in TLS 1.2."""
        assert _libssl.SSL_renegotiate(self._ssl()) == 1
        with suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        self.pump()

    def _ssl(self) -> ctypes.c_void_p:
        sslobj = self.tls._sslobj  # type: ignore[attr-defined]
        return ctypes.c_void_p.from_address(id(sslobj) + _SSL_OF_PYTHON)


def tls_pair(
    version: str,
    kind: str = "v4",
    *,
    server: bool = True,
    buffers: int | None = None,
    shaken: bool = True,
) -> tuple[TlsEnd, TlsFar]:
    """A TlsEnd, of a server or of a client, and its peer."""
    far, near = connected(kind, buffers)
    return secured(near, far, version, server=server, shaken=shaken)


def secured(
    near: socket.socket, far: socket.socket, version: str, *, server: bool, shaken: bool = True
) -> tuple[TlsEnd, TlsFar]:
    """TLS over two connected sockets; `server`: the near one's role."""
    end = parts.tls_end.TlsEnd(near, contexts(version)[not server], None if server else NAME)
    peer = TlsFar(far, contexts(version, ours=False)[server])
    if shaken:
        shake_hands(end, peer)
    return end, peer


def shake_hands(end: TlsEnd, peer: TlsFar) -> None:
    done = [False, False]
    for _ in range(1000):
        done = [end.shake_hands() or done[0], peer.shake_hands() or done[1]]
        if all(done):
            break
    assert all(done), "the handshake does not come to its end"


class Records:
    """Makes the client's records of a TLS 1.3 connection, once its handshake is done."""

    def __init__(self, keylog: Path) -> None:
        """`keylog`: what SSLContext.keylog_filename has written (NSS key log format)."""
        secrets = dict(line.split()[::2] for line in keylog.read_text().splitlines()[1:])
        secret = bytes.fromhex(secrets["CLIENT_TRAFFIC_SECRET_0"])
        assert len(secret) == 48, "not TLS_AES_256_GCM_SHA384"
        self._aead = AESGCM(_expand(secret, b"key", 32))
        self._iv = int.from_bytes(_expand(secret, b"iv", 12))
        self._number = 0

    def make(self, kind: int, data: bytes, padding: int = 0) -> bytes:
        """A record of type `kind` (RFC 8446, 5.2): 21 alert, 22 handshake, 23 data."""
        inner = data + bytes([kind]) + bytes(padding)
        header = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2)
        nonce = (self._iv ^ self._number).to_bytes(12)
        self._number += 1
        return header + self._aead.encrypt(nonce, inner, header)


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label (RFC 8446, 7.1)."""
    label = b"tls13 " + label
    info = size.to_bytes(2) + bytes([len(label)]) + label + b"\0"
    return HKDFExpand(SHA384(), size, info).derive(secret)


def crafted(tmp_path: Path) -> tuple[TlsEnd, TlsFar, Records]:
    """A server's TlsEnd, its client, and what makes that client's records from now on."""
    context = client_context(ca=authority().cert_pem.bytes().decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    keylog = tmp_path / "keys"
    context.keylog_filename = str(keylog)
    far, near = connected("v4")
    end = parts.tls_end.TlsEnd(near, contexts("1.3")[0])
    peer = TlsFar(far, context)
    shake_hands(end, peer)
    return end, peer, Records(keylog)


def try_until(call: Callable[[], Any], what: str) -> Any:
    """Call until it does not raise BlockingIOError; what it returned."""
    for _ in range(20_000):
        try:
            return call()
        except BlockingIOError:
            continue
    raise AssertionError(f"still blocked: {what}")


def read(end: TlsEnd, size: int = 1 << 16) -> bytes:
    """What one read brings, once it brings something."""
    view = memoryview(bytearray(size))
    return bytes(view[: try_until(lambda: end.recv_into(view), "a read")])


def read_all(end: TlsEnd, size: int = 1 << 16) -> bytes:
    """Everything up to close_notify."""
    data = b""
    while more := read(end, size):
        data += more
    return data


def nothing(end: TlsEnd, size: int = 1 << 16) -> bool:
    """Whether a read finds that there is nothing yet."""
    acknowledged(end.sock)
    try:
        end.recv_into(memoryview(bytearray(size)))
    except BlockingIOError:
        return True
    return False


def say(end: TlsEnd, data: bytes) -> None:
    end.write(memoryview(data))
    assert end.flush()


def cut(peer: TlsFar, data: bytes) -> bytes:
    """What `data` is on the wire."""
    peer.tls.write(data)
    return peer.outgoing.read()


def read_once(end: TlsEnd) -> None:
    """One read, whatever it brings."""
    with suppress(BlockingIOError):
        end.recv_into(memoryview(bytearray(RECORD)))


@pytest.fixture
def closed_sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close every socket in the end."""
    made: list[socket.socket] = []

    connect = connected

    def remembered(kind: str, buffers: int | None = None) -> Any:
        ends = connect(kind, buffers)
        made.extend(ends)
        return ends

    monkeypatch.setattr(sys.modules[__name__], "connected", remembered)
    yield
    for sock in made:
        sock.close()
