"""The file of session records, tried at the start: a typing mistake must not cost every record."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from spliceproxy.telemetry.writer import open_records

if TYPE_CHECKING:
    from spliceproxy.config import Config

_PREFIX = "file:"


def find_record_problems(config: Config) -> Iterator[str]:
    """A line where the file of `log.sessions.to` cannot be opened for writing."""
    to = config.log.sessions.to
    if not to.startswith(_PREFIX):
        return
    path = Path(to.removeprefix(_PREFIX))
    try:
        os.close(open_records(str(path)))
    except OSError as error:
        yield f"log.sessions.to: {path}: {error.strerror}; {_remedy(path, error)}"


def _remedy(path: Path, error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return f"make its directory: mkdir -p {path.parent}"
        case errno.EACCES | errno.EPERM:
            return f"let the user with the id {os.geteuid()} write there"
        case errno.EISDIR:
            return "name a file in it"
        case errno.EROFS:
            return f"ReadWritePaths={path.parent} in the systemd unit, or a volume of a container"
        case errno.ENXIO:
            return "nobody reads this FIFO; start its reader first"
        case _:
            return "name a file that can be written, or write stdout"
