"""What is asked of workers about their sessions: which ones, in which order, and what they answer.

A `SessionFilter` says which sessions are meant; all that it says must hold. It travels as JSON in a
message, and is tried with live sessions and with records by the same rules.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from operator import itemgetter
from typing import Any, Final, Generic, TypeVar

import orjson

from spliceproxy.errors import SpliceproxyError
from spliceproxy.telemetry.record import WHYS

MOST: Final = 1000
"""Sessions of one answer, at the most."""
DEEPEST: Final = 10_000
"""Sessions that a worker sorts for one answer, at the most."""
SORTS: Final = ("age", "idle", "bytes", "rate", "rtt")
"""By what sessions can be sorted, the largest first; with a minus in front, the smallest."""

_SHOWN: Final = 60
"""Characters of what was asked that an error shows."""
LONGEST_WORD: Final = 512
"""Characters of one word of a filter, at the most: no name is longer, and a question with as many
words and sessions as there can be stays one message, however much of it has to be escaped."""
_SESSION: Final = re.compile("[0-9a-f]{1,8}-[0-9a-f]{8}-[0-9a-f]{1,16}")

_EQUAL: Final = ("listener", "pool", "upstream", "route", "sni", "phase", "why")


class QueryError(SpliceproxyError):
    """A filter or a question that makes no sense."""


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """Which sessions are meant. What is empty says nothing."""

    listener: str = ""
    pool: str = ""
    upstream: str = ""
    route: str = ""
    sni: str = ""
    phase: str = ""
    why: str = ""
    """Of records alone: a session that lives has none."""
    client: str = ""
    """An IP address, a network, or an address as the record has it, with its port."""
    min_age: float = 0.0
    """Seconds since accept, at the least."""
    min_idle: float = 0.0
    """Seconds without a byte, at the least."""

    def __post_init__(self) -> None:
        """Raises QueryError."""
        for name in (*_EQUAL, "client"):
            if len(getattr(self, name)) > LONGEST_WORD:
                raise QueryError(f"{name} has {LONGEST_WORD} characters at the most")
        if self.client:
            _client_test(self.client)
        for name in ("min_age", "min_idle"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise QueryError(f"{name} is a number of seconds, 0 or more")

    @property
    def empty(self) -> bool:
        """It means every session."""
        return self == SessionFilter()


@dataclass(frozen=True, slots=True)
class SessionQuery:
    """A question for live sessions."""

    where: SessionFilter = SessionFilter()
    ids: tuple[str, ...] = ()
    """These alone, where there are any."""
    sort: str = "age"
    offset: int = 0
    limit: int = 100

    def __post_init__(self) -> None:
        """Raises QueryError."""
        for one in self.ids:
            # Above all no empty one: so are those called that nobody was told of.
            if _SESSION.fullmatch(one) is None:
                shown = "".join(char if char.isprintable() else "?" for char in one[:_SHOWN])
                raise QueryError(f'"{shown}" is no session; write for example 0-eb810881-1')
        if self.sort.removeprefix("-") not in SORTS:
            raise QueryError(f"sort is one of {', '.join(SORTS)}; with - in front, turned around")
        if not 1 <= self.limit <= DEEPEST:
            raise QueryError(f"limit is from 1 to {MOST}")
        if not 0 <= self.offset <= DEEPEST - self.limit:
            raise QueryError(f"offset is from 0 to {DEEPEST - self.limit}; name what you look for")

    def encode(self) -> str:
        """As JSON."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def decode(cls, text: str) -> SessionQuery:
        """What `encode` made text of."""
        values = orjson.loads(text)
        where = SessionFilter(**values.pop("where"))
        return cls(where=where, ids=tuple(values.pop("ids")), **values)


