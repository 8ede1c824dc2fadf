"""control/access.py: tables of access rules, and when they are made again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from harness.found import find_upstreams
from harness.health import MACHINE

import spliceproxy.control.access as access
from spliceproxy import config
from spliceproxy.config import Config, ConfigError
from spliceproxy.control.parts import InForce
from spliceproxy.control.plan import make_snapshot
from spliceproxy.control.slots import UpstreamSlots
from spliceproxy.ipc import ALLOW, DENY
from spliceproxy.wire.networks import NONE


def configuration(*rules: str, listeners: str = "web") -> Config:
    web = f"{{bind: '127.0.0.1:0', pool: app, access: [{', '.join(rules)}]}}"
    names = ", ".join(f"{name}: {web}" for name in listeners.split())
    text = f"listeners: {{{names}}}\npools: {{app: {{upstreams: 127.0.0.1:9}}}}\n"
    return config.loads(text, "a.yaml")


def in_force(loaded: Config) -> InForce:
    found = find_upstreams(loaded)
    return InForce(loaded, make_snapshot(loaded, found, MACHINE, 1, 0, UpstreamSlots()))


def following(work: Callable[[access.AccessTables], Awaitable[None]]) -> None:
    """Run `work` with tables that are closed afterwards."""

    async def main() -> None:
        tables = access.AccessTables()
        try:
            async with asyncio.timeout(20):
                await work(tables)
        finally:
            await tables.close()

    asyncio.run(main())


def test_a_table_answers_by_the_rules_and_files_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("10.2.0.0/16\n10.3.0.0/16\n")
    loaded = configuration("{allow: 10.2.1.0/24}", f"{{deny: [10.1.0.1, 'file:{path}']}}")
    tables = access.AccessTables()
    tables.load(loaded)
    table = tables.tables(loaded)["web"]
    asked = ("10.2.1.7", "10.1.0.1", "10.2.2.7", "10.3.0.0", "10.4.0.0", "::ffff:10.3.0.1")
    assert [table.find(ip) for ip in asked] == [ALLOW, DENY, DENY, DENY, NONE, DENY]


def test_listeners_that_refuse_nobody_have_no_table() -> None:
    for loaded in (configuration(), configuration("{allow: 10.0.0.0/8}")):
        tables = access.AccessTables()
        tables.load(loaded)
        assert tables.tables(loaded) == {}


def test_the_same_rules_share_one_table_and_are_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "list"
    path.write_text("10.0.0.0/8\n")
    made = []

    def counted(*arguments: object) -> object:
        made.append(arguments)
        return make(*arguments)  # type: ignore[arg-type]

    make = access._make
    monkeypatch.setattr(access, "_make", counted)
    loaded = configuration(f"{{deny: 'file:{path}'}}", listeners="one two")

    async def work(tables: access.AccessTables) -> None:
        tables.load(loaded)
        tables.apply(in_force(loaded))
        first = tables.tables(loaded)
        assert first["one"] is first["two"]
        again = configuration(f"{{deny: 'file:{path}'}}", listeners="one two three")
        path.touch()  # another state of the file, the same text
        await tables.prepare(again)
        assert tables.tables(again)["three"] is first["one"]
        assert len(made) == 1
        path.write_text("10.1.0.0/16\n")
        await tables.prepare(again)
        assert tables.tables(again)["three"] is not first["one"]
        assert len(made) == 2

    following(work)


def test_a_change_between_the_first_reading_and_the_watch_is_not_missed(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("10.0.0.0/8\n")
    loaded = configuration(f"{{deny: 'file:{path}'}}")

    async def work(tables: access.AccessTables) -> None:
        tables.load(loaded)
        path.write_text("10.1.0.0/16\n")
        tables.apply(in_force(loaded))
        await tables.changed.wait()
        assert tables.tables(loaded)["web"].find("10.2.0.1") == NONE

    following(work)


def test_a_list_that_a_reload_brings_is_watched_at_once(tmp_path: Path) -> None:
    one, two = tmp_path / "a" / "one", tmp_path / "b" / "two"
    for path in (one, two):
        path.parent.mkdir()
        path.write_text("10.0.0.0/8\n")
    first = configuration(f"{{deny: 'file:{one}'}}")
    second = configuration(f"{{deny: ['file:{one}', 'file:{two}']}}")

    async def work(tables: access.AccessTables) -> None:
        tables.load(first)
        tables.apply(in_force(first))
        one.write_text("10.1.0.0/16\n")
        await tables.changed.wait()
        tables.changed.clear()
        await tables.prepare(second)
        tables.apply(in_force(second))
        async with asyncio.timeout(3):  # less than the look that needs no event
            assert tables.tables(second)["web"].find("10.3.0.1") == DENY
            two.write_text("10.2.0.0/16\n")
            await tables.changed.wait()
        assert tables.tables(second)["web"].find("10.3.0.1") == NONE

    following(work)


def test_a_file_that_was_never_good_is_an_error_also_in_a_reload(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text("10.0.0.0/8\n")
    bad.write_text("nonsense\n")
    loaded = configuration(f"{{deny: 'file:{good}'}}")

    async def work(tables: access.AccessTables) -> None:
        tables.load(loaded)
        tables.apply(in_force(loaded))
        with pytest.raises(ConfigError) as caught:
            await tables.prepare(configuration(f"{{deny: ['file:{bad}', 'file:{tmp_path}/no']}}"))
        assert [str(one.where).split(":")[0] for one in caught.value.problems] == [
            str(bad),
            f"{tmp_path}/no",
        ]
        good.unlink()
        await tables.prepare(loaded)
        assert tables.tables(loaded)["web"].find("10.2.0.1") == DENY

    following(work)
