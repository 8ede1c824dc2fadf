"""Networks as people write them."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

from spliceproxy.config.problems import show

IpNetwork = IPv4Network | IPv6Network

RIGHT = "write a network such as 192.0.2.0/24 or 2001:db8::/32, or an IP address"

_MAPPED = IPv6Network("::ffff:0:0/96")


def parse_network(text: str) -> IpNetwork:
    """A network, or the network of one IP address. Raises ValueError("wrong; right").

    IPv4 in IPv6 clothes (::ffff:192.0.2.0/120) is IPv4: so its clients are known.
    """
    try:
        if "%" in text:  # a zone, which would be dropped without a word
            raise ValueError
        network = ip_network(text)
    except ValueError:
        raise ValueError(_wrong(text)) from None
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network


def _wrong(text: str) -> str:
    if text in ("all", "any", "*"):
        return f"{show(text)} is no network; write [0.0.0.0/0, ::/0] for everybody"
    if "%" in text:
        return (
            f"{show(text)} has a zone, and a network holds addresses of all of them; leave it out"
        )
    try:
        right = f"write {ip_network(text, strict=False)}"
    except ValueError:
        return f"{show(text)} is no network; {RIGHT}"
    return f"{show(text)} has bits behind its prefix; {right}"
