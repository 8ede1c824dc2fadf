"""The loader's steps grow with its input, and no faster, whatever the input is made of."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress

import pytest

from spliceproxy.config import ConfigError, loads

SIZE = 2_000
"""Bytes of the short text; the long one has eight times as many, and is still parsed again and
again to find one more mistake, as larger ones are not."""
HEAD = "listeners: {web: {bind: ':8080', pool: app}}\n"
POOLS = "pools: {app: {upstreams: 127.0.0.1:9001}}\n"

PIECES = {
    "upstreams": (HEAD + "pools:\n  app:\n    upstreams:\n", "      - 10.0.{0}.{1}:80\n", ""),
    "one upstream again": (HEAD + "pools: {app: {upstreams: [", "1.1.1.1:1, ", "]}}\n"),
    "addresses that meet": ("listeners: {web: {pool: app, bind: [", "':1', ", "]}}\n" + POOLS),
    "addresses of one port": (
        "listeners: {web: {pool: app, bind: [",
        "'10.0.{0}.{1}:1', ",
        "]}}\n" + POOLS,
    ),
    "any free port": ("listeners: {web: {pool: app, bind: [", "'127.0.0.1:0', ", "]}}\n" + POOLS),
    "wildcards": (
        "listeners: {web: {pool: app, bind: [",
        "'0.0.0.0:1', '[::{1}]:1', ",
        "]}}\n" + POOLS,
    ),
    "listeners without a pool": (POOLS + "listeners:\n", "  w{0}x{1}: {{pool: none}}\n", ""),
    "pools": (HEAD + POOLS[:-2] + ", ", "p{0}x{1}: {{upstreams: 1.1.1.1:1}}, ", "}\n"),
    "routes": (
        POOLS + "listeners:\n  web:\n    bind: :8080\n    routes:\n",
        "      - {{sni: a{0}.b{1}.test, pool: app}}\n",
        "",
    ),
    "shares": (
        POOLS + "listeners: {web: {bind: ':1', routes: [{pool: {",
        "p{0}x{1}: 1, ",
        "}}]}}\n",
    ),
    "unknown keys": (HEAD + POOLS, "key{0}x{1}: x\n", ""),
    "the same key": (HEAD + POOLS, "workers: 1\n", ""),
    "anchors": (HEAD + POOLS, "a{0}x{1}: &a{0}x{1} [x]\n", ""),
    "aliases": ("a: &a [x, x]\nb: [", "*a, ", "]\n"),
    "unknown aliases": (HEAD + POOLS + "b: [", "*a{0}, ", "]\n"),
    "variables": (HEAD + POOLS + "b: [", "'${{NONE}}', ", "]\n"),
    "dollars": (HEAD + POOLS + "b: ", "$$", "\n"),
    "open brackets": ("b: ", "[", ""),
    "bare brackets": (HEAD + "pools: {app: {upstreams: [", "[::]:{1}, ", "]}}\n"),
    "stars": (HEAD + POOLS, "s{0}x{1}: *:80\n", ""),
    "tags": ("b: [", "!!int 1, ", "]\n"),
    "one long word": (HEAD + POOLS + "workers: ", "9", "\n"),
    "one long host": (HEAD + "pools: {app: {upstreams: '", "a-", "'}}\n"),
    "includes": (HEAD + POOLS + "include: [", "none{0}x{1}.yaml, ", "]\n"),
    "comments": (HEAD + POOLS, "# {0}\n", ""),
}


def steps(call: Callable[[], object]) -> int:
    """Calls of functions, those written in C among them, that `call` makes."""
    count = 0

    def on_event(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(on_event)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


def text_of(piece: str, size: int) -> str:
    head, middle, tail = PIECES[piece]
    parts, length, number = [head], len(head) + len(tail), 0
    while length < size:
        part = middle.format(number >> 8, number & 255) if "{" in middle else middle
        parts.append(part)
        length += len(part)
        number += 1
    return "".join(parts) + tail


def read(text: str) -> None:
    with suppress(ConfigError):
        loads(text, "app.yaml", {})


@pytest.mark.parametrize("piece", PIECES)
def test_the_steps_grow_with_the_text_and_no_faster(piece: str) -> None:
    read(text_of(piece, 8 * SIZE))  # what is made once, and kept
    short = steps(lambda: read(text_of(piece, SIZE)))
    long = steps(lambda: read(text_of(piece, 8 * SIZE)))
    print(f"{SIZE} bytes: {short} steps; {8 * SIZE}: {long}, {long / short:.1f} times as many")
    assert long < 9 * short
