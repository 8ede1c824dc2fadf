"""Names as people write them: of listeners and pools, of what clients ask for, of what certificates
are for.

Each function raises ValueError("what is wrong; what would be right").
"""

from __future__ import annotations

import re
from typing import Any, Final

from spliceproxy.config import units
from spliceproxy.config.problems import describe, show
from spliceproxy.wire.host_name import read_address, read_host_name

MAX_NAME = 64
"""Characters of a listener's or pool's name, at most."""
ITEM: Final = rf"[A-Za-z0-9_.-]{{1,{MAX_NAME}}}"
"""Such a name, as a regular expression."""

RIGHT = "write a name such as www.example.com, or *.example.com"

HOST_RIGHT = "write a name such as proxy.example.com"
CERTIFICATE_RIGHT = "write a name such as app.internal.example.com, or an IP address"


def item_name(raw: object) -> str:
    """The name of a listener or of a pool, where it is defined."""
    if not isinstance(raw, str) or not re.fullmatch(ITEM, raw):
        raise ValueError(
            f"not a name; write 1 to {MAX_NAME} letters, digits, dots, hyphens or underscores"
        )
    return raw


def server_name(text: str) -> str:
    """A name of SNI, or `*.` and a name: in lower case, without a trailing dot."""
    if read_address(_bytes(text)) is not None:
        raise ValueError(f"{show(text)} is an address, which no client names in SNI; {RIGHT}")
    return _pattern(text)


def certificate_name(text: str) -> str:
    """A name that one certificate is for, or an IP address."""
    ip = read_address(text.removeprefix("[").removesuffix("]").encode())
    if ip is not None:
        return ip
    if text.startswith("*."):
        raise ValueError(f"{show(text)} is not one name; {CERTIFICATE_RIGHT}")
    try:
        return _pattern(text)
    except ValueError:
        if ":" in text or not text.isascii():  # what is said of these holds here as well
            raise
        raise ValueError(f"{show(text)} is not a host name; {CERTIFICATE_RIGHT}") from None


def http_host(text: str) -> str:
    """The same for HTTP, where a host may be an IP address."""
    ip = read_address(_bytes(text.removeprefix("[").removesuffix("]")))
    return _pattern(text) if ip is None else ip


def host_name(text: str) -> str:
    """One name of a machine."""
    if text.startswith("*."):
        raise ValueError(f"{show(text)} is not one name; {HOST_RIGHT}")
    return _pattern(text)


def _pattern(text: str) -> str:
    star = "*." if text.startswith("*.") else ""
    name = read_host_name(_bytes(text.removeprefix("*.")))
    if name is None:
        raise ValueError(f"{show(text)} is not a host name; {_right(text)}")
    return star + name


def _bytes(text: str) -> bytes:
    """What no encoding has can come from a variable of the environment; a name has none of it."""
    return text.encode(errors="replace")


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


def pool_shares(raw: object) -> tuple[tuple[str, int], ...]:
    """A pool, or several with their shares; those of 0 are left out."""
    right = "write the name of a pool, or shares of several: {app: 95, canary: 5}"
    if isinstance(raw, str) and raw:
        return ((raw, 1),)
    if not isinstance(raw, dict) or not raw:
        raise ValueError(f"is {describe(raw)}; {right}")
    shares = []
    for name, share in raw.items():
        if not isinstance(share, str):
            raise ValueError(f"the share of {show(name)} is {describe(share)}; {right}")
        try:
            shares.append((name, units.integer(share, 0, 1000)))
        except ValueError as error:
            raise ValueError(f"the share of {show(name)}: {error}") from None
    if not any(share for _, share in shares):
        raise ValueError("every share is 0; give a pool a share of at least 1")
    return tuple((name, share) for name, share in shares if share)


def pool_name(raw: object) -> str | None:
    """None is the default alone: what is written is text."""
    if raw is None:
        return None
    if not isinstance(raw, str):
        raise ValueError(f"is {describe(raw)} where one value belongs; write the name of a pool")
    if not raw:
        raise ValueError("has no value; write the name of a pool")
    return raw


POOL_SHARES_SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "additionalProperties": {"type": ["number", "string"]}},
    ],
    "x-unit": "name / shares",
}
