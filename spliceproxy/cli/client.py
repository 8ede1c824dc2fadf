"""The command line's side of the operator's door: one request, one answer."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from spliceproxy.errors import SpliceproxyError
from spliceproxy.runtime import default_admin_path

VARIABLE = "SPLICEPROXY_ADMIN"
TIMEOUT = 10.0
"""Seconds for an answer."""

F = TypeVar("F", bound=Callable[..., Any])


class DoorError(SpliceproxyError):
    """The door did not answer, or it said no."""


def admin_option(command: F) -> F:
    """Add `--admin PATH` to a command."""
    text = (
        "The socket of the running proxy's door.  "
        "[default: /run/spliceproxy/admin.sock, or below $XDG_RUNTIME_DIR]"
    )
    return click.option("--admin", metavar="PATH", envvar=VARIABLE, help=text, show_envvar=True)(
        command
    )


def ask(
    admin: str | None, method: str, path: str, order: object = None, timeout: float = TIMEOUT
) -> dict[str, Any]:
    """The answer to one request, within `timeout` seconds. Raises DoorError: what went wrong."""
    import http.client

    door = _path(admin)
    body = None if order is None else json.dumps(order)
    connection = http.client.HTTPConnection("spliceproxy")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(timeout)
    try:
        connection.sock.connect(str(door))
        connection.request(method, path, body, {"Connection": "close"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        if not isinstance(answer, dict):
            raise ValueError("its answer is no JSON object")
    except TimeoutError:
        raise DoorError(f"no answer at {door} within {timeout:g} s") from None
    except PermissionError:
        raise DoorError(f"{door}: not permitted; use the user that runs spliceproxy") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DoorError(_nobody(door, error)) from None
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise DoorError(str(answer.get("error", f"{path}: HTTP {response.status}")))
    return answer


def _nobody(door: Path, error: Exception) -> str:
    known = isinstance(error, FileNotFoundError | ConnectionRefusedError)
    why = "" if known else f" ({error})"
    return f"no spliceproxy answers at {door}{why}; is it running? --admin names another socket"


def _path(admin: str | None) -> Path:
    """`--admin` as a path, or the default one."""
    if admin:
        return Path(admin.removeprefix("unix:"))
    path = default_admin_path()
    if path is None:
        raise DoorError(f"no XDG_RUNTIME_DIR here: name the socket with --admin or {VARIABLE}")
    return path
