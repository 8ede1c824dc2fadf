"""One side of a session that speaks TLS: OpenSSL between two memory BIOs, and the socket.

OpenSSL never sees the socket, so nothing it does can block, and both directions can be closed one
after the other. What stands behind it (OpenSSL 3, RFC 8446, RFC 5246; tests/relay/test_tls_end.py):

1.  SSL_shutdown fails where decrypted bytes are left unread, and takes the other direction with
    it. So a record is always read whole, and what OpenSSL has not looked at yet is taken out of
    its BIO while close_notify is written. Then reading goes on: close_notify is a half-close.
2.  SSL_read handles what is no application data by itself, and may have an answer to send, which
    is the reader's to pass on: `unsent` says that there is something.
3.  A peer can send records without an end that bring no byte of data (KeyUpdate took HAProxy down,
    issue 3450), and leave the answers unread. Both are bounded (`BARREN`, `UNREAD`).
4.  A FIN without close_notify is a truncation (RFC 8446, 6.1): anybody on the way can send one. The
    one exception is a peer that has sent nothing since our own close_notify: many close at once.
5.  An error is told once, after all that came before it; OpenSSL's are told again and again here.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from errno import ECONNRESET
from socket import MSG_DONTWAIT, SocketType
from typing import Final, NoReturn

from spliceproxy.relay.relay import was_reset

RECORD: Final = 16 * 1024
"""Bytes of data in one record, at most (RFC 8446, 5.1)."""
PIECE: Final = 32 * 1024
"""Bytes that are decrypted at once: smaller pieces cut more records in two, which costs time."""
BARREN: Final = 64 * 1024
"""Bytes in a row that may come without any data among them: the longest record takes a quarter."""
UNREAD: Final = 256 * 1024
"""Bytes of answers that a peer does not read, beyond which nothing more is read from it. They wait
in OpenSSL's BIO; what the other side says to the peer is in `_backlog`, and may be more."""
MOST_PIECES: Final = 1024
"""Pieces that one sendmsg takes (IOV_MAX, sendmsg(2))."""

_cipher_view: Final = memoryview(bytearray(64 * 1024))
"""What came in last, whoever's it was: nothing in it is kept."""
_NOTHING: Final = memoryview(b"")


class TlsError(OSError):
    """TLS with this side has failed; the text says why."""

    truncated = False
    """The peer's FIN came without its close_notify."""


class TlsTruncatedError(TlsError):
    """The peer's FIN came without its close_notify."""

    truncated = True


