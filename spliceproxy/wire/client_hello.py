"""The ClientHello: whom a TLS client asks for, read without answering and without consuming.

By RFC 8446 sections 4.1.2 and 5.1 (TLS 1.3), RFC 5246 (1.2 and before), RFC 6066 section 3
(server_name), RFC 7301 (ALPN), RFC 8701 (GREASE). What is read:

1. Records of type handshake, of any size: the message may be cut anywhere, also inside its header
   of four bytes. What follows the message (a ChangeCipherSpec, early data) is not looked at.
2. The lengths of all fields and extensions, which must fit into each other. No extension may come
   twice. What is inside those that decide no route (key shares, tickets) is skipped.
3. With Encrypted Client Hello the outer hello is an ordinary one, and its server_name, the public
   name, is the one that is found here.

Not TLS, for whoever routes, is all that does not begin with 16 03: also the hello of SSL 2 (first
byte 80 or more), which RFC 6176 forbids and which names no server.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import NamedTuple

from spliceproxy.wire.host_name import read_address, read_host_name
from spliceproxy.wire.need import Buffer, Need

MAX_BODY = 16 * 1024
"""Bytes of a ClientHello without its header. Hellos with post-quantum keys have 2 KiB."""

MAX_BYTES = 64 * 1024
"""Bytes of all its records, headers included: whoever peeks needs no larger buffer."""

MAX_RECORD = 2**14
"""Bytes in one record (RFC 8446 section 5.1)."""

MAX_EMPTY = 32
"""Empty records before the message is whole. No version allows one; OpenSSL bears as many."""

HANDSHAKE = 22
CLIENT_HELLO = 1
SERVER_NAME, ALPN, SUPPORTED_VERSIONS = 0, 16, 43
HOST_NAME = 0
_READ = frozenset((SERVER_NAME, ALPN, SUPPORTED_VERSIONS))

_RECORD = struct.Struct(">BBxH")  # type, major version, length; the minor version means nothing
_RECORD_HEADER = 5
_MESSAGE_HEADER = 4
_BOTH_HEADERS = struct.Struct(">BBxHBBH")  # behind it the message's: type, length of 3 bytes
_BODY = _RECORD_HEADER + _MESSAGE_HEADER
_ONE_NAME = struct.Struct(">HBH")  # server_name with one name: length of the list, type, length
_EXTENSION = struct.Struct(">HH")
_SESSION_ID = 34  # behind the version and 32 random bytes
_GREASE = frozenset(high << 8 | high for high in range(0x0A, 0x100, 0x10))
_GREASE_NAMES = frozenset(value.to_bytes(2, "big") for value in _GREASE)
_SHOWN = 64  # characters of a client's bytes in a message


class ClientHelloError(Exception):
    """The client speaks TLS, but this is no ClientHello; `str()` is one sentence that says why."""


class ClientHello(NamedTuple):
    """What a client asks for.

    `sni`: the host name in lower case, without a trailing dot. None where it named none, or wrote
    an IP address: RFC 6066 permits no address there, so it counts as no name, and is no error.
    `alpn`: protocols in the client's order, without GREASE; identifiers are bytes (RFC 7301).
    `legacy_version`: the field of the hello; TLS 1.3 writes 0x0303 (TLS 1.2) there.
    `versions`: what it offers, in its order: supported_versions without GREASE; where a client has
    no such extension, its legacy version alone, which means that one and those before.
    """

    sni: str | None
    alpn: tuple[bytes, ...]
    legacy_version: int
    versions: tuple[int, ...]


def parse_client_hello(data: Buffer) -> ClientHello | Need | None:
    """What `ClientHelloReader.read` says of these bytes, at once."""
    return ClientHelloReader().read(data)


class ClientHelloReader:
    """Reads one ClientHello while it grows. It remembers how far it came, but keeps no bytes.

    So the work over all calls is linear in the bytes, however small records and segments are, and a
    client that stops in the middle costs no memory here.
    """

    __slots__ = ("_at", "_empty", "_end", "_have", "_header", "_one_record", "_size")

    def __init__(self) -> None:
        self._at = self._end = 0  # where it is, and the end of the record that it is in
        self._have = 0  # bytes of the message before `_at`
        self._header = 0  # the message's first bytes, up to four, as a number
        self._size = _MESSAGE_HEADER  # of the message, as far as is known
        self._empty = 0
        self._one_record = True

    def read(self, data: Buffer) -> ClientHello | Need | None:
        """The hello, or how many bytes it takes to go on, or None: this is not TLS.

        `data` is all that was seen so far, from the first byte on: what the last call was given,
        and more. After an answer other than `Need` the reader is used up. Raises ClientHelloError.
        """
        seen = len(data)
        if (seen and data[0] != HANDSHAKE) or (seen > 1 and data[1] != 3):
            return None
        if seen < 2:
            return Need(2)
        if seen > _BODY and not self._at:
            # Nearly all come whole and in one record: what follows would say the same, more slowly.
            _, _, length, message, high, low = _BOTH_HEADERS.unpack_from(data)
            size = high << 16 | low
            whole = 0 < size <= MAX_BODY and _MESSAGE_HEADER + size <= length <= MAX_RECORD
            if whole and message == CLIENT_HELLO and seen >= _BODY + size:
                return _parse(bytes(data[_BODY : _BODY + size]))
        while True:
            if self._at == self._end:
                if seen < self._at + _RECORD_HEADER:
                    return Need(self._at + _on_the_wire(self._size - self._have))
                self._open_record(data)
            self._take(data, min(seen, self._end))
            if self._have >= self._size > _MESSAGE_HEADER:
                return _parse(self._body(data))
            if self._at < self._end:
                return Need(self._least())

    def _open_record(self, data: Buffer) -> None:
        kind, major, length = _RECORD.unpack_from(data, self._at)
        if kind != HANDSHAKE or major != 3:
            raise ClientHelloError(
                f"a record of type {kind}, version {major}, came before the ClientHello was whole"
            )
        if length > MAX_RECORD:
            raise ClientHelloError(f"a record of {length} bytes; at most {MAX_RECORD} are allowed")
        if not length:
            self._empty += 1
            if self._empty > MAX_EMPTY:
                raise ClientHelloError(f"more than {MAX_EMPTY} empty records")
        self._one_record = not self._at
        self._at += _RECORD_HEADER
        self._end = self._at + length

    def _take(self, data: Buffer, stop: int) -> None:
        """Go on to `stop`, which is in the same record; read the message's header on the way."""
        if self._have < _MESSAGE_HEADER:
            part = data[self._at : min(stop, self._at + _MESSAGE_HEADER - self._have)]
            self._header = self._header << 8 * len(part) | int.from_bytes(part, "big")
            got = self._have + len(part)
            kind = self._header >> 8 * (got - 1) if got else CLIENT_HELLO
            if kind != CLIENT_HELLO:
                raise ClientHelloError(f"a handshake message of type {kind} is not a ClientHello")
            if got == _MESSAGE_HEADER:
                body = self._header & 0xFFFFFF
                if not 0 < body <= MAX_BODY:
                    raise ClientHelloError(f"a ClientHello of {body} bytes; 1 to {MAX_BODY} may be")
                self._size = _MESSAGE_HEADER + body
        self._have += stop - self._at
        self._at = stop
        if self._least() > MAX_BYTES:
            raise ClientHelloError(f"a ClientHello in more than {MAX_BYTES} bytes of records")

    def _least(self) -> int:
        """Where the message ends, if each record from the next one on is as full as can be."""
        here, rest = self._end - self._at, self._size - self._have
        return self._at + rest if rest <= here else self._end + _on_the_wire(rest - here)

    def _body(self, data: Buffer) -> bytes:
        """The message without its header; all of it is in `data`."""
        if self._one_record:
            start = _RECORD_HEADER + _MESSAGE_HEADER
            return bytes(data[start : _RECORD_HEADER + self._size])
        body = bytearray()
        at = 0
        while len(body) < self._size:
            end = at + _RECORD_HEADER + (data[at + 3] << 8 | data[at + 4])
            body += data[at + _RECORD_HEADER : end]
            at = end
        return bytes(body[_MESSAGE_HEADER : self._size])


