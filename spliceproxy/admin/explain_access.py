"""Which access rule decides about an address."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spliceproxy.ipc import DENY
from spliceproxy.wire.networks import packed_ip

if TYPE_CHECKING:
    from spliceproxy.config import AccessRule, IpNetwork, NetworkFile
    from spliceproxy.wire.networks import NetworkTable

Json = dict[str, Any]


def access_rule(rules: Sequence[AccessRule], table: NetworkTable | None, ip: str) -> Json:
    """The answer of the table that workers have (None: nobody is refused), and the rule that says
    so: its number, and its line as it is written. Reads the files that the rules name; `rule` is
    null where none matches, or where a file is another one by now."""
    answer = "deny" if table is not None and table.find(ip) == DENY else "allow"
    for number, rule in enumerate(rules):
        line = _matching_line(rule, ip)
        if line is not None:
            if rule.denies == (answer == "deny"):
                return {"answer": answer, "rule": number, "line": line, "rules": len(rules)}
            break
    return {"answer": answer, "rule": None, "line": None, "rules": len(rules)}


def _matching_line(rule: AccessRule, ip: str) -> str | None:
    from spliceproxy.config import NetworkFile

    packed = packed_ip(ip)
    if not packed:
        return None
    address = ip_address(packed)
    for source, line in zip(rule.sources, rule.lines(), strict=True):
        networks = _networks(source) if isinstance(source, NetworkFile) else (source,)
        if any(address in network for network in networks):
            return line
    return None


def _networks(file: NetworkFile) -> Iterable[IpNetwork]:
    """What a file lists now; nothing where it cannot be used, which the log tells."""
    from spliceproxy.config import ConfigError, read_networks

    try:
        return read_networks(Path(file.path))[1]
    except ConfigError:
        return ()
