"""The command line's side of the admin API: where it is, and one request with its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from spliceproxy.errors import SpliceproxyError

if TYPE_CHECKING:
    from spliceproxy.cli.connection import Connection

VARIABLE = "SPLICEPROXY_ADMIN"
TOKEN_VARIABLE = "SPLICEPROXY_TOKEN"
TIMEOUT = 10.0
"""Seconds for an answer."""

R = TypeVar("R")


class DoorError(SpliceproxyError):
    """The running proxy did not answer, or it said no. `status` is its answer's, 0 without one."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Admin:
    """Where the running proxy is asked, and who asks."""

    place: str | None = None
    """`unix:/path`, a path, or `http://host:port`; None: the default socket."""
    token_file: Path | None = None
    """Where the token stands; None: in the environment, if anywhere. UNIX sockets need none."""

    def connect(self, timeout: float = TIMEOUT) -> Connection:
        """A connection for requests, each of which may take `timeout` seconds; it is made with the
        first one. Raises DoorError, UsageError."""
        from spliceproxy.cli.connection import open_connection

        return open_connection(self, timeout)


def admin_option(command: Callable[..., R]) -> Callable[..., R]:
    """Add `--admin PLACE` and `--token-file FILE` to a command, which gets an Admin of both."""

    @wraps(command)
    def with_admin(admin: str | None, token_file: Path | None, **arguments: Any) -> R:
        return command(admin=Admin(admin, token_file), **arguments)

    where = (
        "The running proxy: the path of its admin socket, or http://HOST:PORT.  "
        "[default: /run/spliceproxy/admin.sock, or below $XDG_RUNTIME_DIR]"
    )
    token = (
        f"The file with the token for http://HOST:PORT; or the token itself in {TOKEN_VARIABLE}."
    )
    options = (
        click.option("--admin", metavar="PLACE", envvar=VARIABLE, help=where, show_envvar=True),
        click.option("--token-file", metavar="FILE", type=click.Path(path_type=Path), help=token),
    )
    decorated: Callable[..., R] = with_admin
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def ask(
    admin: Admin, method: str, path: str, order: object = None, timeout: float = TIMEOUT
) -> dict[str, Any]:
    """The answer to one request, within `timeout` seconds. Raises DoorError: what went wrong."""
    with admin.connect(timeout) as connection:
        return connection.ask(method, path, order)


def with_query(path: str, parameters: Iterable[tuple[str, object]]) -> str:
    """The path with those of the parameters that have a value."""
    from urllib.parse import urlencode

    pairs = [(name, value) for name, value in parameters if value is not None]
    return f"{path}?{urlencode(pairs)}" if pairs else path
