"""Addresses: host:port, [v6]:port, :port, unix:/path, unix:@abstract, srv:name, file:/path."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from functools import lru_cache

from spliceproxy.config.problems import show

ADDRESS = "write host:port, [v6]:port, unix:/path or unix:@name"
MAX_UNIX_PATH = 107
"""Bytes of a UNIX socket's path, at most: sun_path has 108 and ends with NUL, unix(7)."""

_REMEMBERED = 20_000
"""Texts whose addresses are kept: one is parsed for its type, for what it has to do with others,
and again at each reload. As many as one file can hold."""

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
# A dot between two labels is no option: one long word could else be cut into labels in more ways
# than anybody has time to try.
_HOST = re.compile(rf"(?=.{{1,253}}\.?$)(?:{_LABEL}\.)*{_LABEL}\.?")
_DIGITS = re.compile(r"[0-9]+")
_DIGITS_AND_DOTS = re.compile(r"[0-9.]+")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a socket listens or connects to: `host` and `port`, or `path`, or `abstract`; or, of
    upstreams only, where such addresses are found: `srv`, or `file`.

    `str()` is the canonical text: what the configuration could say, what records and logs show.
    """

    host: str = ""
    """An IP address without brackets, or a name; empty: every address, IPv4 and IPv6."""
    port: int = 0
    """0, for listeners only: any free port."""
    path: str = ""
    """Of a UNIX socket in the file system."""
    abstract: str = ""
    """Name of a UNIX socket in the abstract namespace, without its leading NUL."""
    srv: str = ""
    """A name whose SRV records say where the upstreams are."""
    file: str = ""
    """The path of a file that lists upstreams."""

    @property
    def is_unix(self) -> bool:
        return bool(self.path or self.abstract)

    @property
    def ip(self) -> IpAddress | None:
        """The IP address, where `host` is one."""
        return parse_ip(self.host)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        if self.abstract:
            return f"unix:@{self.abstract}"
        if self.srv or self.file:
            return f"srv:{self.srv}" if self.srv else f"file:{self.file}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@lru_cache(_REMEMBERED)
def parse_address(text: str) -> Address:
    """The address of an upstream: it has a host, and a port that is not 0; or `srv:` or `file:`.

    Raises ValueError("what is wrong; what would be right").
    """
    kind, _, name = text.partition(":")
    if kind in ("srv", "file") and not _DIGITS.fullmatch(name):  # else a host of that name
        return _srv(name, text) if kind == "srv" else _file(name, text)
    address = parse_bind(text)
    if address.is_unix:
        return address
    if not address.host:
        raise ValueError(f"{show(text)} names no host; write for example 127.0.0.1:{address.port}")
    if not address.port:
        raise ValueError(f"{show(text)} has port 0; write the port that the upstream listens on")
    return address


@lru_cache(_REMEMBERED)
def parse_bind(text: str) -> Address:
    """The address of a listener, where `:port` is every address and port 0 is any free port.

    Raises ValueError("what is wrong; what would be right").
    """
    if text.startswith("unix:"):
        return _unix(text)
    if text.startswith("/"):
        raise ValueError(f"{show(text)} is a path; write unix:{text}")
    if text.startswith("["):
        return _bracketed(text)
    if parse_ip(text) and ":" in text:
        host, _, port = text.rpartition(":")
        meant = f"[{host}]:{port} or " if parse_ip(host) and port.isdecimal() else ""
        raise ValueError(f"{show(text)} is IPv6 without brackets; write {meant}[{text}]:port")
    host, colon, port = text.rpartition(":")
    if not colon:
        if re.fullmatch(r"\d{1,5}", text, re.ASCII):
            raise ValueError(f"{show(text)} is only a port; write :{text} or host:{text}")
        raise ValueError(f"{show(text)} has no port; {ADDRESS}")
    if "://" in text:
        raise ValueError(f"{show(text)} is a URL; write host:port only")
    if ":" in host:
        raise ValueError(f"{show(text)} has too many colons; write IPv6 as [::1]:8080")
    if host == "*":
        raise ValueError(f'{show(text)} has a * for the host; write ":{port}" for every address')
    return Address(host=_host(host), port=_port(port, text))


def parse_dns_server(text: str) -> Address:
    """The address of a DNS server: an IP address, or one with a port; 53 where there is none.

    Raises ValueError("what is wrong; what would be right").
    """
    right = "write an IP address such as 10.0.0.53, with a port 10.0.0.53:5353 or [::1]:5353"
    ip = parse_ip(text.removeprefix("[").removesuffix("]"))
    if ip is not None:
        return Address(host=str(ip), port=53)
    try:
        server = parse_address(text)
    except ValueError:
        raise ValueError(f"{show(text)} is no address of a DNS server; {right}") from None
    if server.is_unix or server.ip is None:
        raise ValueError(f"{show(text)} is no address of a DNS server; {right}")
    return server


@lru_cache(_REMEMBERED)
def parse_ip(text: str) -> IpAddress | None:
    """An IP address without port or brackets, or None."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def overlap(one: Address, other: Address) -> bool:
    """Whether two listening sockets cannot have these addresses at the same time.

    A wildcard overlaps every address of its family, `:port` those of both; port 0 overlaps
    nothing. Names are compared, not resolved.
    """
    if one.is_unix or other.is_unix:
        return one == other
    if one.port != other.port or one.port == 0:
        return False
    if not one.host or not other.host or one.host == other.host:
        return True
    first, second = one.ip, other.ip
    if first is None or second is None or first.version != second.version:
        return False
    return first.is_unspecified or second.is_unspecified or first == second


