"""control/discovery: files that list upstreams, and are edited, replaced, broken and removed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from harness.discovering import Discovering, discovering
from harness.dns import dns_server
from harness.health import run

BROKEN = "a list of upstreams cannot be used: the last good one stays"
AGAIN = "a list of upstreams can be used again"

Test = Callable[[Discovering, Path], Awaitable[None]]


def with_list(tmp_path: Path, test: Test, text: str | None = "- 10.0.0.1:80\n") -> None:
    """Run a test with a list and a discovery that nothing leaves."""
    path = tmp_path / "app.yaml"
    if text is not None:
        path.write_text(text)

    async def main() -> None:
        async with discovering() as it:
            await test(it, path)

    run(main)


def replace_by_rename(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.rename(path)


@pytest.mark.parametrize("write", [Path.write_text, replace_by_rename])
def test_a_list_is_followed_written_in_place_or_replaced(
    tmp_path: Path, write: Callable[[Path, str], object]
) -> None:
    async def test(it: Discovering, path: Path) -> None:
        assert await it.follow(f"file:{path}") == ["10.0.0.1:80"]
        for n in range(2, 6):
            write(path, f"[10.0.0.{n}:80, {{address: 'unix:@x', weight: {n}}}]")
            await it.wait_found(f"10.0.0.{n}:80", f"unix:@x weight {n}")
        write(path, "[]")
        await it.wait_found()

    with_list(tmp_path, test)


def test_what_stands_beside_the_list_holds_for_all_that_is_in_it(tmp_path: Path) -> None:
    async def test(it: Discovering, path: Path) -> None:
        entry = {"address": f"file:{path}", "weight": 3, "tier": 1, "max_sessions": 50}
        assert await it.follow(entry, "10.0.0.9:80") == [
            "10.0.0.1:80 weight 6 tier 3 limit 50",
            "10.0.0.2:80 weight 3 tier 1 limit 7",
            "10.0.0.9:80",
        ]

    text = "[{address: 10.0.0.1:80, weight: 2, tier: 2}, {address: 10.0.0.2:80, max_sessions: 7}]"
    with_list(tmp_path, test, text)


def test_a_list_behind_the_links_of_a_config_map_is_followed(tmp_path: Path) -> None:
    """As Kubernetes does it: app.yaml → ..data/app.yaml, and ..data → the directory of the day."""

    def publish(text: str) -> None:
        day = tmp_path / f"..{time.monotonic_ns()}"
        day.mkdir()
        (day / "app.yaml").write_text(text)
        (tmp_path / "..tmp").symlink_to(day.name)
        (tmp_path / "..tmp").rename(tmp_path / "..data")

    async def test(it: Discovering, path: Path) -> None:
        publish("- 10.0.0.1:80\n")
        path.symlink_to("..data/app.yaml")
        assert await it.follow(f"file:{path}") == ["10.0.0.1:80"]
        for n in range(2, 5):
            publish(f"- 10.0.0.{n}:80\n")
            began = time.monotonic()
            await it.wait_found(f"10.0.0.{n}:80")
            assert time.monotonic() - began < 3  # by inotify, not by the look every five seconds

    with_list(tmp_path, test, None)


def test_a_directory_that_is_replaced_is_followed(tmp_path: Path) -> None:
    async def test(it: Discovering, _path: Path) -> None:
        home = tmp_path / "lists"
        path = home / "app.yaml"
        assert await it.follow(f"file:{path}") == []
        home.mkdir()
        path.write_text("- 10.0.0.1:80\n")
        await it.wait_found("10.0.0.1:80")
        home.rename(tmp_path / "old")
        home.mkdir()
        path.write_text("- 10.0.0.2:80\n")
        began = time.monotonic()
        await it.wait_found("10.0.0.2:80")
        assert time.monotonic() - began < 3

    with_list(tmp_path, test, None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- 10.0.0.2:80\n- {address: 10.0.0.3:80, wieght: 2}\n", ":2:26: [1].wieght: unknown key"),
        ("- 10.0.0.2\n", ':1:3: [0]: "10.0.0.2" has no port; '),
        ("- 10.0.0.2:80\n- file:/etc/more.yaml\n", ":2:3: [1]: file:/etc/more.yaml is a list wit"),
        ("- 10.0.0.2:80\n- 10.0.0.2:80\n", ":2:3: [1]: 10.0.0.2:80 is in this pool already"),
        ("[10.0.0.2:80", ":1:1: this [ is never closed"),
        ("", ": the file is empty; write a list of upstreams, or [] for none"),
        (None, ": no such file; check its name and directory"),
    ],
)
def test_a_list_that_is_broken_or_gone_changes_nothing_and_the_log_says_where(
    tmp_path: Path, text: str | None, told: str
) -> None:
    async def test(it: Discovering, path: Path) -> None:
        await it.follow(f"file:{path}")
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        await it.wait(lambda: it.log(BROKEN), "the warning")
        [line] = it.log(BROKEN)
        assert line["problems"][0].startswith(f"{path}{told}")
        assert it.found() == ["10.0.0.1:80"]
        path.write_text("- 10.0.0.4:80\n")
        await it.wait_found("10.0.0.4:80")
        assert len(it.log(AGAIN)) == len(it.log(BROKEN)) == 1

    with_list(tmp_path, test)


def test_a_list_that_is_not_there_yet_is_an_empty_one(tmp_path: Path) -> None:
    async def test(it: Discovering, path: Path) -> None:
        assert await it.follow(f"file:{path}", "10.0.0.9:80") == ["10.0.0.9:80"]
        assert it.log(BROKEN)[0]["problems"] == [
            f"{path}: no such file; check its name and directory"
        ]
        path.write_text("- 10.0.0.1:80\n")
        await it.wait_found("10.0.0.1:80", "10.0.0.9:80")

    with_list(tmp_path, test, None)


def test_a_list_may_hold_names_and_services(tmp_path: Path) -> None:
    async def main() -> None:
        with dns_server() as dns:
            dns.answer("a.test", A="10.0.0.1")
            dns.answer("_app._tcp.test", SRV=["0 3 80 b.test."])
            dns.answer("b.test", A="10.0.0.2")
            dns.answer("c.test", A="10.0.0.3")
            path = tmp_path / "app.yaml"
            path.write_text("- {address: a.test:81, weight: 2}\n- srv:_app._tcp.test\n")
            async with discovering(dns.address) as it:
                await it.follow(f"file:{path}")
                await it.wait_found("10.0.0.1:81 weight 2", "10.0.0.2:80 weight 3")
                path.write_text("- c.test:82\n")
                seen = set()

                def moved() -> bool:
                    seen.add(tuple(it.found()))
                    return it.found() == ["10.0.0.3:82"]

                await it.wait(moved, "the new name")
                assert () not in seen
                assert len(it.discovery._lookups) == 1

    run(main)


def test_files_nobody_names_any_more_are_not_read(tmp_path: Path) -> None:
    async def test(it: Discovering, path: Path) -> None:
        await it.follow(f"file:{path}", "10.0.0.9:80")
        await it.follow("10.0.0.9:80")
        path.write_text("nonsense")
        other = tmp_path / "other.yaml"
        other.write_text("- 10.0.0.2:80\n")
        await it.follow(f"file:{other}")
        other.write_text("- 10.0.0.3:80\n")
        await it.wait_found("10.0.0.3:80")
        assert not it.log(BROKEN)

    with_list(tmp_path, test)


def test_ten_thousand_upstreams_are_read_while_the_loop_goes_on(tmp_path: Path) -> None:
    text = "".join(f"- 10.{n >> 16}.{n >> 8 & 255}.{n & 255}:80\n" for n in range(10_000))

    async def test(it: Discovering, path: Path) -> None:
        async def heart() -> float:
            longest = 0.0
            while True:
                before = time.monotonic()
                try:
                    await asyncio.sleep(0.001)
                except asyncio.CancelledError:
                    return longest
                longest = max(longest, time.monotonic() - before)

        beating = asyncio.create_task(heart())
        began = time.monotonic()
        found = await it.follow(f"file:{path}")
        took = time.monotonic() - began
        beating.cancel()
        pause = await beating
        print(f"{len(found)} upstreams in {took:.2f} s, longest pause {pause * 1000:.0f} ms")
        assert len(found) == 10_000

    with_list(tmp_path, test, text)