def filter_of(words: Mapping[str, Any]) -> SessionFilter:
    """The filter of these words, as a person sends them. Raises QueryError: unknown, or no text."""
    known = {field.name: field.type for field in fields(SessionFilter)}
    values: dict[str, Any] = {}
    for name, value in words.items():
        if name not in known:
            raise QueryError(f"there is no filter {name}; there are {', '.join(known)}")
        if known[name] == "float":
            try:
                values[name] = float(value)
            except (TypeError, ValueError):
                raise QueryError(f"{name} is a number of seconds") from None
        elif not isinstance(value, str):
            raise QueryError(f"{name} is a text")
        else:
            values[name] = value
    if (why := values.get("why")) and why not in WHYS:
        raise QueryError(f"why: no session ends for {why!r}; {_nearest(why)}")
    return SessionFilter(**values)


def _nearest(why: str) -> str:
    import difflib  # late: no worker needs it

    near = difflib.get_close_matches(why[:80], WHYS, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(WHYS))}"


T = TypeVar("T")

Looks = Mapping[str, Callable[[T], Any]]
"""How each word of a filter is looked up: listener and the like, `client`, `age`, `idle`."""


class Matcher(Generic[T]):
    """Tells whether a filter means a session, or the session of a record."""

    __slots__ = ("_age", "_client", "_client_of", "_equal", "_idle", "_min_age", "_min_idle")

    def __init__(self, where: SessionFilter, looks: Looks[T]) -> None:
        wanted = ((looks[name], getattr(where, name)) for name in _EQUAL)
        self._equal = [(look, value) for look, value in wanted if value]
        self._client = _client_test(where.client) if where.client else None
        self._client_of = looks["client"]
        self._min_age, self._age = where.min_age, looks["age"]
        self._min_idle, self._idle = where.min_idle, looks["idle"]

    def __call__(self, session: T) -> bool:
        for look, value in self._equal:
            if look(session) != value:
                return False
        if self._min_age and self._age(session) < self._min_age:
            return False
        if self._min_idle and self._idle(session) < self._min_idle:
            return False
        return self._client is None or self._client(self._client_of(session))


RECORD_LOOKS: Final[Looks[Mapping[str, Any]]] = {
    **{name: itemgetter(name) for name in (*_EQUAL, "client")},
    "age": lambda record: record["duration_ms"] / 1000,
    "idle": lambda _record: 0.0,
}
"""For session records."""


class _Client:
    """Tells whether the text of an address is the wanted one, or lies in the wanted network."""

    __slots__ = ("_network", "_text")

    def __init__(self, text: str) -> None:
        """Raises ValueError."""
        self._text = text
        self._network = None
        if not text.startswith("unix:") and _host(text) is None:
            self._network = ipaddress.ip_network(text, strict=False)

    def __call__(self, address: str) -> bool:
        if self._network is None:
            return address == self._text
        host = _host(address)
        return host is not None and host in self._network


def _client_test(text: str) -> _Client:
    """Raises QueryError."""
    try:
        return _Client(text)
    except ValueError:
        raise QueryError(
            f"client: {text} is no address; write 10.0.0.1, 10.0.0.0/8 or 10.0.0.1:4711"
        ) from None


def _host(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address of `host:port` as records have it; None: it is something else."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or (":" in host) != host.startswith("["):
        return None
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if address.version == 6 else None
    return mapped or address


SortKey = Sequence[float]
"""What a session is sorted by. No two have the same: what comes first must not depend on who
answered first."""


def encode_found(keys: Sequence[SortKey], sessions: Sequence[bytes]) -> bytes:
    """An answer of a worker: what its sessions are sorted by, and each as JSON."""
    return b"\n".join((orjson.dumps(keys), *sessions))


def decode_found(data: bytes) -> Iterator[tuple[SortKey, bytes]]:
    """What `encode_found` made bytes of. Of thousands of sessions few are told in the end, so they
    stay as they are."""
    keys, *sessions = data.split(b"\n")
    return zip(orjson.loads(keys), sessions, strict=True)


def encode_lost(records: int) -> bytes:
    """How many records a watcher was not told, on its socket."""
    return b"%d" % records


def decode_told(data: bytes) -> bytes | int:
    """What came from that socket: a record as a line of JSON, or how many were lost."""
    return data if data[:1] == b"{" else int(data)