def _on_the_wire(size: int) -> int:
    """The least that so many bytes of a message take, in records of their own."""
    return size + _RECORD_HEADER * -(-size // MAX_RECORD)


def _parse(body: bytes) -> ClientHello:
    end = len(body)
    at = _extensions_at(body)
    version = body[0] << 8 | body[1]
    sni: str | None = None
    alpn: tuple[bytes, ...] = ()
    versions: tuple[int, ...] = (version,)
    kinds: list[int] = []
    while at < end:
        start = at + 4
        if start > end:
            raise ClientHelloError("the list of extensions ends inside an extension")
        kind, size = _EXTENSION.unpack_from(body, at)
        at = start + size
        if at > end:
            raise ClientHelloError(f"extension {kind} is longer than the list of extensions")
        kinds.append(kind)
        if kind in _READ:
            data = body[start:at]
            if kind == SERVER_NAME:
                sni = _server_name(data)
            elif kind == ALPN:
                alpn = _alpn(data)
            else:
                versions = _versions(data)
    if len(set(kinds)) != len(kinds):
        [(kind, _)] = Counter(kinds).most_common(1)
        raise ClientHelloError(f"extension {kind} comes twice")
    return ClientHello(sni, alpn, version, versions)


def _extensions_at(body: bytes) -> int:
    """Where the first extension begins: the end of the body, where it has none (before TLS 1.3)."""
    end = len(body)
    if end <= _SESSION_ID:
        raise ClientHelloError("the ClientHello ends before its session id")
    if body[0] != 3:
        raise ClientHelloError(f"a ClientHello of version {body[0]}.{body[1]} is not TLS")
    if body[_SESSION_ID] > 32:
        raise ClientHelloError(f"a session id of {body[_SESSION_ID]} bytes; at most 32 are allowed")
    at = _SESSION_ID + 1 + body[_SESSION_ID]
    suites = int.from_bytes(body[at : at + 2], "big")
    if not suites or suites % 2:
        raise ClientHelloError(f"a list of cipher suites of {suites} bytes; it must be even, not 0")
    at += 2 + suites
    if at >= end:
        raise ClientHelloError("the ClientHello ends before its compression methods")
    if not body[at]:
        raise ClientHelloError("an empty list of compression methods")
    at += 1 + body[at]
    if at == end:
        return end
    if at + 2 > end:
        raise ClientHelloError("the ClientHello ends before its extensions")
    size = body[at] << 8 | body[at + 1]
    at += 2
    if at + size != end:
        raise ClientHelloError(f"a list of extensions of {size} bytes, where {end - at} follow")
    return at


def _server_name(data: bytes) -> str | None:
    """The first host name; what is of another type has the same form, and is skipped."""
    size = len(data) - _ONE_NAME.size
    if size > 0 and _ONE_NAME.unpack_from(data) == (size + 3, HOST_NAME, size):
        return _host_name(data[_ONE_NAME.size :])
    at = _list_at(data, 2, "server_name")
    end = len(data)
    name: bytes | None = None
    while at < end:
        if at + 3 > end:
            raise ClientHelloError("server_name ends inside a name")
        kind, size = data[at], data[at + 1] << 8 | data[at + 2]
        at += 3
        if not size or at + size > end:
            raise ClientHelloError(
                f"server_name has a name of {size} bytes, where {end - at} follow"
            )
        if kind == HOST_NAME and name is None:
            name = data[at : at + size]
        at += size
    return None if name is None else _host_name(name)


def _host_name(name: bytes) -> str | None:
    if read_address(name.removesuffix(b".")) is not None:
        return None
    sni = read_host_name(name)
    if sni is None:
        raise ClientHelloError(f"server_name is not a host name: {ascii(name[:_SHOWN])[1:]}")
    return sni


def _alpn(data: bytes) -> tuple[bytes, ...]:
    at = _list_at(data, 2, "ALPN")
    end = len(data)
    names: list[bytes] = []
    while at < end:
        size = data[at]
        at += 1
        if not size or at + size > end:
            raise ClientHelloError(f"ALPN has a name of {size} bytes, where {end - at} follow")
        name = data[at : at + size]
        if name not in _GREASE_NAMES:
            names.append(name)
        at += size
    return tuple(names)


def _versions(data: bytes) -> tuple[int, ...]:
    at = _list_at(data, 1, "supported_versions")
    if (len(data) - at) % 2:
        raise ClientHelloError("supported_versions has half a version at its end")
    offered = struct.unpack_from(f">{(len(data) - at) // 2}H", data, at)
    if _GREASE.isdisjoint(offered):
        return offered
    return tuple(version for version in offered if version not in _GREASE)


def _list_at(data: bytes, width: int, name: str) -> int:
    """Where the list begins that an extension consists of, behind its length of `width` bytes."""
    size = int.from_bytes(data[:width], "big")
    if not size or width + size != len(data):
        raise ClientHelloError(f"{name} has a list of {size} bytes in an extension of {len(data)}")
    return width
