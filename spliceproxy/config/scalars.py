"""The types of single values: what each may be, and what editors and the reference say of it.

A value arrives as text (or as a list or mapping, which is then a mistake) and leaves typed.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, PlainValidator, WithJsonSchema

from spliceproxy.config import address, names, networks, units
from spliceproxy.config.address import Address, IpAddress
from spliceproxy.config.problems import show
from spliceproxy.config.reading import (
    choice,
    closed,
    number,
    number_right,
    off_is_none,
    or_absent,
    or_word,
    read,
    schema,
)
from spliceproxy.config.suggest import nearest

_PATH_RIGHT = "write the path of a PEM file"
KIB, MIB, GIB = 1024, 1024**2, 1024**3
MILLION = 1_000_000

CHECKS = ("tcp", "http", "tls", "exchange", "redis", "postgres", "smtp")
"""The health checks."""
BALANCES = ("round_robin", "random", "power_of_two", "least_sessions", "source_hash", "sni_hash")
"""How a pool may choose."""


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


def _pattern(text: str) -> str:
    if "\0" in text or text.endswith("/"):
        raise ValueError(f"{show(text)} names no file; write for example {text}*.yaml")
    return text


def _file_path(text: str) -> str:
    if "-----BEGIN " in text:
        raise ValueError(f"{show(text)} is what a file holds; write it into one, and its path here")
    if "\0" in text:
        raise ValueError(f"{show(text)} holds a NUL character; remove it")
    if text.startswith("file:"):
        raise ValueError(f"{show(text)} is no path; write {text.removeprefix('file:')}")
    if text in ("true", "false", "on", "off"):
        raise ValueError(f"{show(text)} is no path; write ./{text} for a file of this name")
    return text


def _tls_version(text: str) -> str:
    if text not in ("1.2", "1.3"):
        raise ValueError(f"{show(text)} is no version that is spoken here; write 1.2 or 1.3")
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

    return read(parse, right)


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
    read(or_word("off", units.positive_time), f"{units.TIME}, or off"),
    schema("time", "off"),
]
SomeTime = Annotated[float, read(units.some_time, units.TIME), schema("time")]
TimeOff = Annotated[
    float | None, read(or_word("off", units.time), f"{units.TIME}, or off"), schema("time", "off")
]
WholeSeconds = Annotated[
    float, read(units.whole_seconds, "write whole seconds: 60s, 10m"), schema("time")
]
WholeSecondsOff = Annotated[
    float | None,
    read(or_word("off", units.whole_seconds), "write whole seconds such as 10s, or off"),
    schema("time", "off"),
]
PipeSize = Annotated[
    int, read(partial(units.size, least=4 * KIB, most=GIB), units.SIZE), schema("size")
]
BufferSizeOff = Annotated[
    int | None,
    read(or_word("off", partial(units.size, least=KIB, most=GIB)), f"{units.SIZE}, or off"),
    schema("size", "off"),
]
Share = Annotated[float, read(units.share, units.SHARE), schema("share")]
ShareOff = Annotated[
    float | None,
    read(or_word("off", units.positive_share), f"{units.SHARE}, or off"),
    schema("share", "off"),
]
Flag = Annotated[bool, read(units.flag, units.FLAG), schema("true / false", "true", "false")]
Mark = Annotated[
    int | None, read(or_word("off", units.mark), "write a number or off"), schema("number", "off")
]

WorkersAuto = Annotated[
    int | None,
    read(or_word("auto", number(1, 1024)), f"{number_right(1, 1024)}, or auto"),
    schema("number", "auto"),
]
CountAuto = Annotated[
    int | None,
    read(or_word("auto", number(1, 10 * MILLION)), f"{number_right(1, 10 * MILLION)}, or auto"),
    schema("number", "auto"),
]
CountOff = Annotated[
    int | None,
    read(or_word("off", number(1, 10 * MILLION)), f"{number_right(1, 10 * MILLION)}, or off"),
    schema("number", "off"),
]
Backlog = Annotated[int, read(number(1, MILLION), number_right(1, MILLION)), schema("number")]
Probes = Annotated[int, read(number(1, 127), number_right(1, 127)), schema("number")]
Retries = Annotated[int, read(number(0, 100), number_right(0, 100)), schema("number")]
Failures = Annotated[int, read(number(1, 1000), number_right(1, 1000)), schema("number")]
MOST_WEIGHT = 256
Weight = Annotated[
    int, read(number(0, MOST_WEIGHT), number_right(0, MOST_WEIGHT)), schema("number")
]
Tier = Annotated[int, read(number(0, 255), number_right(0, 255)), schema("number")]

LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    choice("debug", "info", "warning", "error"),
    closed("debug", "info", "warning", "error"),
]
LogFormat = Annotated[
    Literal["auto", "console", "json"],
    choice("auto", "console", "json"),
    closed("auto", "console", "json"),
]
Keep = Annotated[
    Literal["all", "errors", "off"],
    choice("all", "errors", "off"),
    closed("all", "errors", "off"),
]
RelayMode = Annotated[
    Literal["adaptive", "splice", "copy"],
    choice("adaptive", "splice", "copy"),
    closed("adaptive", "splice", "copy"),
]
Balance = Annotated[
    Literal["round_robin", "random", "power_of_two", "least_sessions", "source_hash", "sni_hash"],
    choice(*BALANCES),
    closed(*BALANCES),
]
_EjectOn = Annotated[
    Literal["connect", "early_close"],
    choice("connect", "early_close"),
    closed("connect", "early_close"),
]
EjectReasons = Annotated[tuple[_EjectOn, ...], OneOrMore, AfterValidator(_some_reason)]

QueueSize = Annotated[
    int, read(number(1, 10 * MILLION), number_right(1, 10 * MILLION)), schema("number")
]
QueueWhen = Annotated[
    Literal["full", "full_or_down"],
    choice("full", "full_or_down"),
    closed("full", "full_or_down"),
]
SendProxyOff = Annotated[
    Literal["v1", "v2"] | None,
    choice("v1", "v2", "off"),
    AfterValidator(off_is_none),
    closed("v1", "v2", "off"),
]
KeepOrReset = Annotated[Literal["keep", "reset"], choice("keep", "reset"), closed("keep", "reset")]
ReplaySizeOff = Annotated[
    int | None,
    read(or_word("off", partial(units.size, least=1, most=MIB)), f"{units.SIZE}, or off"),
    schema("size", "off"),
]
RateOff = Annotated[
    int | None, read(or_word("off", units.rate), f"{units.RATE}, or off"), schema("rate", "off")
]
PerSecond = Annotated[int, read(number(1, MILLION), number_right(1, MILLION)), schema("number")]
PrefixV4 = Annotated[int, _prefix(32), schema("prefix")]
PrefixV6 = Annotated[int, _prefix(128), schema("prefix")]
NetworkSource = Annotated[
    networks.NetworkSource,
    read(networks.parse_source, f"{networks.RIGHT}, or file:/path"),
    schema("network"),
]
ResetOrClose = Annotated[
    Literal["reset", "close"], choice("reset", "close"), closed("reset", "close")
]
Network = Annotated[
    networks.IpNetwork, read(networks.parse_network, networks.RIGHT), schema("network")
]
Protocol = Annotated[
    Literal["tls", "http", "ssh", "postgres"],
    choice("tls", "http", "ssh", "postgres"),
    closed("tls", "http", "ssh", "postgres"),
]
ServerName = Annotated[str, read(names.server_name, names.RIGHT), schema("name")]
HttpHost = Annotated[str, read(names.http_host, names.RIGHT), schema("name")]
CertificateName = Annotated[
    str | None,
    or_absent(read(names.certificate_name, names.CERTIFICATE_RIGHT)),
    schema("name"),
]
Alpn = Annotated[str, read(names.alpn, "write a protocol such as h2"), schema("name")]
Passthrough = Annotated[
    Literal["passthrough"] | None, or_absent(choice("passthrough")), closed("passthrough")
]
PoolShares = Annotated[
    tuple[tuple[str, int], ...],
    PlainValidator(names.pool_shares),
    WithJsonSchema(names.POOL_SHARES_SCHEMA),
]
FilePath = Annotated[str, read(_file_path, _PATH_RIGHT), schema("path")]
FilePathOrNone = Annotated[str | None, or_absent(read(_file_path, _PATH_RIGHT)), schema("path")]
FilePathOff = Annotated[
    str | None,
    read(or_word("off", _file_path), f"{_PATH_RIGHT}, or off"),
    schema("path", "off"),
]
TlsVersion = Annotated[
    Literal["1.2", "1.3"], read(_tls_version, "write 1.2 or 1.3"), schema("1.2 / 1.3", "1.2", "1.3")
]
OptionalOrRequired = Annotated[
    Literal["optional", "required"],
    choice("optional", "required"),
    closed("optional", "required"),
]
OnOff = Annotated[bool, read(units.on_off, units.ON_OFF), schema("on / off", "on", "off")]
PlainOrRefuse = Annotated[
    Literal["plain", "refuse"], choice("plain", "refuse"), closed("plain", "refuse")
]
DnsServerSystem = Annotated[
    Address | None,
    read(or_word("system", address.parse_dns_server), "write an IP address, or system"),
    schema("address", "system"),
]

HealthCheck = Annotated[
    Literal["tcp", "http", "tls", "exchange", "redis", "postgres", "smtp"],
    read(_check, f"write one of {', '.join(CHECKS)}"),
    closed(*CHECKS),
]
Period = Annotated[float, read(_period, units.TIME), schema("time")]
InARow = Annotated[int, read(number(1, 100), number_right(1, 100)), schema("number")]
PortAuto = Annotated[
    int | None,
    read(or_word("auto", number(1, 65535)), "write a port from 1 to 65535, or auto"),
    schema("number", "auto"),
]
HostAuto = Annotated[
    str | None,
    read(or_word("auto", _host_header), "write a host name, or auto"),
    schema("name", "auto"),
]
UrlPath = Annotated[str, read(_url_path, "write a path such as /healthz"), schema("path")]
StatusRange = Annotated[
    tuple[int, int], read(_status, "write a status or a range: 200-399"), schema("status")
]
TextOff = Annotated[
    str | None, read(or_word("off", str), "write text, or off"), schema("text", "off")
]

Destination = Annotated[
    str, read(_destination, "write stdout or file:/path"), schema("stdout / file:/path", "stdout")
]
InterfaceOff = Annotated[
    str | None,
    read(or_word("off", _interface), "write the name of a network interface, or off"),
    schema("name", "off"),
]
PoolName = Annotated[str | None, PlainValidator(names.pool_name), schema("name")]
BindAddress = Annotated[
    Address,
    read(address.parse_bind, "write host:port, [v6]:port, :port, unix:/path or unix:@name"),
    schema("address"),
]
UpstreamAddress = Annotated[
    Address, read(address.parse_address, address.ADDRESS), schema("address")
]
IncludePattern = Annotated[
    str, read(_pattern, "write a file name or a pattern such as conf.d/*.yaml"), schema("path")
]
SourceIp = Annotated[IpAddress, read(_ip, "write an IP address"), schema("IP address")]


Name = Annotated[
    str,
    PlainValidator(names.item_name),
    WithJsonSchema({"type": "string", "pattern": rf"^{names.ITEM}$"}),
]
