"""What a PROXY header says: the values that `proxy_protocol` reads and writes.

Source: "The PROXY protocol, versions 1 & 2", haproxy.org, doc/proxy-protocol.txt.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal, NamedTuple

Address = tuple[str, int] | str
"""An IP address and a port, or a UNIX socket: its path, "\\0name" where it is abstract, "" where it
has no name. The bytes of a path are in the text as os.fsdecode() puts them there."""

SocketAddress = Address | tuple[str, int, int, int] | bytes
"""An address as accept(), getpeername() and getsockname() tell it; all of Address is among them."""

Family = Literal["unspec", "tcp4", "tcp6", "unix"]

MAX_HEADER = 4096
"""Bytes of a header, at most. The length field could say 65,551, and senders are told to keep to
536; the most that is in use are certificates of clients, as TLVs of 2 KiB."""

MAX_UNIQUE_ID = 128

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
MIN_V2 = 16
START = struct.Struct("!BBH")
"""Of version 2, behind the signature: version and command, family and transport, bytes to come."""
LOCAL, PROXY = 0x20, 0x21
UNSPEC, INET, INET6, UNIX = 0x00, 0x11, 0x21, 0x31

INET_BLOCK = struct.Struct("!4s4sHH")
INET6_BLOCK = struct.Struct("!16s16sHH")
UNIX_BLOCK = struct.Struct("!108s108s")

MAPPED = bytes(10) + b"\xff\xff"
"""Begins an IPv6 address that stands for an IPv4 address: RFC 4291, section 2.5.5.2."""


class ProxyHeaderError(Exception):
    """What was sent is no PROXY header. `str()` is one sentence for the log and the record."""


@dataclass(frozen=True, slots=True)
class Ssl:
    """PP2_TYPE_SSL: how the client spoke TLS to the sender."""

    client: int = 0
    """Bits: TLS, CERTIFICATE_NOW, CERTIFICATE_IN_SESSION."""
    verify: int = 1
    """0: the client showed a certificate and it was verified."""
    version: str | None = None
    """For example `TLSv1.3`."""
    cn: str | None = None
    """Common name of the client's certificate."""
    cipher: str | None = None
    sig_alg: str | None = None
    """What the sender's own certificate is signed with, for example `RSA-SHA256`."""
    key_alg: str | None = None
    """The key of the sender's own certificate, for example `RSA2048`."""
    others: tuple[tuple[int, bytes], ...] = ()
    """(type, value) of all further sub-TLVs, in their order."""

    TLS = 0x01
    CERTIFICATE_NOW = 0x02
    CERTIFICATE_IN_SESSION = 0x04


@dataclass(frozen=True, slots=True)
class Tlvs:
    """What version 2 says beside the addresses; None where it does not."""

    alpn: bytes | None = None
    authority: str | None = None
    """The host that the client asked for: SNI, where it spoke TLS."""
    unique_id: bytes | None = None
    """At most 128 bytes."""
    netns: str | None = None
    """Name of the network namespace."""
    ssl: Ssl | None = None
    others: tuple[tuple[int, bytes], ...] = ()
    """(type, value) of all further TLVs, in their order, without padding (PP2_TYPE_NOOP)."""
    crc32c: bool = False
    """Read: a checksum was there, and right. To write: put one in."""


NO_TLVS = Tlvs()


class Header(NamedTuple):
    """A whole header. (A NamedTuple: it is made three times as fast as a frozen dataclass.)"""

    length: int
    """Bytes to take out of the stream; what follows is the client's."""
    version: Literal[1, 2]
    local: bool = False
    """LOCAL: the sender speaks for itself, as health checks do. Nothing else is told then."""
    family: Family = "unspec"
    """As announced. `unspec` covers UNKNOWN: a client whose address the sender cannot say."""
    source: Address | None = None
    """The client. None: LOCAL or `unspec`, the connection's own addresses hold.

    An IPv4-mapped IPv6 address is told as the IPv4 address that it stands for, here and in
    `destination`: rules about clients are written for that.
    """
    destination: Address | None = None
    """Where the client connected to."""
    tlvs: Tlvs = NO_TLVS
