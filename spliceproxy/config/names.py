"""What clients may ask for by name, as people write it in routes."""

from __future__ import annotations

import re

from spliceproxy.config.problems import show
from spliceproxy.wire.host_name import read_address, read_host_name

RIGHT = "write a name such as www.example.com, or *.example.com"


def server_name(text: str) -> str:
    """A name of SNI, or `*.` and a name: in lower case, without a trailing dot.

    Raises ValueError("wrong; right"), as all here do.
    """
    if read_address(text.encode()) is not None:
        raise ValueError(f"{show(text)} is an address, which no client names in SNI; {RIGHT}")
    return _pattern(text)


def http_host(text: str) -> str:
    """The same for HTTP, where a host may be an IP address."""
    ip = read_address(text.removeprefix("[").removesuffix("]").encode())
    return _pattern(text) if ip is None else ip


def _pattern(text: str) -> str:
    star = "*." if text.startswith("*.") else ""
    name = read_host_name(text.removeprefix("*.").encode())
    if name is None:
        raise ValueError(f"{show(text)} is not a host name; {_right(text)}")
    return star + name


def _right(text: str) -> str:
    if text == "*":
        return "leave the key out, or write a name such as *.example.com"
    if ":" in text:
        return f"write it without a port: {text.partition(':')[0]}"
    try:
        ascii_form = text.encode("idna").decode()
    except UnicodeError:
        return RIGHT
    return RIGHT if text.isascii() else f"write it as {ascii_form}"


def alpn(text: str) -> str:
    """An identifier of ALPN (RFC 7301): 1 to 255 bytes, here of printable ASCII."""
    if not re.fullmatch(r"[!-~]{1,255}", text):
        raise ValueError(f"{show(text)} is no protocol of ALPN; write for example h2 or http/1.1")
    return text
