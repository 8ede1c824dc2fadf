"""PROXY headers beside the PyPI packages `proxy-protocol` and `crc32c`, which others wrote.

`proxy-protocol` 0.11 differs from the specification, where we do not:

- It takes ports with signs, leading zeros and underscores ("+1", "01", "1_0"), TLVs that run over
  the end of the header, unknown families and datagrams, and of two TLVs of a type the last.
- It computes the checksum over TLVs that it has sorted by type: another order, or a type that is
  there twice, is refused by it though the checksum is right. We write them sorted.
- It takes all bytes that it is given for one header, so it is asked about headers alone.
- It reads no TLVs behind UNSPEC, takes addresses whose transport is UNSPEC for those of the client,
  and knows no UNIX paths that are not ASCII.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import SOCK_STREAM

import crc32c as other_crc32c
from fuzz.mutate import Mutator
from fuzz_proxy_protocol import seeds
from hypothesis import given
from hypothesis import strategies as st
from proxy_headers import (
    ip_pairs,
    sorted_tlvs,
    unix_header,
    unix_pairs,
    v4_addresses,
    v6_addresses,
)
from proxyprotocol.result import ProxyResult, ProxyResultIPv4, ProxyResultIPv6, ProxyResultUnix
from proxyprotocol.tlv import ProxyProtocolSSLTLV, ProxyProtocolTLV
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

from spliceproxy.wire.crc32c import crc32c
from spliceproxy.wire.proxy_protocol import (
    LOCAL_V2,
    UNKNOWN_V1,
    Address,
    Header,
    ProxyHeaderError,
    Tlvs,
    build_v1,
    build_v2,
    parse_proxy_header,
)

INPUTS = 20_000


def ask(data: bytes) -> ProxyResult:
    """What the other package reads from a whole header. Raises ValueError, struct.error."""
    version = ProxyProtocolV1() if data.startswith(b"PROXY ") else ProxyProtocolV2()
    return version.unpack(data)


def agree(header: Header, result: ProxyResult) -> None:
    assert header.local == (not result.proxied)
    assert (header.source is None) == (result.source is None)
    for ours, theirs in ((header.source, result.source), (header.destination, result.dest)):
        if isinstance(ours, tuple):
            ip, port = theirs
            ip = getattr(ip, "ipv4_mapped", None) or ip
            assert (ip_address(ours[0]), ours[1]) == (ip, port)
        elif ours is not None:
            assert ours == theirs


def agree_on_tlvs(ours: Tlvs, theirs: ProxyProtocolTLV) -> None:
    assert ours.alpn == theirs.alpn
    assert ours.authority == theirs.authority
    assert (ours.unique_id or b"") == theirs.unique_id
    assert ours.netns == theirs.netns
    assert ours.crc32c == (theirs.crc32c is not None)
    for kind, value in dict(ours.others).items():
        assert theirs[kind] == value
    if ours.ssl is not None:
        ssl = theirs.ssl
        assert (ours.ssl.client, ours.ssl.verify) == (ssl.client, ssl.verify)
        assert (ours.ssl.version, ours.ssl.cn) == (ssl.version, ssl.cn)
        assert (ours.ssl.cipher, ours.ssl.sig_alg) == (ssl.cipher, ssl.sig_alg)
        assert ours.ssl.key_alg == ssl.key_alg


@given(st.binary(max_size=300))
def test_the_checksum_is_that_of_the_other_package(data: bytes) -> None:
    assert crc32c(data) == other_crc32c.crc32c(data)


@given(ip_pairs)
def test_the_other_package_reads_our_lines(pair: tuple[Address, Address]) -> None:
    line = build_v1(*pair)
    header = parse_proxy_header(line)
    assert isinstance(header, Header)
    agree(header, ask(line))


@given(unix_pairs.filter(lambda pair: "".join(pair).isascii()))
def test_the_other_package_reads_the_same_paths(pair: tuple[str, str]) -> None:
    header = parse_proxy_header(unix_header(*pair))
    assert isinstance(header, Header)
    agree(header, ask(unix_header(*pair)))


@given(ip_pairs, sorted_tlvs)
def test_the_other_package_reads_our_binary_headers(
    pair: tuple[Address, Address], said: Tlvs
) -> None:
    data = build_v2(*pair, said)
    header = parse_proxy_header(data)
    assert isinstance(header, Header)
    result = ask(data)
    agree(header, result)
    agree_on_tlvs(said, result.tlv)


def test_the_other_package_knows_our_fixed_headers() -> None:
    assert not ask(LOCAL_V2).proxied
    assert ask(UNKNOWN_V1).proxied
    assert ask(UNKNOWN_V1).source is None


@given(st.tuples(v4_addresses, v4_addresses), sorted_tlvs)
def test_we_read_what_the_other_package_writes_over_ipv4(
    pair: tuple[tuple[str, int], tuple[str, int]], said: Tlvs
) -> None:
    (ip, port), (to_ip, to_port) = pair
    result = ProxyResultIPv4(
        (IPv4Address(ip), port),
        (IPv4Address(to_ip), to_port),
        protocol=SOCK_STREAM,
        tlv=written_by_the_other(said),
    )
    _we_read(result, pair, said)


@given(st.tuples(v6_addresses, v6_addresses), sorted_tlvs)
def test_we_read_what_the_other_package_writes_over_ipv6(
    pair: tuple[tuple[str, int], tuple[str, int]], said: Tlvs
) -> None:
    (ip, port), (to_ip, to_port) = pair
    result = ProxyResultIPv6(
        (IPv6Address(ip), port),
        (IPv6Address(to_ip), to_port),
        protocol=SOCK_STREAM,
        tlv=written_by_the_other(said),
    )
    _we_read(result, pair, said)


def test_we_read_what_the_other_package_writes_over_unix() -> None:
    result = ProxyResultUnix("/run/a.sock", "", protocol=SOCK_STREAM)
    header = parse_proxy_header(ProxyProtocolV2().pack(result))
    assert isinstance(header, Header)
    assert (header.source, header.destination) == ("/run/a.sock", "")


def _we_read(result: ProxyResult, pair: object, said: Tlvs) -> None:
    header = parse_proxy_header(ProxyProtocolV2().pack(result))
    assert isinstance(header, Header)
    assert (header.source, header.destination) == pair
    assert header.tlvs == replace(said, crc32c=True)
    if not said.others:
        line = parse_proxy_header(ProxyProtocolV1().pack(result))
        assert isinstance(line, Header)
        assert (line.source, line.destination) == pair


def written_by_the_other(said: Tlvs) -> ProxyProtocolTLV:
    ssl = None
    if said.ssl is not None:
        ssl = ProxyProtocolSSLTLV(
            init=dict(said.ssl.others),
            has_ssl=bool(said.ssl.client & 1),
            has_cert_conn=bool(said.ssl.client & 2),
            has_cert_sess=bool(said.ssl.client & 4),
            verified=said.ssl.verify == 0,
            version=said.ssl.version,
            cn=said.ssl.cn,
            cipher=said.ssl.cipher,
            sig_alg=said.ssl.sig_alg,
            key_alg=said.ssl.key_alg,
        )
    return ProxyProtocolTLV(
        init=dict(said.others),
        alpn=said.alpn,
        authority=said.authority,
        unique_id=said.unique_id,
        netns=said.netns,
        ssl=ssl,
    )


def test_whatever_we_take_the_other_package_takes_and_tells_the_same(seed: int) -> None:
    mutator = Mutator(seeds(), f"{seed}/oracle")
    taken = 0
    for _ in range(INPUTS):
        data = mutator.next()
        try:
            header = parse_proxy_header(data)
        except ProxyHeaderError:
            continue
        if isinstance(header, Header) and _comparable(header):
            agree(header, ask(data[: header.length]))
            taken += 1
    print(f"{taken} of {INPUTS} were taken by both")
    assert taken > INPUTS // 20


def _comparable(header: Header) -> bool:
    """Not where it reads something else; see above. Of LOCAL it checks the checksum too."""
    known = header.version == 1 or header.family in ("tcp4", "tcp6")
    return known and not header.tlvs.crc32c
