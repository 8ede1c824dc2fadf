"""The keys that say where operators, the dashboard and Prometheus come in, and who may."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from spliceproxy.config import door_scalars, scalars
from spliceproxy.config.address import Address
from spliceproxy.config.scalars import OneOrMore
from spliceproxy.config.section import Section, none_if_off, section, setting


def _some_admin(bind: tuple[Address | None, ...]) -> tuple[Address | None, ...]:
    if not bind:
        raise ValueError("there is no address; write at least one, such as auto, or admin: off")
    return bind


def _without_off(bind: tuple[Address | None, ...]) -> tuple[Address, ...]:
    return tuple(one for one in bind if one is not None)


def _nothing_if_off(raw: object) -> object:
    return {} if raw == "off" else raw


class Tokens(Section):
    """What those who come in by TCP must know. Each file holds one token, of 16 or more visible
    characters; white space around it does not count. A file that changes holds at once."""

    read: door_scalars.TokenFileOff = setting(
        "off",
        "`file:` and the absolute path of the token for reading. Loopback addresses do without; "
        "any other address of `bind` must have one.",
        example="file:/etc/spliceproxy/read.token",
    )
    write: door_scalars.TokenFileOff = setting(
        "off",
        "The same for orders, and for reading too. `off`: each start makes a token of its own, "
        "which `GET /api/v1/token` tells on the UNIX socket.",
        example="file:/etc/spliceproxy/write.token",
    )


class Admin(Section):
    """Where the admin API and the dashboard are served: what `spliceproxy status` and `drain` talk
    to, and browsers."""

    bind: Annotated[
        tuple[door_scalars.AdminAddressAuto, ...], OneOrMore, AfterValidator(_some_admin)
    ] = setting(
        "auto",
        "UNIX sockets, whose files are for their owner only (mode 0600), and TCP addresses: an IP "
        "address or `localhost` with a port, or :port (every address). `auto`: "
        "`/run/spliceproxy/admin.sock` for root, `$XDG_RUNTIME_DIR/spliceproxy/admin.sock` for "
        "others; where it cannot be had, the proxy does without. Who comes in by a loopback "
        "address may read, by another one with `tokens.read`; orders always want `tokens.write`.",
        example="[auto, 127.0.0.1:9900]",
    )
    tokens: Tokens = section(Tokens, "What those who come in by TCP must know.")
    hosts: Annotated[tuple[door_scalars.HostName, ...], OneOrMore] = setting(
        (),
        "Names by which browsers and others call this machine (`Host`), beside IP addresses, "
        "`localhost` and its own name. Requests for other names are refused: so no web page can "
        "have its own name lead here.",
        example="proxy.example.com",
    )


class Metrics(Section):
    """What Prometheus and probes are told."""

    bind: Annotated[
        tuple[door_scalars.AdminAddressOff, ...], OneOrMore, AfterValidator(_without_off)
    ] = setting(
        "off",
        "Where `/metrics`, `/healthz` and `/readyz` alone are served, to everybody and without a "
        "token, by addresses as in `admin.bind`; `off`: nowhere but there.",
        example="0.0.0.0:9901",
    )
    upstreams: scalars.OnOff = setting(
        "on",
        "Whether each upstream has series of its own in `/metrics`; `off`: only each pool has, "
        "which matters where there are thousands of upstreams.",
        example="off",
    )


AdminOff = Annotated[Admin | None, BeforeValidator(none_if_off)]
MetricsOrOff = Annotated[Metrics, BeforeValidator(_nothing_if_off)]
"""`off` is the default of all its keys."""
