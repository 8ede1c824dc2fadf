"""What a client would look like: the question that `explain` answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from spliceproxy.control.draining import TargetError
from spliceproxy.wire.host_name import read_address, read_host_name
from spliceproxy.wire.http_host import read_http_host

PROTOCOLS = ("tls", "http", "ssh", "postgres", "unknown")
"""What the first bytes of a client may be."""


class QuestionError(TargetError):
    """No client looks like that."""


@dataclass(frozen=True, slots=True)
class Client:
    """What is asked about. Names are as the routes have them."""

    source: str = ""
    """Its IP address; empty: it has none, as a client of a UNIX socket."""
    peer: str = ""
    """Where its connection comes from, if not from itself: a proxy that may announce it."""
    protocol: str | None = None
    """One of PROTOCOLS; None: it says nothing."""
    sni: str | None = None
    alpn: tuple[bytes, ...] = ()
    host: str | None = None


def make_client(
    source: str | None = None,
    peer: str | None = None,
    protocol: str | None = None,
    sni: str | None = None,
    alpn: Sequence[str] = (),
    host: str | None = None,
) -> Client:
    """The client that texts describe. What it speaks follows from the names that it says, unless
    it is told. Raises QuestionError."""
    if protocol is None:
        protocol = "tls" if sni is not None or alpn else "http" if host is not None else None
    elif protocol not in PROTOCOLS:
        raise QuestionError(f"protocol {protocol}: write one of {', '.join(PROTOCOLS)}")
    if (sni is not None or alpn) and protocol not in ("tls", "postgres"):
        raise QuestionError(f"sni and alpn are words of TLS, and the client speaks {protocol}")
    if host is not None and protocol != "http":
        raise QuestionError(f"host is a word of HTTP, and the client speaks {protocol}")
    return Client(
        _address("source", source),
        _address("peer", peer),
        protocol,
        None if sni is None else _server_name(sni),
        tuple(name.encode() for name in alpn),
        None if host is None else _host(host),
    )


def _address(key: str, text: str | None) -> str:
    if not text:
        return ""
    try:
        return str(ip_address(text))
    except ValueError:
        raise QuestionError(f"{key} {text}: it is no IP address") from None


def _server_name(text: str) -> str:
    raw = text.encode()
    name = None if read_address(raw) else read_host_name(raw)
    if name is None:
        raise QuestionError(f"sni {text}: it is no host name, and TLS knows no other ones")
    return name


def _host(text: str) -> str:
    """As a worker reads it out of a request."""
    name = read_http_host(b"GET / HTTP/1.1\r\nHost: " + text.encode() + b"\r\n\r\n")
    if not isinstance(name, str):
        raise QuestionError(f"host {text}: it is no host name")
    return name
