"""The tokens, as their files hold them now.

A file is looked at whenever a token is asked for, and read again when it is another one, or was
written to. What cannot be used then leaves the last good token in force, and a warning; at the
start it is an error.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from spliceproxy.admin.guard import Tokens
from spliceproxy.errors import SpliceproxyError

if TYPE_CHECKING:
    from spliceproxy.config import Config

_log = structlog.get_logger()

SHORTEST = 16
"""Characters of a token: fewer could be guessed."""
_LONGEST = 4096
"""Bytes of a file; more is no token."""
_VISIBLE = re.compile(rb"[!-~]+")
_RIGHT = "openssl rand -hex 32 makes a good one"

_Identity = tuple[int, int, int, int]


class TokenError(SpliceproxyError):
    """A file that holds no token."""


class TokenFile:
    """One token that a file holds."""

    def __init__(self, key: str, path: Path) -> None:
        """`key` is what the configuration calls it: `admin.tokens.read`. Raises TokenError."""
        self._key = key
        self._path = path
        self._seen, self._token = self._read()

    @property
    def token(self) -> bytes:
        """What it holds now, or held when it last was good."""
        if self._identity() != self._seen:
            try:
                self._seen, self._token = self._read()
            except TokenError as error:
                self._seen = self._identity()
                _log.warning("a token cannot be read: the last one holds", problem=str(error))
            else:
                _log.info("token changed", key=self._key)
        return self._token

    def warning(self) -> str:
        """What is not good about the file, though it can be used; empty: nothing."""
        try:
            others = self._path.stat().st_mode & stat.S_IROTH
        except OSError:
            others = 0
        what = "everybody on this machine may read it; chmod o-r"
        return f"{self._key}: {self._path}: {what}" if others else ""

    def _identity(self) -> _Identity | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def _read(self) -> tuple[_Identity | None, bytes]:
        # The identity first: what changes meanwhile is read again the next time.
        identity = self._identity()
        return identity, read_token(self._key, self._path)


class TokenFiles:
    """All tokens of a configuration."""

    def __init__(self, config: Config) -> None:
        """Raises TokenError with a line for each file that is not right."""
        problems: list[str] = []
        self._files: dict[str, TokenFile] = {}
        named = {} if config.admin is None else config.admin.tokens.model_dump()
        for name, path in named.items():
            try:
                if path is not None:
                    self._files[name] = TokenFile(f"admin.tokens.{name}", Path(path))
            except TokenError as error:
                problems.append(str(error))
        if problems:
            raise TokenError("\n".join(problems))
        self.made = secrets.token_urlsafe(32)
        """The write token, where the configuration names none."""
        if "write" in self._files and self.now().read == self.now().write:
            raise TokenError("admin.tokens: read and write hold the same token; make two")

    def warnings(self) -> list[str]:
        """A line for each file that is not kept well."""
        return [line for one in self._files.values() if (line := one.warning())]

    def now(self) -> Tokens:
        """Those in force."""
        read, write = self._files.get("read"), self._files.get("write")
        return Tokens(
            write=self.made.encode() if write is None else write.token,
            read=None if read is None else read.token,
        )


def read_token(key: str, path: Path) -> bytes:
    """The token in a file. Raises TokenError("key: path: what is wrong; what would be right")."""
    head = f"{key}: {path}"
    try:
        # Opening a FIFO would wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            regular = stat.S_ISREG(os.fstat(fd).st_mode)
            data = os.read(fd, _LONGEST + 1) if regular else b""
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise TokenError(f"{head}: {reason}") from None
    if not regular:
        raise TokenError(f"{head}: is not a regular file")
    token = data.strip()
    if not token:
        raise TokenError(f"{head}: is empty; {_RIGHT}")
    if len(data) > _LONGEST or _VISIBLE.fullmatch(token) is None:
        raise TokenError(f"{head}: is not one word of visible ASCII characters; {_RIGHT}")
    if len(token) < SHORTEST:
        raise TokenError(f"{head}: has {len(token)} characters, which can be guessed; {_RIGHT}")
    return token
