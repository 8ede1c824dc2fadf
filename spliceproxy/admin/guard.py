"""Who may do what at which door: pure, by what a request says of itself.

    door         read                      write                 Host and Origin
    UNIX         the mode of its file says                       do not matter
    LOOPBACK     everybody                 the write token       must be ours
    ELSEWHERE    the read or write token   the write token       must be ours
    METRICS      everybody                 there is none         do not matter

Paths that are open to all want no token: `OPEN` is health, asked for by probes, which name any Host
or none; `PAGE` the dashboard's files, which hold no data. These are not refused for their origin: a
link from elsewhere may be followed, and who embeds them can read nothing of them.

Why Host: a page whose own name was made to lead to 127.0.0.1 is of our origin for the browser (DNS
rebinding), but its requests name it. Why Origin and Sec-Fetch-Site: a page elsewhere can have a
browser send requests whose answers it may not read, but which would be carried out. `same-site` is
elsewhere too: to browsers all ports of localhost are one site.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import ip_address


class Entry(Enum):
    """By which kind of door a request came."""

    UNIX = auto()
    LOOPBACK = auto()
    ELSEWHERE = auto()
    METRICS = auto()


class Need(Enum):
    """What a path asks of who comes."""

    OPEN = auto()
    PAGE = auto()
    READ = auto()
    WRITE = auto()


@dataclass(frozen=True, slots=True)
class Claims:
    """What a request says of itself: the values of these headers, each as often as it stands."""

    host: Sequence[str] = ()
    origin: Sequence[str] = ()
    fetch_site: Sequence[str] = ()
    authorization: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens in force."""

    write: bytes
    read: bytes | None = None
    """None: nobody has one, so where one is needed only the write token will do."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is turned away, and with which HTTP status."""

    status: int
    text: str


_NO_TOKEN = Refusal(401, "this needs a token: Authorization: Bearer and the token")
_WRONG_TOKEN = Refusal(401, "this token is not the right one")
_READ_TOKEN = Refusal(401, "this needs the write token; the read token is for reading")
_OTHER_ORIGIN = Refusal(403, "a web page of another origin may not ask this")

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+))(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(r"https?://([^/]+)")
_BEARER = re.compile(r"bearer +([!-~]+) *", re.IGNORECASE)
_OURS = ("same-origin", "none")
"""Sec-Fetch-Site of our own page, and of what a person typed into the browser."""


def refusal(
    entry: Entry, need: Need, claims: Claims, tokens: Tokens, hosts: Collection[str]
) -> Refusal | None:
    """Why a request may not come in; None: it may.

    `hosts` are the names of this machine, in lower case, beside `localhost`.
    """
    if entry in (Entry.UNIX, Entry.METRICS) or need is Need.OPEN:
        return None
    if wrong := _foreign(need, claims, hosts):
        return wrong
    if need is Need.PAGE or (need is Need.READ and entry is Entry.LOOPBACK):
        return None
    return _lacks_token(need, claims, tokens)


def may_write(entry: Entry, claims: Claims, tokens: Tokens) -> bool:
    """Whether who came in could give orders too."""
    if entry in (Entry.UNIX, Entry.METRICS):
        return entry is Entry.UNIX
    return _lacks_token(Need.WRITE, claims, tokens) is None


def _foreign(need: Need, claims: Claims, hosts: Collection[str]) -> Refusal | None:
    if len(claims.host) != 1:
        return Refusal(400, "a request names one Host")
    [host] = claims.host
    if not is_ours(host, hosts):
        return Refusal(403, f"this is not {_shown(host)}; admin.hosts lists names for this machine")
    if need is Need.PAGE:
        return None
    for origin in claims.origin:
        match = _ORIGIN.fullmatch(origin)
        if match is None or match[1].lower() != host.lower():
            return _OTHER_ORIGIN
    if any(site not in _OURS for site in claims.fetch_site):
        return _OTHER_ORIGIN
    return None


def is_ours(host: str, hosts: Collection[str]) -> bool:
    """Whether a Host header, with or without a port, names this machine: by an IP address, which no
    page can have for its name, or by one of its names."""
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = (match[1] or match[2]).lower().removesuffix(".")
    if name == "localhost" or name in hosts:
        return True
    try:
        return ip_address(name).version == (6 if match[1] else 4)
    except ValueError:
        return False


def _lacks_token(need: Need, claims: Claims, tokens: Tokens) -> Refusal | None:
    if not claims.authorization:
        return _NO_TOKEN
    match = _BEARER.fullmatch(claims.authorization[0]) if len(claims.authorization) == 1 else None
    said = b"" if match is None else match[1].encode()
    # Both are compared, each in a time that tells nothing of what they have in common.
    writes = hmac.compare_digest(said, tokens.write)
    reads = tokens.read is not None and hmac.compare_digest(said, tokens.read)
    if writes or (reads and need is Need.READ):
        return None
    return _READ_TOKEN if reads else _WRONG_TOKEN


def _shown(host: str) -> str:
    text = "".join(char if char.isprintable() else "?" for char in host[:60])
    return f'"{text}"'
