"""A file's bytes become text, or a problem that says why not: quickly, whatever the file is."""

from __future__ import annotations

import codecs
import errno
import os
import re
import stat
from pathlib import Path

from spliceproxy.config.problems import LINE_BREAK, ConfigError, Place, Problem, Source

MAX_BYTES = 1024 * 1024
"""Bytes of one configuration file at most. 20,000 upstreams fit."""

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# YAML 1.1, section 5.1: the characters that a stream may hold. Quoted, others go as \x escapes.
_NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def read(path: Path, number: int = 0, most: int = MAX_BYTES) -> Source:
    """Read a configuration file. Raises ConfigError where it is none.

    No more of it is read than `most` bytes.
    """
    return decode(read_bytes(path, most), str(path), number, most)


def read_bytes(path: Path, most: int) -> bytes:
    """The first `most` bytes of a file, and one more if there is more. Raises ConfigError.

    Only a regular file is read: opening a FIFO would wait for its writer.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise _unreadable(path, _reason(error)) from None
    try:
        return _read_regular(fd, path, most)
    finally:
        os.close(fd)


def _read_regular(fd: int, path: Path, most: int) -> bytes:
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        raise _unreadable(path, "is a directory; name a file in it")
    if not stat.S_ISREG(mode):
        raise _unreadable(path, "is not a regular file; write the configuration to a file")
    data = b""
    try:
        while len(data) <= most and (more := os.read(fd, most + 1 - len(data))):
            data += more
    except OSError as error:
        raise _unreadable(path, _reason(error)) from None
    return data


def decode(data: bytes, name: str, number: int = 0, most: int = MAX_BYTES) -> Source:
    """The text in `data`, a byte order mark removed. Raises ConfigError where it is no text."""
    if len(data) > most:
        raise _unreadable(name, f"is larger than {most // 1024} KiB; is this a configuration file?")
    if data.startswith(_UTF16):
        raise _unreadable(name, "is UTF-16; save it as UTF-8")
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        source = Source(name, data.decode(), number)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        line = data[error.start :].split(b"\n", 1)[0].decode(errors="replace")
        place = _place(Source(name, before + line, number), len(before))
        wrong = f"byte {data[error.start]:#04x} at offset {error.start}"
        text = f"{wrong} is not UTF-8; save the file as UTF-8"
        raise ConfigError([Problem(place, (), text)]) from None
    if bad := _NOT_YAML.search(source.text):
        raise ConfigError([Problem(_place(source, bad.start()), (), _bad_character(bad[0]))])
    return source


def _bad_character(char: str) -> str:
    if char == "\0":
        return "a NUL byte; a configuration is text, and this is something else"
    return f"control character U+{ord(char):04X} in the text; remove it"


def _place(source: Source, index: int) -> Place:
    line, start = 1, 0
    for line_break in LINE_BREAK.finditer(source.text, 0, index):
        line, start = line + 1, line_break.end()
    return Place(source, line, index - start + 1)


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return "no file can have this name; it holds a NUL byte"
    if error.errno == errno.ENOENT:
        return "no such file; check its name and directory"
    if error.errno == errno.EACCES:
        return "permission denied; let this user read the file and enter its directories"
    if error.errno == errno.ENXIO:  # what open() says of a UNIX socket
        return "is not a regular file; write the configuration to a file"
    return f"cannot be read: {error.strerror}"


def _unreadable(path: Path | str, text: str) -> ConfigError:
    return ConfigError([Problem(str(path).replace("\0", "\N{REPLACEMENT CHARACTER}"), (), text)])
