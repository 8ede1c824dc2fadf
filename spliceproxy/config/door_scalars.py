"""The types of single values at doors: where they are, their tokens, the names of this machine."""

from __future__ import annotations

from typing import Annotated

from spliceproxy.config import address, names
from spliceproxy.config.address import Address
from spliceproxy.config.problems import show
from spliceproxy.config.reading import or_word, read, schema


def _admin_address(text: str) -> Address:
    found = address.parse_bind(text)
    if found.abstract:
        raise ValueError(
            f"{show(text)} has no file whose mode could keep others out; write unix:/path"
        )
    if found.host and found.host != "localhost" and found.ip is None:
        raise ValueError(
            f"{show(text)} has a name, which says not who can reach it; "
            "write an IP address, or localhost"
        )
    return found


def _token_file(text: str) -> str:
    # What stands here may be the token itself, so it is not shown.
    path = text.removeprefix("file:")
    if path == text or not path.startswith("/") or path.endswith("/") or "\0" in path:
        right = f"write file:{text}" if text.startswith("/") else "write file: and its path"
        raise ValueError(f"a token is in a file of its own, with an absolute path; {right}")
    return path


_ADMIN_RIGHT = "write unix:/path, 127.0.0.1:9900, [::1]:9900 or :9900"
AdminAddressAuto = Annotated[
    Address | None,
    read(or_word("auto", _admin_address), f"{_ADMIN_RIGHT}, or auto"),
    schema("address", "auto"),
]
AdminAddressOff = Annotated[
    Address | None,
    read(or_word("off", _admin_address), f"{_ADMIN_RIGHT}, or off"),
    schema("address", "off"),
]
TokenFileOff = Annotated[
    str | None,
    read(or_word("off", _token_file), "write file:/path, or off"),
    schema("file:/path", "off"),
]
HostName = Annotated[str, read(names.host_name, names.HOST_RIGHT), schema("name")]
