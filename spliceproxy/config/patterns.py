"""The files that a pattern such as conf.d/*.yaml means, found in bounded time."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator
from pathlib import Path

MAX_SEEN = 100_000
"""Names that are looked at for one pattern, at most: some tenths of a second. `/**` means more than
that on most machines."""

_WILDCARD = re.compile(r"[*?\[]")


def has_wildcards(pattern: str) -> bool:
    return _WILDCARD.search(pattern) is not None


def matching(base: Path, pattern: str) -> list[Path]:
    """What matches, in order: `*`, `?` and `[a-z]` within one name, `**` for any directories, in
    which links are not followed. Relative to `base`.

    Raises ValueError where the pattern makes no sense, or too many names would be looked at.
    """
    if pattern.startswith("/"):
        base, pattern = Path("/"), pattern.lstrip("/")
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    if any("**" in part and part != "**" for part in parts):
        raise ValueError("Invalid pattern: ** stands for whole directories only")
    try:
        return sorted(set(_Search().below(base, parts)))
    except RecursionError:
        raise ValueError("the pattern leads too deep") from None


class _Search:
    """One walk through directories, which ends when it has seen too much."""

    def __init__(self) -> None:
        self._seen = 0

    def below(self, base: Path, parts: list[str]) -> Iterator[Path]:
        """What matches `parts` in the directory `base`; those that cannot be read have nothing."""
        if not parts:
            yield base
            return
        part, *rest = parts
        if part == "**":
            yield from self.below(base, rest)
            for entry in self._entries(base):
                if _is_directory(entry, follow=False):
                    yield from self.below(base / entry.name, parts)
        elif not has_wildcards(part):
            if os.path.lexists(base / part):
                yield from self.below(base / part, rest)
        else:
            fits = re.compile(fnmatch.translate(part)).match
            for entry in self._entries(base):
                if fits(entry.name) and (not rest or _is_directory(entry, follow=True)):
                    yield from self.below(base / entry.name, rest)

    def _entries(self, directory: Path) -> list[os.DirEntry[str]]:
        found = []
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    self._seen += 1
                    if self._seen > MAX_SEEN:
                        raise ValueError(f"the pattern leads to more than {MAX_SEEN} names")
                    found.append(entry)
        except OSError:
            return []
        return found


def _is_directory(entry: os.DirEntry[str], *, follow: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow)
    except OSError:  # a loop of links
        return False
