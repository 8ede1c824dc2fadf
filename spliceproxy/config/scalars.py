"""The types of single values: how each is read, and how editors and the reference show it.

A value arrives as text (or as a list or mapping, which is then a mistake) and leaves typed.
`x-unit` in the JSON schema is what the reference prints in its column "unit".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, PlainValidator, WithJsonSchema

from spliceproxy.config import address, names, networks, units
from spliceproxy.config.address import Address, IpAddress
from spliceproxy.config.problems import describe, show
from spliceproxy.config.suggest import nearest

T = TypeVar("T")

MAX_NAME = 64
"""Characters of a listener's or pool's name, at most."""

KIB, MIB, GIB = 1024, 1024**2, 1024**3
MILLION = 1_000_000

CHECKS = ("tcp", "http", "tls", "exchange", "redis", "postgres", "smtp")
"""The health checks."""
BALANCES = ("round_robin", "random", "power_of_two", "least_sessions", "source_hash", "sni_hash")
"""How a pool may choose."""


def _read(parse: Callable[[str], T], right: str) -> PlainValidator:
    """One value, read by `parse`, which tells what is wrong by ValueError."""

    def read(raw: object) -> T:
        if not isinstance(raw, str):
            raise ValueError(f"is {describe(raw)} where one value belongs; {right}")
        if not raw:
            raise ValueError(f"has no value; {right}")
        return parse(raw)

    return PlainValidator(read)


def _or(word: str, parse: Callable[[str], T]) -> Callable[[str], T | None]:
    """`word` is None; where what stands there is no number either, `word` is told too."""

    def read(text: str) -> T | None:
        if text == word:
            return None
        try:
            return parse(text)
        except ValueError as error:
            known = "" if text[:1].isdigit() else f", or {word}"
            raise ValueError(f"{error}{known}") from None

    return read


def _choice(*words: str) -> PlainValidator:
    right = "write " + (" or ".join(words) if len(words) < 3 else f"one of {', '.join(words)}")

    def parse(text: str) -> str:
        if text in words:
            return text
        near = nearest(text, words)
        what = f"did you mean {near}?" if near else right
        raise ValueError(f"{show(text)} is not known here; {what}")

    return _read(parse, right)


def _schema(unit: str, *words: str) -> WithJsonSchema:
    """Any scalar: YAML types an unquoted 4 or true, and an editor must accept both.

    `words` are proposed. An editor that reads YAML 1.1 takes `off` for false.
    """
    scalar: dict[str, Any] = {"type": ["string", "number", "boolean"], "x-unit": unit}
    if words:
        scalar["anyOf"] = [{"enum": list(words)}, {}]
    return WithJsonSchema(scalar)


def _closed(*words: str) -> WithJsonSchema:
    """One of `words`, or what a variable holds."""
    values: list[object] = [*words, False] if "off" in words else [*words]
    variable = {"type": "string", "pattern": r"\$\{"}
    return WithJsonSchema({"anyOf": [{"enum": values}, variable], "x-unit": " / ".join(words)})


def _none_if_off(word: str) -> str | None:
    return None if word == "off" else word


def _number(least: int, most: int) -> Callable[[str], int]:
    return partial(units.integer, least=least, most=most)


def _number_right(least: int, most: int) -> str:
    return f"write a whole number from {least} to {most}"


def _interface(text: str) -> str:
    if not re.fullmatch(r"[^\s/:\0]{1,15}", text) or text in (".", ".."):
        raise ValueError(f"{show(text)} is no name of a network interface; write for example eth0")
    return text


def _destination(text: str) -> str:
    path = text.removeprefix("file:")
    if text == "stdout" or (path != text and path.startswith("/") and "\0" not in path):
        return text
    if path.startswith("/"):
        raise ValueError(f"{show(text)} is a path; write file:{path}")
    raise ValueError(f"{show(text)} is no destination; write stdout or file:/path")


def _admin_socket(text: str) -> Address:
    if not text.startswith("unix:"):
        raise ValueError(f"{show(text)} is no UNIX socket; write unix:/path")
    found = address.parse_bind(text)
    if found.abstract:
        raise ValueError(
            f"{show(text)} has no file whose mode could keep others out; write unix:/path"
        )
    return found


def _pattern(text: str) -> str:
    if "\0" in text or text.endswith("/"):
        raise ValueError(f"{show(text)} names no file; write for example {text}*.yaml")
    return text


def _period(text: str) -> float:
    seconds = units.time(text)
    if seconds < 0.01:
        raise ValueError(f"{show(text)} is too short; write at least 10ms")
    return seconds


def _check(text: str) -> str:
    if text == "off":
        raise ValueError('"off" is no check; write health: off for none')
    if text not in CHECKS:
        near = nearest(text, CHECKS)
        right = f"did you mean {near}?" if near else f"write one of {', '.join(CHECKS)}"
        raise ValueError(f"{show(text)} is not known here; {right}")
    return text


def _url_path(text: str) -> str:
    if not re.fullmatch(r"/[!-~]*", text) or "#" in text:
        raise ValueError(f"{show(text)} is no path of a URL; write for example /healthz")
    return text


def _host_header(text: str) -> str:
    if not re.fullmatch(r"[!-~]{1,255}", text) or "/" in text:
        raise ValueError(f"{show(text)} is not a host name; write for example www.example.com")
    return text


def _status(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-5]\d\d)(?:-([1-5]\d\d))?", text, re.ASCII)
    if match is None or int(match[1]) > int(match[2] or match[1]):
        raise ValueError(f"{show(text)} is no range of HTTP statuses; write 200 or 200-399")
    return int(match[1]), int(match[2] or match[1])


def _ip(text: str) -> IpAddress:
    ip = address.parse_ip(text.removeprefix("[").removesuffix("]"))
    if ip is None:
        raise ValueError(f"{show(text)} is not an IP address; write for example 10.0.0.5")
    return ip


def _prefix(most: int) -> PlainValidator:
    right = f"write a prefix from /1 to /{most}"

    def parse(text: str) -> int:
        length = text.removeprefix("/")
        if not re.fullmatch(r"[1-9]\d{0,2}", length, re.ASCII) or int(length) > most:
            raise ValueError(f"{show(text)} is no prefix of IPv{4 if most == 32 else 6}; {right}")
        if length == text:
            raise ValueError(f"{show(text)} is a number and not a prefix; write /{length}")
        return int(length)

    return _read(parse, right)


def _one_or_more(raw: object) -> object:
    return raw if isinstance(raw, (list, tuple)) else [raw]


def _some_reason(on: tuple[str, ...]) -> tuple[str, ...]:
    if not on:
        raise ValueError("there is nothing to eject for; write [connect], or eject: off")
    return on


OneOrMore = BeforeValidator(_one_or_more)
"""One value may stand for a list."""

PositiveTimeOff = Annotated[
    float | None,
    _read(_or("off", units.positive_time), f"{units.TIME}, or off"),
    _schema("time", "off"),
]
SomeTime = Annotated[float, _read(units.some_time, units.TIME), _schema("time")]
TimeOff = Annotated[
    float | None, _read(_or("off", units.time), f"{units.TIME}, or off"), _schema("time", "off")
]
WholeSeconds = Annotated[
    float, _read(units.whole_seconds, "write whole seconds: 60s, 10m"), _schema("time")
]
WholeSecondsOff = Annotated[
    float | None,
    _read(_or("off", units.whole_seconds), "write whole seconds such as 10s, or off"),
    _schema("time", "off"),
]
PipeSize = Annotated[
    int, _read(partial(units.size, least=4 * KIB, most=GIB), units.SIZE), _schema("size")
]
BufferSizeOff = Annotated[
    int | None,
    _read(_or("off", partial(units.size, least=KIB, most=GIB)), f"{units.SIZE}, or off"),
    _schema("size", "off"),
]
Share = Annotated[float, _read(units.share, units.SHARE), _schema("share")]
ShareOff = Annotated[
    float | None,
    _read(_or("off", units.positive_share), f"{units.SHARE}, or off"),
    _schema("share", "off"),
]
Flag = Annotated[bool, _read(units.flag, units.FLAG), _schema("true / false", "true", "false")]
Mark = Annotated[
    int | None, _read(_or("off", units.mark), "write a number or off"), _schema("number", "off")
]

WorkersAuto = Annotated[
    int | None,
    _read(_or("auto", _number(1, 1024)), f"{_number_right(1, 1024)}, or auto"),
    _schema("number", "auto"),
]
CountAuto = Annotated[
    int | None,
    _read(_or("auto", _number(1, 10 * MILLION)), f"{_number_right(1, 10 * MILLION)}, or auto"),
    _schema("number", "auto"),
]
CountOff = Annotated[
    int | None,
    _read(_or("off", _number(1, 10 * MILLION)), f"{_number_right(1, 10 * MILLION)}, or off"),
    _schema("number", "off"),
]
Backlog = Annotated[int, _read(_number(1, MILLION), _number_right(1, MILLION)), _schema("number")]
Probes = Annotated[int, _read(_number(1, 127), _number_right(1, 127)), _schema("number")]
Retries = Annotated[int, _read(_number(0, 100), _number_right(0, 100)), _schema("number")]
Failures = Annotated[int, _read(_number(1, 1000), _number_right(1, 1000)), _schema("number")]
Weight = Annotated[int, _read(_number(0, 256), _number_right(0, 256)), _schema("number")]
Tier = Annotated[int, _read(_number(0, 255), _number_right(0, 255)), _schema("number")]

LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    _choice("debug", "info", "warning", "error"),
    _closed("debug", "info", "warning", "error"),
]
LogFormat = Annotated[
    Literal["auto", "console", "json"],
    _choice("auto", "console", "json"),
    _closed("auto", "console", "json"),
]
Keep = Annotated[
    Literal["all", "errors", "off"],
    _choice("all", "errors", "off"),
    _closed("all", "errors", "off"),
]
RelayMode = Annotated[
    Literal["adaptive", "splice", "copy"],
    _choice("adaptive", "splice", "copy"),
    _closed("adaptive", "splice", "copy"),
]
Balance = Annotated[
    Literal["round_robin", "random", "power_of_two", "least_sessions", "source_hash", "sni_hash"],
    _choice(*BALANCES),
    _closed(*BALANCES),
]
_EjectOn = Annotated[
    Literal["connect", "early_close"],
    _choice("connect", "early_close"),
    _closed("connect", "early_close"),
]
EjectReasons = Annotated[tuple[_EjectOn, ...], OneOrMore, AfterValidator(_some_reason)]

QueueSize = Annotated[
    int, _read(_number(1, 10 * MILLION), _number_right(1, 10 * MILLION)), _schema("number")
]
QueueWhen = Annotated[
    Literal["full", "full_or_down"],
    _choice("full", "full_or_down"),
    _closed("full", "full_or_down"),
]
SendProxyOff = Annotated[
    Literal["v1", "v2"] | None,
    _choice("v1", "v2", "off"),
    AfterValidator(_none_if_off),
    _closed("v1", "v2", "off"),
]
KeepOrReset = Annotated[
    Literal["keep", "reset"], _choice("keep", "reset"), _closed("keep", "reset")
]
ReplaySizeOff = Annotated[
    int | None,
    _read(_or("off", partial(units.size, least=1, most=MIB)), f"{units.SIZE}, or off"),
    _schema("size", "off"),
]
RateOff = Annotated[
    int | None, _read(_or("off", units.rate), f"{units.RATE}, or off"), _schema("rate", "off")
]
PerSecond = Annotated[int, _read(_number(1, MILLION), _number_right(1, MILLION)), _schema("number")]
PrefixV4 = Annotated[int, _prefix(32), _schema("prefix")]
PrefixV6 = Annotated[int, _prefix(128), _schema("prefix")]
NetworkSource = Annotated[
    networks.NetworkSource,
    _read(networks.parse_source, f"{networks.RIGHT}, or file:/path"),
    _schema("network"),
]
ResetOrClose = Annotated[
    Literal["reset", "close"], _choice("reset", "close"), _closed("reset", "close")
]
Network = Annotated[
    networks.IpNetwork, _read(networks.parse_network, networks.RIGHT), _schema("network")
]
Protocol = Annotated[
    Literal["tls", "http", "ssh", "postgres"],
    _choice("tls", "http", "ssh", "postgres"),
    _closed("tls", "http", "ssh", "postgres"),
]
ServerName = Annotated[str, _read(names.server_name, names.RIGHT), _schema("name")]
HttpHost = Annotated[str, _read(names.http_host, names.RIGHT), _schema("name")]
Alpn = Annotated[str, _read(names.alpn, "write a protocol such as h2"), _schema("name")]
Passthrough = Annotated[Literal["passthrough"], _choice("passthrough"), _closed("passthrough")]
PoolShares = Annotated[
    tuple[tuple[str, int], ...],
    PlainValidator(names.pool_shares),
    WithJsonSchema(names.POOL_SHARES_SCHEMA),
]
PlainOrRefuse = Annotated[
    Literal["plain", "refuse"], _choice("plain", "refuse"), _closed("plain", "refuse")
]
DnsServerSystem = Annotated[
    Address | None,
    _read(_or("system", address.parse_dns_server), "write an IP address, or system"),
    _schema("address", "system"),
]

HealthCheck = Annotated[
    Literal["tcp", "http", "tls", "exchange", "redis", "postgres", "smtp"],
    _read(_check, f"write one of {', '.join(CHECKS)}"),
    _closed(*CHECKS),
]
Period = Annotated[float, _read(_period, units.TIME), _schema("time")]
InARow = Annotated[int, _read(_number(1, 100), _number_right(1, 100)), _schema("number")]
PortAuto = Annotated[
    int | None,
    _read(_or("auto", _number(1, 65535)), "write a port from 1 to 65535, or auto"),
    _schema("number", "auto"),
]
HostAuto = Annotated[
    str | None,
    _read(_or("auto", _host_header), "write a host name, or auto"),
    _schema("name", "auto"),
]
UrlPath = Annotated[str, _read(_url_path, "write a path such as /healthz"), _schema("path")]
StatusRange = Annotated[
    tuple[int, int], _read(_status, "write a status or a range: 200-399"), _schema("status")
]
TextOff = Annotated[
    str | None, _read(_or("off", str), "write text, or off"), _schema("text", "off")
]

Destination = Annotated[
    str, _read(_destination, "write stdout or file:/path"), _schema("stdout / file:/path", "stdout")
]
InterfaceOff = Annotated[
    str | None,
    _read(_or("off", _interface), "write the name of a network interface, or off"),
    _schema("name", "off"),
]
PoolName = Annotated[str | None, PlainValidator(names.pool_name), _schema("name")]
BindAddress = Annotated[
    Address,
    _read(address.parse_bind, "write host:port, [v6]:port, :port, unix:/path or unix:@name"),
    _schema("address"),
]
AdminAddressAuto = Annotated[
    Address | None,
    _read(_or("auto", _admin_socket), "write unix:/path, or auto"),
    _schema("unix:/path", "auto"),
]
UpstreamAddress = Annotated[
    Address, _read(address.parse_address, address.ADDRESS), _schema("address")
]
IncludePattern = Annotated[
    str, _read(_pattern, "write a file name or a pattern such as conf.d/*.yaml"), _schema("path")
]
SourceIp = Annotated[IpAddress, _read(_ip, "write an IP address"), _schema("IP address")]


def _name(raw: object) -> str:
    if not isinstance(raw, str) or not re.fullmatch(rf"[A-Za-z0-9_.-]{{1,{MAX_NAME}}}", raw):
        raise ValueError(
            f"not a name; write 1 to {MAX_NAME} letters, digits, dots, hyphens or underscores"
        )
    return raw


Name = Annotated[
    str,
    PlainValidator(_name),
    WithJsonSchema({"type": "string", "pattern": rf"^[A-Za-z0-9_.-]{{1,{MAX_NAME}}}$"}),
]
