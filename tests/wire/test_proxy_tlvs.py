"""What version 2 of the PROXY protocol says beside addresses: TLVs and their checksum."""

from __future__ import annotations

import pytest
from fuzz_proxy_protocol import check_every_split
from proxy_headers import raw_header

from spliceproxy.wire.crc32c import crc32c
from spliceproxy.wire.proxy_protocol import (
    NO_TLVS,
    Header,
    ProxyHeaderError,
    Ssl,
    Tlvs,
    build_v2,
    parse_proxy_header,
)

CLIENT, SERVER = ("192.0.2.1", 50000), ("192.0.2.2", 443)


def with_tlvs(raw: bytes, family: int = 0x11) -> bytes:
    """A header from CLIENT to SERVER with these bytes behind the addresses."""
    block = build_v2(CLIENT, SERVER)[16:] if family == 0x11 else b""
    return raw_header(family, block + raw)


def tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


def read(raw: bytes, family: int = 0x11) -> Tlvs:
    header = check_every_split(with_tlvs(raw, family) + b"hello")
    assert isinstance(header, Header), header
    assert header.length == len(with_tlvs(raw, family))
    return header.tlvs


def error_of(raw: bytes) -> str:
    with pytest.raises(ProxyHeaderError) as caught:
        parse_proxy_header(with_tlvs(raw))
    assert check_every_split(with_tlvs(raw) + b"hello") == str(caught.value)
    return str(caught.value)


def test_every_type_of_the_specification_is_read() -> None:
    ssl = (
        b"\x07\0\0\0\0"
        + tlv(0x21, b"TLSv1.3")
        + tlv(0x22, "J\u00fcrgen".encode())
        + tlv(0x23, b"ECDHE-RSA-AES128-GCM-SHA256")
        + tlv(0x24, b"RSA-SHA256")
        + tlv(0x25, b"RSA2048")
        + tlv(0x26, b"X25519")
    )
    raw = (
        tlv(0x01, b"h2")
        + tlv(0x02, "b\u00fccher.example".encode())
        + tlv(0x04, bytes(20))
        + tlv(0x05, b"\x00\xff" * 64)
        + tlv(0x20, ssl)
        + tlv(0x30, b"blue")
        + tlv(0xEA, b"\x01vpce-08d2bf15fac5001c9")
        + tlv(0x77, b"")
        + tlv(0xEA, b"again")
    )
    assert read(raw) == Tlvs(
        alpn=b"h2",
        authority="b\u00fccher.example",
        unique_id=b"\x00\xff" * 64,
        netns="blue",
        ssl=Ssl(
            client=Ssl.TLS | Ssl.CERTIFICATE_NOW | Ssl.CERTIFICATE_IN_SESSION,
            verify=0,
            version="TLSv1.3",
            cn="J\u00fcrgen",
            cipher="ECDHE-RSA-AES128-GCM-SHA256",
            sig_alg="RSA-SHA256",
            key_alg="RSA2048",
            others=((0x26, b"X25519"),),
        ),
        others=((0xEA, b"\x01vpce-08d2bf15fac5001c9"), (0x77, b""), (0xEA, b"again")),
    )


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"\x01", "1 bytes are left behind the last TLV"),
        (b"\x01\0", "2 bytes are left behind the last TLV"),
        (tlv(0x01, b"h2") + b"\0", "1 bytes are left"),
        (b"\x02\0\x01", "type 0x02 says 1 bytes, but only 0 follow"),
        (b"\x02\xff\xffabc", "type 0x02 says 65535 bytes, but only 3 follow"),
        (tlv(0x02, b"a") * 2, "AUTHORITY is there twice"),
        (tlv(0x03, bytes(4)) * 2, "CRC32C is there twice"),
        (tlv(0x02, b"ab\xff"), "AUTHORITY is no UTF-8: byte 3 of it is 0xff"),
        (tlv(0x30, b"\xc3\xa9"), "NETNS is no ASCII: byte 1 of it is 0xc3"),
        (tlv(0x05, bytes(129)), "UNIQUE_ID has 129 bytes"),
        (tlv(0x03, bytes(3)), "CRC32C has 3 bytes"),
        (tlv(0x03, bytes(4)), "the checksum is wrong: the header says 0x00000000"),
        (tlv(0x20, bytes(4)), "SSL has 4 bytes"),
        (tlv(0x20, bytes(5) + b"\x21\0"), "2 bytes are left"),
        (tlv(0x20, bytes(5) + b"\x21\0\x09TLSv1.3"), "type 0x21 says 9 bytes, but only 7 follow"),
        (tlv(0x20, bytes(5) + tlv(0x21, b"a") * 2), "SSL_VERSION is there twice"),
        (tlv(0x20, bytes(5) + tlv(0x23, b"\x80")), "SSL_CIPHER is no ASCII"),
    ],
)
def test_tlvs_that_are_not_what_they_say_are_refused(raw: bytes, sentence: str) -> None:
    assert sentence in error_of(raw)


def test_a_common_name_in_an_older_code_refuses_nobody() -> None:
    ssl = read(tlv(0x20, bytes(5) + tlv(0x22, b"J\xfcrgen"))).ssl
    assert ssl is not None
    assert ssl.cn == "J\ufffdrgen"


def test_unspec_may_have_tlvs_or_whatever_the_sender_put_there() -> None:
    for family in (0x00, 0x01, 0x10, 0x20, 0x30):
        assert read(tlv(0x02, b"a.example"), family) == Tlvs(authority="a.example")
        assert read(bytes.fromhex("C0000201 C0000202 0001 0002"), family) == NO_TLVS


def test_a_checksum_is_checked_wherever_it_stands_among_the_tlvs() -> None:
    before, after = tlv(0x01, b"h2"), tlv(0x02, b"www.example.com")
    for family in (0x11, 0x00):
        zeroed = with_tlvs(before + tlv(0x03, bytes(4)) + after, family)
        good = before + tlv(0x03, crc32c(zeroed).to_bytes(4, "big")) + after
        assert read(good, family) == Tlvs(alpn=b"h2", authority="www.example.com", crc32c=True)


def test_one_bit_that_is_wrong_anywhere_is_found_by_the_checksum() -> None:
    good = build_v2(CLIENT, SERVER, Tlvs(authority="www.example.com", crc32c=True))
    kind = len(good) - 7  # with another type it is no checksum, but a TLV that nobody knows
    for place in set(range(16, len(good))) - {kind}:
        for bit in range(8):
            bad = bytearray(good)
            bad[place] ^= 1 << bit
            with pytest.raises(ProxyHeaderError):
                parse_proxy_header(bad)


def test_crc32c_of_the_known_examples() -> None:
    # RFC 3720, appendix B.4, and the usual check value.
    assert crc32c(b"") == 0
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(bytes(range(31, -1, -1))) == 0x113FDB5C


def test_what_does_not_fit_is_not_written() -> None:
    with pytest.raises(ValueError, match="a unique id of 129 bytes"):
        build_v2(CLIENT, SERVER, Tlvs(unique_id=bytes(129)))
    with pytest.raises(ValueError, match="a PROXY header of 4097 bytes"):
        build_v2(CLIENT, SERVER, Tlvs(others=((0xE0, bytes(4066)),)))
    with pytest.raises(ValueError, match="70000 bytes for the TLV 0xe0"):
        build_v2(CLIENT, SERVER, Tlvs(others=((0xE0, bytes(70000)),)))
    with pytest.raises(UnicodeEncodeError):
        build_v2(CLIENT, SERVER, Tlvs(netns="b\u00fc"))