class TlsEnd:
    """TLS on a connected socket, which stays its owner's."""

    __slots__ = (
        "_backlog",
        "_barren",
        "_closed",
        "_dry",
        "_incoming",
        "_left",
        "_outgoing",
        "_silent_since_close",
        "fault",
        "more",
        "sock",
        "tls",
    )

    def __init__(
        self, sock: SocketType, context: ssl.SSLContext, server_name: str | None = None
    ) -> None:
        """As the server; or as the client, where `context` is one for clients, which asks for
        `server_name`, and verifies it as `context` says."""
        self.sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=context.protocol == ssl.PROTOCOL_TLS_SERVER,
            server_hostname=server_name,
        )
        self._backlog: list[bytes | memoryview] = []
        """Encrypted, and not taken by the kernel yet."""
        self._left = _NOTHING
        """Decrypted, and not asked for yet."""
        self._barren = 0
        """Bytes that came in since the last one of data."""
        self._closed = False
        """close_notify has come."""
        self._dry = False
        """The last recv was a short one, and no other call came since."""
        self._silent_since_close: bool | None = None
        """Whether the peer has sent no data since our close_notify; None: none was written."""
        self.more = True
        """After a read: the socket may have more, or OpenSSL. As for a short recv, False holds on
        TCP only, and until a hang-up, an error or urgent data was seen."""
        self.fault: TlsError | None = None
        """What has failed in reading."""

    @property
    def unsent(self) -> int:
        """Encrypted bytes that the kernel has not taken."""
        unsent: int = self._outgoing.pending
        return unsent + sum(map(len, self._backlog)) if self._backlog else unsent

    def shake_hands(self) -> bool:
        """Go on with the handshake, as far as the socket allows: whether it is done.

        Raises TlsError where it has failed: the alert is on its way, as far as it goes; OSError
        where the socket has.
        """
        try:
            while True:
                try:
                    self.tls.do_handshake()
                except ssl.SSLWantReadError:
                    if not self.flush():
                        return False
                    self._incoming.write(_cipher_view[: self._fill()])
                else:
                    self._barren = 0
                    return self.flush()  # nobody else would: nothing may ever follow it
        except BlockingIOError:
            return False
        except ssl.SSLError as error:
            why = reason(error)
        except TlsTruncatedError:
            raise TlsError("the peer closed the connection") from None
        with suppress(OSError):
            self.flush()
        raise TlsError(why)  # without a name, which would be a circle with its traceback

    def recv_into(self, view: memoryview) -> int:
        """Read data, as much as fits or as is there; 0 after close_notify.

        Raises BlockingIOError while there is none, TlsError, TlsTruncatedError, and OSError as
        recv(2) does: after everything that came before.
        """
        if self._left:
            self.more = True  # what came since it was read, nobody knows
        elif len(view) >= RECORD:
            return self._receive(view)
        else:
            self.peek()
        left = self._left
        size = min(len(left), len(view))
        view[:size] = left[:size]
        if size < len(left):
            self._left = left[size:]
            self.more = True
        else:
            self._left = _NOTHING
        return size

    def peek(self) -> bool:
        """Whether there is data; False: there is none to come. Raises as `recv_into`."""
        if not self._left:
            record = memoryview(bytearray(RECORD))
            self._left = record[: self._receive(record)]
        return bool(self._left)

    def write(self, data: memoryview) -> None:
        """Encrypt all of it, for `flush` to send. Raises TlsError."""
        try:
            if len(data) <= RECORD:
                self.tls.write(data)
                return
            pieces, write, read = self._backlog, self.tls.write, self._outgoing.read
            for start in range(0, len(data), RECORD):  # a BIO keeps the room that it ever needed
                write(data[start : start + RECORD])
                pieces.append(read())
        except ssl.SSLError as error:
            raise TlsError(reason(error)) from None

    def flush(self) -> bool:
        """Send what is encrypted: whether the kernel took all of it. Raises OSError."""
        pieces = self._backlog
        while pieces or self._outgoing.pending:
            if not pieces:
                pieces.append(self._outgoing.read())
            try:
                if len(pieces) == 1:
                    sent = self.sock.send(pieces[0], MSG_DONTWAIT)
                else:
                    sent = self.sock.sendmsg(pieces[:MOST_PIECES], (), MSG_DONTWAIT)
            except BlockingIOError:
                return False
            done = 0
            for piece in pieces:
                if sent < len(piece):
                    pieces[done] = memoryview(piece)[sent:]
                    break
                sent -= len(piece)
                done += 1
            del pieces[:done]
        return True

    def close_write(self) -> None:
        """Write close_notify, once, for `flush` to send. Reading goes on."""
        if self._silent_since_close is not None:
            return
        self._silent_since_close = True
        unseen = self._incoming.read()
        with suppress(ssl.SSLError):  # it wants the peer's close_notify, or can write no more
            self.tls.unwrap()
        self._incoming.write(unseen)

    def _receive(self, view: memoryview) -> int:
        """`recv_into` a view that takes a record, past what is left."""
        # After an earlier recv more may have come, whose event was told before what is read now.
        self._dry = False
        while True:
            if self._incoming.pending:  # else OpenSSL has nothing: it was asked for all it had
                size = self._decrypt(view)
                if size:
                    return size
            if self._closed:
                return 0
            size = self._digest(self._fill(), view)
            if size:
                return size

    def _digest(self, arrived: int, view: memoryview) -> int:
        """Decrypt what has come in, as far as it surely fits into `view`.

        It goes to OpenSSL in pieces: a BIO keeps for ever the room that it ever needed.
        """
        size, room = 0, len(view)
        for start in range(0, arrived, PIECE):
            self._incoming.write(_cipher_view[start : min(start + PIECE, arrived)])
            if room - size >= RECORD and self.fault is None and not self._closed:
                size += self._decrypt(view[size:] if size else view)
        if self._incoming.pending:
            self.more = True
        return size

    def _fill(self) -> int:
        """Take in what has come; how many bytes it is, 0 at an end. Raises OSError."""
        if self.fault is not None:
            raise type(self.fault)(str(self.fault))
        if self._barren > BARREN:
            self._fail(TlsError, "records without data, again and again")
        if self._outgoing.pending > UNREAD:
            self._fail(TlsError, "the peer does not read what it asks for")
        size = self.sock.recv_into(_cipher_view, 0, MSG_DONTWAIT)
        if not size:
            if self._silent_since_close:
                self._closed = True
                return 0
            if self._silent_since_close is None and was_reset(self.sock):
                raise ConnectionResetError(ECONNRESET, "reset, as somebody was told before")
            self._fail(TlsTruncatedError, "FIN without close_notify")
        self._dry = size < len(_cipher_view)
        self._barren += size
        return size

    def _fail(self, kind: type[TlsError], text: str) -> NoReturn:
        """Raise, and remember: not what is raised, whose traceback leads back to this end."""
        self.fault = kind(text)
        raise kind(text)

    def _decrypt(self, view: memoryview) -> int:
        """Records that are there, as many as surely fit into `view`; 0: none, or no more."""
        read, incoming, last = self.tls.read, self._incoming, len(view) - RECORD
        size = 0
        self.more = True
        try:
            while size <= last:
                got = int(read(RECORD, view[size:]))
                if not got:
                    self._closed = True
                    break
                size += got
                if not incoming.pending:  # OpenSSL takes no byte of the next record from it
                    self.more = not self._dry
                    break
        except ssl.SSLWantReadError:
            self.more = not self._dry
        except ssl.SSLZeroReturnError:
            self._closed = True
        except ssl.SSLError as error:
            if self.fault is None:  # the first one says why, later ones say that it is over
                self.fault = TlsError(reason(error))
        if size:
            self._barren = 0
            if self._silent_since_close:
                self._silent_since_close = False
        return size


def reason(error: ssl.SSLError) -> str:
    """What OpenSSL found wrong, as a few words: `tlsv1 alert unknown ca`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if error.reason:
        return str(error.reason).replace("_", " ").lower()
    return str(error.strerror or error)
