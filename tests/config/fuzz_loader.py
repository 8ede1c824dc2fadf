"""What the configuration's readers promise of any bytes, checked for one input; and good inputs.

A model or ConfigError, never another exception; soon; in the words of this language and of no
library. The same for every way to write the same text, whichever of two YAML parsers reads it.
"""

from __future__ import annotations

import atexit
import codecs
import os
import re
import shutil
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import yaml
from config.trees import tree

from spliceproxy.config import Config, ConfigError, loader, networks, schema, syntax
from spliceproxy.config.files import decode
from spliceproxy.config.lists import read_list

ENV = {"X": "x", "PORT": "8080", "EMPTY": "", "LIST": "[a, b]", "RAW": "\udcff"}
PATIENCE = 0.5
"""Seconds of processor time that one input of some KiB may take: a hundred times the usual."""
LONGEST_LINE = 1100
"""Characters of one line of an error: it may name all keys of a section, but not tell the file."""

_ROOT = Path(__file__).parents[2]
_FOREIGN = re.compile(r"codec can't|Input should be|pydantic|<class|object at 0x|Traceback")
"""What no user of this language should ever be told."""

Outcome = Config | str | object
"""What came of it: a value, or the text of the error."""


def check_configuration(data: bytes) -> None:
    """Raise AssertionError, or whatever the loader raised, where it breaks a promise."""
    whole = _outcome(_load, data)
    if isinstance(whole, str):
        _check_message(whole)
    _check_otherwise(data, whole, _load)


def check_upstreams(data: bytes) -> None:
    """The same for a list of upstreams in a file of its own."""
    whole = _outcome(_load_upstreams, data)
    if isinstance(whole, str):
        _check_message(whole)
    _check_otherwise(data, whole, _load_upstreams)


def check_networks(data: bytes) -> None:
    """The same for a list of networks in a file of its own: what was read can be written again."""
    whole = _outcome(_load_networks, data)
    if isinstance(whole, str):
        _check_message(whole)
    else:
        assert isinstance(whole, list)
        again = "\n".join(str(network) for network in whole).encode()
        assert _outcome(_load_networks, again) == whole
    _check_line_ends(data, whole, _load_networks)


class _Confined(loader._Loader):
    """The loader as it is, but that whatever `include` names is looked for in one directory."""

    def matches(self, pattern: str) -> list[Path]:
        return super().matches(re.sub(r"(^|/)\.\.(?=/|$)|^/+", r"\1", pattern).lstrip("/"))


def _load(data: bytes) -> Config:
    home = _home()
    return _Confined(home, home / "app.yaml", ENV).load(decode(data, "app.yaml"))


def _load_upstreams(data: bytes) -> object:
    return read_list(decode(data, "list.yaml"), ENV)


def _load_networks(data: bytes) -> object:
    return networks.networks_in(decode(data, "list.txt"))


def _outcome(load: Callable[[bytes], Outcome], data: bytes) -> Outcome:
    begin = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return load(data)
    except ConfigError as error:
        return str(error)
    finally:
        spent = time.process_time() - begin
        assert spent < PATIENCE, f"{len(data)} bytes took {spent:.2f} s"


def _check_message(text: str) -> None:
    assert text, "an error that says nothing"
    assert text.replace("\n", "").isprintable(), "a terminal would obey it"
    longest = max(text.split("\n"), key=len)
    assert len(longest) <= LONGEST_LINE, f"a line of {len(longest)} characters"
    assert not (foreign := _FOREIGN.search(text)), f"{foreign}: {text[:500]}"


def _check_otherwise(data: bytes, whole: Outcome, load: Callable[[bytes], Outcome]) -> None:
    """One other way to write or to read the same text; which one, the input decides."""
    way = zlib.crc32(data) % 4
    if way == 0:
        _check_line_ends(data, whole, load)
    elif way == 1 and not data.startswith((codecs.BOM_UTF8, b"\xff\xfe", b"\xfe\xff")):
        marked = _outcome(load, codecs.BOM_UTF8 + data)
        assert marked == whole or "offset" in str(whole), "a byte order mark changed it"
    elif way == 2 and not isinstance(whole, str):
        assert _outcome(load, data + b"\n# the end\n") == whole, "a comment changed it"
    elif way == 3:
        _check_both_parsers(data)


