"""Addresses and TLVs for PROXY headers, as hypothesis strategies; headers that we never write."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import replace

from hypothesis import strategies as st

from spliceproxy.wire.proxy_protocol import LOCAL_V2, Ssl, Tlvs

MAPPED = ipaddress.ip_network("::ffff:0:0/96")

ports = st.integers(0, 65535)
v4_texts = st.ip_addresses(v=4).map(str)
v6_texts = (
    st.ip_addresses(v=6)
    .filter(lambda ip: ip not in MAPPED)
    .map(lambda ip: ipaddress.IPv6Address(ip).compressed)
)
v4_addresses = st.tuples(v4_texts, ports)
v6_addresses = st.tuples(v6_texts, ports)
ip_pairs = (
    st.tuples(v4_addresses, v4_addresses)
    | st.tuples(v6_addresses, v6_addresses)
    | st.tuples(v4_addresses, v6_addresses)
    | st.tuples(v6_addresses, v4_addresses)
)

_names = st.binary(min_size=1, max_size=107).map(
    lambda raw: raw.replace(b"\0", b"n").decode("utf-8", "surrogateescape")
)
unix_addresses = st.just("") | _names | _names.map(lambda name: "\0" + name)
unix_pairs = st.tuples(unix_addresses, unix_addresses)

_ascii = st.text(st.characters(max_codepoint=127), max_size=40)
_text = st.text(max_size=40)
_others = st.lists(
    st.tuples(st.sampled_from([0x00, 0x31, 0xE0, 0xEA, 0xFF]), st.binary(max_size=40)), max_size=4
).map(tuple)

ssls = st.builds(
    Ssl,
    client=st.integers(0, 255),
    verify=st.integers(0, 2**32 - 1),
    version=st.none() | _ascii,
    cn=st.none() | _text,
    cipher=st.none() | _ascii,
    sig_alg=st.none() | _ascii,
    key_alg=st.none() | _ascii,
    others=_others,
)
tlvs = st.builds(
    Tlvs,
    alpn=st.none() | st.binary(max_size=40),
    authority=st.none() | _text,
    unique_id=st.none() | st.binary(max_size=128),
    netns=st.none() | _ascii,
    ssl=st.none() | ssls,
    others=_others,
    crc32c=st.booleans(),
)


def _as_others_write(said: Tlvs) -> Tlvs:
    """One TLV of a type, the types in their order; of the numbers in SSL, those with a meaning."""
    ssl = said.ssl
    if ssl is not None:
        ssl = replace(
            ssl, client=ssl.client & 7 | 1, verify=min(ssl.verify, 1), others=_once(ssl.others)
        )
    return replace(said, ssl=ssl, others=_once(said.others))


def _once(others: tuple[tuple[int, bytes], ...]) -> tuple[tuple[int, bytes], ...]:
    return tuple(sorted((kind, value) for kind, value in dict(others).items() if kind > 0x30))


sorted_tlvs = tlvs.map(_as_others_write)


def raw_header(kind: int, block: bytes, command: int = 0x21) -> bytes:
    """A header of version 2 with any family and transport, and anything behind its 16 bytes."""
    return LOCAL_V2[:12] + bytes([command, kind]) + len(block).to_bytes(2, "big") + block


def unix_header(source: str, destination: str, tlvs: bytes = b"") -> bytes:
    paths = (os.fsencode(path).ljust(108, b"\0") for path in (source, destination))
    return raw_header(0x31, b"".join(paths) + tlvs)
