"""`spliceproxy run --watch`: the proxy reloads by itself when its files change."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.proxy import Proxy, running_proxy
from harness.upstreams import named
from harness.wait import wait_until

WRONG = "not reloaded: nothing has changed"


def yaml(address: str, more: str = "") -> str:
    return (
        f"listeners: {{web: {{bind: '127.0.0.1:0', pool: app}}}}\n"
        f"pools: {{app: {{upstreams: '{address}'}}}}\n{more}"
    )


def answer(proxy: Proxy, listener: str = "web") -> str:
    with proxy.connect(listener) as client:
        return client.makefile("rb").read().decode()


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def as_an_editor_does(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.swp")
    fresh.write_text(text)
    fresh.rename(path)


@pytest.mark.parametrize("write", [in_place, as_an_editor_does])
def test_a_changed_file_is_put_in_force_and_a_bad_one_changes_nothing(
    write: Callable[[Path, str], None],
) -> None:
    options = ["--watch"]
    with (
        named("one") as one,
        named("two") as two,
        running_proxy(yaml(one.address), options=options) as proxy,
    ):
        assert answer(proxy) == "one"
        text = proxy.config.read_text()
        write(proxy.config, text + "nonsense: 1\n")
        said = proxy.wait_log(WRONG)
        assert "nonsense: unknown key" in said["problems"][0]
        assert answer(proxy) == "one"
        began = time.monotonic()
        write(proxy.config, text.replace(one.address, two.address))
        proxy.wait_log("reloaded")
        print(f"in force after {time.monotonic() - began:.2f} s")
        assert time.monotonic() - began < 3
        assert answer(proxy) == "two"
        assert len(proxy.log("reloaded")) == len(proxy.log(WRONG)) == 1


def test_included_files_may_change_and_come_and_go() -> None:
    with named("one") as one, named("two") as two:
        text = yaml(one.address, "include: conf.d/*.yaml\n")
        with running_proxy(text, options=["--watch"]) as proxy:
            home = proxy.directory / "conf.d"
            home.mkdir()
            listener = "listeners: {db: {bind: '127.0.0.1:0', pool: db}}\n"
            pool = "pools: {{db: {{upstreams: '{}'}}}}\n"
            (home / "db.yaml").write_text(listener + pool.format(one.address))
            wait_until(lambda: proxy.addresses("db"), 10, "the new listener")
            assert answer(proxy, "db") == "one"
            as_an_editor_does(home / "db.yaml", listener + pool.format(two.address))
            wait_until(lambda: len(proxy.log("reloaded")) > 1, 10, "the second reload")
            assert answer(proxy, "db") == "two"
            (home / "db.yaml").unlink()
            last = wait_until(lambda: proxy.log("reloaded")[2:], 10, "the third reload")[0]
            assert last["changes"] == ["- listener db", "- pool db"]


def test_without_it_nothing_is_watched() -> None:
    with named("one") as one, running_proxy(yaml(one.address)) as proxy:
        targets = {str(fd.readlink()) for fd in Path(f"/proc/{proxy.pid}/fd").iterdir()}
        assert not [target for target in targets if "inotify" in target]