def _check_line_ends(data: bytes, whole: Outcome, load: Callable[[bytes], Outcome]) -> None:
    if b"\r" not in data and "offset" not in str(whole):
        assert _outcome(load, data.replace(b"\n", b"\r\n")) == whole, "CRLF changed it"


def _check_both_parsers(data: bytes) -> None:
    """What libyaml can read, PyYAML's own parser reads alike."""
    try:
        source = decode(data, "app.yaml")
    except ConfigError:
        return
    if syntax._READ_OTHERWISE.search(source.text):
        return
    try:
        fast = tree(source.text, syntax._FAST, ENV)
    except (syntax._FatalError, yaml.YAMLError):
        return
    assert fast == tree(source.text, yaml.SafeLoader, ENV), "the two parsers differ"


@cache
def _home() -> Path:
    """A directory with what `include` may meet: good files, bad ones, loops, and no files."""
    home = Path(tempfile.mkdtemp(prefix="fuzz-config-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    parts = home / "conf.d"
    parts.mkdir()
    (home / "app.yaml").write_text("include: '*.yaml'\n")  # the main file's name: a circle
    (home / "nested.yaml").write_text("include: [app.yaml, nested.yaml]\npools: {n: {}}\n")
    (parts / "good.yaml").write_text("pools:\n  more: {upstreams: 127.0.0.1:9009}\n")
    (parts / "bad.yaml").write_text("pools:\n  worse: {upstreams: [}\n")
    (parts / "none.yaml").write_text("")
    (parts / "binary.yaml").write_bytes(b"\xff\xfe\0")
    (parts / "loop.yaml").symlink_to("loop.yaml")
    (parts / "again").symlink_to("..")
    os.mkfifo(home / "fifo.yaml")
    return home


def configurations() -> list[bytes]:
    """Every example, whole and in parts; every mistake that has a message of its own."""
    found = [path.read_bytes() for path in sorted((_ROOT / "configs").glob("*.yaml"))]
    bad = sorted((_ROOT / "tests" / "config" / "bad").glob("*.yaml"))
    found += [path.read_bytes() for path in bad]
    tuned = (_ROOT / "configs" / "tuned.yaml").read_text()
    found += [part.encode() for part in _parts(tuned)]
    found += [text.encode() for text in _HOSTILE]
    # Short ones more often: they are tried in a tenth of the time.
    return [data for data in found for _ in range(1 if len(data) > 1500 else 3)]


def _parts(text: str) -> Iterator[str]:
    """Each top-level key, each listener and each pool alone, with what else must be there."""
    for section in re.split(r"\n(?=\w)", text):
        head, _, names = section.partition("\n")
        if head.split(":")[0] not in ("listeners", "pools"):
            yield f"{section}\n{_SMALLEST}"
            continue
        for name in re.split(r"\n(?=  \w)", names):
            yield f"{head}\n{name}\n"


_SMALLEST = (
    'listeners: {web: {bind: ":8080", pool: app}}\npools: {app: {upstreams: 127.0.0.1:9001}}\n'
)
_HOSTILE = (
    "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c, *a]\n" + _SMALLEST,
    "listeners: &l {web: {bind: ':1', pool: app}}\npools: {app: {upstreams: &u [a:1, *u]}}\n",
    """tcp: &t {keepalive: &k {idle: 30s}}
listeners: {web: {bind: ':8080', pool: app, tcp: *t}}
pools: {app: {upstreams: [127.0.0.1:9001], tcp: {keepalive: *k}}}
""",
    "include: [conf.d/*.yaml, app.yaml, '**', fifo.yaml]\n" + _SMALLEST,
    "include: conf.d/good.yaml\nlisteners: {web: {bind: ':8080', pool: more}}\n",
    "listeners:\n  web: !!map\n    ? bind\n    : !!str ':8080'\n    pool: !app 'app'\n" + _SMALLEST,
    "%YAML 1.1\n---\n" + _SMALLEST + "...\n",
    """listeners: {web: {bind: ':${PORT}', pool: '${NONE:-app}'}}
pools: {app: {upstreams: ['$${X}.test:80', '${X}${X}:${PORT}', '${EMPTY:-y}:1']}}
""",
    r"""pools:
  app:
    upstreams: >-
      127.0.0.1:9001
    health:
      check: exchange
      send: |+
        PING
      expect: "\x00\u20AC\ud83d\ude00 \
        x"
""",
    "health: {check: http, expect: '(a|b)*[[:alpha:]]{1,3}(?P<n>x)(?=y)'}\n" + _SMALLEST,
    "[" * 40 + "]" * 40,
    "- [a: {b: [c, {d: e}]}]\n",
)


def upstream_lists() -> list[bytes]:
    texts = (
        "- 10.0.0.1:80\n- {address: '${X}:80', weight: 3, tier: 1}\n",
        "[10.0.0.1:80, '[2001:db8::1]:80', unix:/run/app.sock, 'unix:@app']\n",
        "127.0.0.1:9001",
        "[]",
        "- srv:_app._tcp.example.com\n- app.example.com:9000\n- file:/run/list.yaml\n",
        "- address: 10.0.0.1:80\n  max_sessions: 200\n  weight: 0\n  # spare\n",
        "&a [ *a ]\n",
        "- &a 10.0.0.1:80\n- *a\n",
        "---\n",
    )
    return [text.encode() for text in texts]


def network_lists() -> list[bytes]:
    texts = (
        "10.0.0.0/8\n192.0.2.7 # one\n; none\n\n2001:db8::/32\n",
        "::ffff:192.0.2.0/120\n::1\n0.0.0.0/0\n::/0\n",
        "# none\n",
        "10.0.0.1/8\n",
        "fe80::1%eth0\n",
        "255.255.255.255/255.255.0.0\n10.0.0.0/0.0.0.255\n",
        "all\n/etc/list\n*\n",
    )
    return [text.encode() for text in texts]


def words() -> list[bytes]:
    """Every key and example of the language, and what YAML gives a meaning."""
    found = {"web", "app", "more", "off", "auto", "1h", "64KiB", "50%", "10MiB/s", "2001:db8::/32"}
    for title, section in schema.sections():
        found.update(title.split("."))
        for key, value in section["properties"].items():
            found.update((key, f"{key}: ", *map(str, value.get("examples", ()))))
    return [word.encode() for word in (*sorted(found), *_WORDS)]


# fmt: off
_WORDS = (
    "\n", "\n\n", "\n  ", "\n    ", "\n- ", ": ", "- ", ", ", "{", "}", "[", "]", "[]", "{}",
    "&a ", "*a", "*a, *a", "!!int ", "!", "!<x> ", "|\n", ">-\n", "? ", "<<: ", "#", "---\n",
    "...\n", "%YAML 1.1\n", "%TAG ! x\n", "'", '"', "''", '"\\', '"\\ud800"', '"\\0"', '"\\x85"',
    "${X}", "${NONE}", "${X:-", "${LIST}", "${RAW}", "$", "$$", "\t", "\r\n", "\r", "\0", "\x85",
    "\u2028", "\ufeff", "é", "\U0001f600", "\x07", "\x7f", "İ", "ß.example", "\u0661:\u0662",
    "9" * 5000, "9" * 400, "(" * 500, "[" * 33, "{a: " * 33, "a{9999}{9999}", "x" * 3000,
    "a." * 200, "-" * 70, "conf.d/*.yaml", "**", "**/*", "[!", "app.yaml", "conf.d/again/app.yaml",
    "~", "null",
)
# fmt: on
