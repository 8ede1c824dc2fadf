"""The host of an HTTP/1 request, or none where another reader could find another one."""

from __future__ import annotations

import pytest
from harness.lines import lines_run
from hypothesis import given
from hypothesis import strategies as st
from wire.fuzz_client_hello import fuzz_http_host

from spliceproxy.wire.http_host import MAX_HEAD, read_http_host
from spliceproxy.wire.need import Need


def host(data: bytes) -> str | Need | None:
    fuzz_http_host(data)
    return read_http_host(data)


def request(*headers: bytes, line: bytes = b"GET / HTTP/1.1", eol: bytes = b"\r\n") -> bytes:
    return eol.join([line, *headers, b"", b""])


@pytest.mark.parametrize("eol", [b"\r\n", b"\n"])
@pytest.mark.parametrize(
    ("header", "name"),
    [
        (b"Host: www.example.com", "www.example.com"),
        (b"hOsT:WWW.Example.Com", "www.example.com"),
        (b"Host: \t a.example:8080 \t ", "a.example"),
        (b"Host: a.example.:80", "a.example"),
        (b"Host: a.example:", "a.example"),
        (b"Host: 192.0.2.1:80", "192.0.2.1"),
        (b"Host: [2001:DB8::1]:80", "2001:db8::1"),
        (b"Host: [2001:db8::1]", "2001:db8::1"),
        (b"Host:", None),
        (b"Host: :80", None),
        (b"Host: a b", None),
        (b"Host: a.example:80:80", None),
        (b"Host: a.example:http", None),
        (b"Host: user@a.example", None),
        (b"Host: a.example, b.example", None),
        (b"Host: a.example/", None),
        (b"Host: [a.example]", None),
        (b"Host: [::1", None),
        (b"Host: 2001:db8::1", None),
        (b"Host: b\xc3\xbccher.example", None),
        (b"Host: a.example\0", None),
        (b"Host: a.example\x0b", None),
        (b"Host: a\rb.example", None),
        (b"Host : a.example", None),
        (b"\tHost: a.example", None),
        (b"X-Host: a.example", None),
        (b"Host a.example", None),
    ],
)
def test_the_host_header_names_the_host(header: bytes, name: str | None, eol: bytes) -> None:
    assert host(request(header, eol=eol)) == name
    assert host(request(b"Accept: */*", header, b"Cookie: Host: x.example", eol=eol)) == name


def test_a_request_that_others_may_read_otherwise_has_no_host() -> None:
    one, other = b"Host: a.example", b"Host: b.example"
    assert host(request(one)) == "a.example"
    assert host(request(one, other)) is None
    assert host(request(one, one)) is None
    assert host(request(one, b" b.example")) is None
    assert host(request(one, b"\tb.example")) is None
    assert host(request(b"Host:", one)) is None
    assert host(request(one, b"Host:")) is None
    assert host(request(b"X: y", b" folded", one)) is None
    assert host(request(one, b"host\t: b.example")) is None


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"GET http://b.example/path HTTP/1.1", "b.example"),
        (b"GET HTTPS://B.Example:8443?q HTTP/1.0", "b.example"),
        (b"GET http://[2001:db8::2]:80 HTTP/1.1", "2001:db8::2"),
        (b"GET http://user@b.example/ HTTP/1.1", None),
        (b"GET http:///path HTTP/1.1", None),
        (b"CONNECT b.example:443 HTTP/1.1", "b.example"),
        (b"CONNECT [2001:db8::2]:443 HTTP/1.1", "2001:db8::2"),
        (b"CONNECT / HTTP/1.1", None),
    ],
)
def test_a_target_that_names_the_host_counts_and_nothing_more_is_waited_for(
    line: bytes, name: str | None
) -> None:
    assert host(request(b"Host: a.example", line=line)) == name
    assert host(line + b"\r\n") == name
    assert host(line) == Need(len(line) + 1)


@pytest.mark.parametrize(
    "line",
    [
        b"GET /",
        b"GET / HTTP/2.0",
        b"PRI * HTTP/2.0",
        b"GET / HTTP/1.1 ",
        b"GET /a b HTTP/1.1",
        b"GET  / HTTP/1.1",
        b"GET / http/1.1",
        b"GET /\0 HTTP/1.1",
        b"",
    ],
)
def test_what_is_not_a_request_of_http_1_has_no_host(line: bytes) -> None:
    assert host(request(b"Host: a.example", line=line)) is None


def test_no_header_and_no_host_is_no_host() -> None:
    assert host(b"GET / HTTP/1.0\r\n\r\nHost: a.example\r\n\r\n") is None
    assert host(request(b"Accept: */*")) is None


def test_the_body_is_not_looked_at() -> None:
    assert host(request(b"Host: a.example") + b"Host: b.example\r\n\r\n") == "a.example"
    assert host(request(b"Host: a.example") + b"x\nHost: b.example\n\n") == "a.example"
    unix = request(b"Host: a.example", eol=b"\n")
    assert host(unix + b"x\r\nHost: b.example\r\n\r\n") == "a.example"


def test_the_end_of_the_headers_is_waited_for_and_only_so_far() -> None:
    data = request(b"Host: a.example")
    for seen in range(len(data)):
        assert read_http_host(data[:seen]) == Need(seen + 1)
    fill = MAX_HEAD - len(request(b"Host: a.example", b"X: "))
    fits, longer = (request(b"Host: a.example", b"X: " + b"x" * (fill + n)) for n in (0, 1))
    assert len(fits) == MAX_HEAD
    assert host(fits) == "a.example"
    assert host(longer[: MAX_HEAD - 1]) == Need(MAX_HEAD)
    assert host(longer) is None
    assert host(b"G" * MAX_HEAD) is None


NOISE = st.sampled_from(
    [
        b"Host",
        b"host",
        b":",
        b" ",
        b"\t",
        b"\r",
        b"\n",
        b"\r\n",
        b"a.example",
        b"[::1]",
        b":80",
        b"x",
    ]
)


@given(
    line=st.sampled_from(
        [b"GET / HTTP/1.1", b"GET http://b.example/ HTTP/1.1", b"CONNECT b:1 HTTP/1.1"]
    ),
    noise=st.lists(NOISE, max_size=25).map(b"".join),
    end=st.sampled_from([b"", b"\r\n\r\n", b"\n\n", b"\n\r\n"]),
)
def test_every_beginning_says_the_same_or_asks_for_more(
    line: bytes, noise: bytes, end: bytes
) -> None:
    data = line + b"\r\n" + noise + end
    fuzz_http_host(data)
    final = read_http_host(data)
    for seen in range(len(data)):
        found = read_http_host(data[:seen])
        assert found == final or found == Need(seen + 1)


@pytest.mark.parametrize("filler", [b"a: b\r\n", b"\r", b" ", b":", b"Host", b"Host:\t"])
def test_steps_grow_with_the_bytes_and_no_faster(filler: bytes) -> None:
    def read(size: int) -> int:
        data = b"GET / HTTP/1.1\r\n" + filler * (size // len(filler))
        return lines_run(lambda: read_http_host(data + b"\r\n\r\n"))

    short, long = read(MAX_HEAD // 8), read(MAX_HEAD - 100)
    assert long < 9 * short