def _unix(text: str) -> Address:
    name = text.removeprefix("unix:")
    if not name.startswith(("/", "@")):
        raise ValueError(f"{show(text)} is not an absolute path; write unix:/path or unix:@name")
    if name == "@" or name.endswith("/"):
        raise ValueError(f"{show(text)} names no socket; write unix:/path or unix:@name")
    if "\0" in name:
        raise ValueError(f"{show(text)} holds a NUL character; remove it")
    if (length := len(os.fsencode(name.removeprefix("@")))) > MAX_UNIX_PATH:
        raise ValueError(f"the path has {length} bytes; the kernel takes at most {MAX_UNIX_PATH}")
    return Address(abstract=name[1:]) if name.startswith("@") else Address(path=name)


def _srv(name: str, text: str) -> Address:
    right = "write for example srv:_app._tcp.example.com"
    host, colon, port = name.rpartition(":")
    if colon and _DIGITS.fullmatch(port) and _HOST.fullmatch(host):
        raise ValueError(
            f"{show(text)} has a port, and SRV records bring their own; write srv:{host}"
        )
    if not _HOST.fullmatch(name) or _DIGITS_AND_DOTS.fullmatch(name):
        raise ValueError(f"{show(text)} names no SRV records; {right}")
    return Address(srv=name.lower())


def _file(path: str, text: str) -> Address:
    if not path.startswith("/"):
        raise ValueError(f"{show(text)} is not an absolute path; write file:/path/of/list.yaml")
    if path.endswith("/") or "\0" in path:
        raise ValueError(f"{show(text)} names no file; write file:/path/of/list.yaml")
    return Address(file=path)


def _bracketed(text: str) -> Address:
    match = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", text)
    ip = parse_ip(match[1]) if match else None
    if match is None or not isinstance(ip, ipaddress.IPv6Address):
        raise ValueError(f"{show(text)} is not an IPv6 address and a port; write [::1]:8080")
    if match[2] is None:
        raise ValueError(f"{show(text)} has no port; write {text}:port")
    return Address(host=str(ip), port=_port(match[2], text))


def _host(host: str) -> str:
    if not host:
        return ""
    if ip := parse_ip(host):
        return str(ip)
    if _DIGITS_AND_DOTS.fullmatch(host):
        raise ValueError(f"{show(host)} is not an IPv4 address; write four numbers from 0 to 255")
    if not _HOST.fullmatch(host):
        raise ValueError(f"{show(host)} is neither an IP address nor a host name; {ADDRESS}")
    return host.lower()


def _port(port: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or int(port) > 65535:
        raise ValueError(f"{show(text)} has no valid port; write a port from 1 to 65535")
    return int(port)
