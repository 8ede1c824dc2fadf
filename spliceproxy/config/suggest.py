"""The nearest known word, for "did you mean …?"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `word` was most likely meant to be, or None."""
    by_plain = {_plain(name): name for name in known}
    close = difflib.get_close_matches(_plain(word)[:80], by_plain, n=1, cutoff=0.6)
    return by_plain[close[0]] if close else None


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")
