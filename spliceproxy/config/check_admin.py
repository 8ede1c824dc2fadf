"""Who could read without a token, and from where.

As in `checks`, the tree is read and not the typed model.
"""

from __future__ import annotations

from collections.abc import Iterator

from spliceproxy.config import address
from spliceproxy.config.nodes import Mapping, Scalar, items
from spliceproxy.config.problems import Problem


def check_admin(root: Mapping) -> Iterator[Problem]:
    """Addresses that others than this machine can reach want a token for reading."""
    admin = root.get("admin")
    if not isinstance(admin, Mapping):
        return
    bind, tokens = admin.get("bind"), admin.get("tokens")
    read = tokens.get("read") if isinstance(tokens, Mapping) else None
    if bind is None or (read is not None and not (isinstance(read, Scalar) and read.text == "off")):
        return
    for path, node in items(("admin", "bind"), bind):
        if isinstance(node, Scalar) and not node.unknown and _reachable(node.text):
            yield Problem(
                node.place,
                path,
                "other machines can reach this, and could read all without a token; write beside "
                "it tokens: {read: file:/path/of/token}, or bind a loopback address",
            )


def _reachable(text: str) -> bool:
    """Whether an address is another one than a loopback one; what is wrong with it is told
    elsewhere."""
    try:
        found = address.parse_bind(text)
    except ValueError:
        return False
    if found.is_unix:
        return False
    return not is_loopback(found)


def is_loopback(where: address.Address) -> bool:
    """Whether only this machine can reach a TCP address."""
    return where.host == "localhost" or (where.ip is not None and where.ip.is_loopback)
