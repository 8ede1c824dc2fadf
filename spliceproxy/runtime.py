"""Where a running spliceproxy is found: the socket of its admin API, when nobody named another."""

from __future__ import annotations

import os
from pathlib import Path


def default_admin_path() -> Path | None:
    """The UNIX socket of the admin API: root's, or this user's; None: this user has no place.

    $XDG_RUNTIME_DIR is a user's own directory, made at login (XDG Base Directory Specification).
    """
    if os.geteuid() == 0:
        return Path("/run/spliceproxy/admin.sock")
    directory = os.environ.get("XDG_RUNTIME_DIR", "")
    if not Path(directory).is_absolute():
        return None
    return Path(directory) / "spliceproxy" / "admin.sock"
