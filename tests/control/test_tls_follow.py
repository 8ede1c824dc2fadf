"""control/tls/certificates.py: files that change while the proxy runs."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from harness.door import request
from harness.found import find_upstreams
from harness.health import MACHINE
from harness.issued import authority, chain_of, key_of, write_pem
from harness.proxy import Proxy, running_proxy
from harness.wait import wait_until
from structlog.testing import capture_logs

from spliceproxy import config
from spliceproxy.config import Config, ConfigError
from spliceproxy.control.parts import InForce
from spliceproxy.control.plan import make_snapshot
from spliceproxy.control.slots import UpstreamSlots
from spliceproxy.control.tls import Certificates
from spliceproxy.control.tls.expiry import Expiry
from spliceproxy.control.tls.pem import Certificate, pair, read_content
from spliceproxy.control.tls.shown import report

BROKEN = "a file of certificates cannot be used: what was good last stays"
MENDED = "a file of certificates can be used again"


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def configuration(tls: str) -> Config:
    text = f"listeners: {{web: {{bind: '127.0.0.1:0', pool: app, tls: {tls}}}}}\n"
    return config.loads(f"{text}pools: {{app: {{upstreams: '127.0.0.1:9'}}}}\n", "a.yaml")


class Following:
    """The part, as a supervisor has it, and what it logs."""

    def __init__(self, settle: float) -> None:
        self.part = Certificates(gather=0.01, settle=settle)
        self.lines: list[MutableMapping[str, Any]] = []
        self.config: Config | None = None

    def begin(self, tls: str) -> None:
        self.config = configuration(tls)
        self.part.load(self.config)
        self.apply()

    def apply(self) -> None:
        assert self.config is not None
        found, slots = find_upstreams(self.config), UpstreamSlots()
        self.part.apply(
            InForce(self.config, make_snapshot(self.config, found, MACHINE, 1, 0, slots))
        )

    def shown(self) -> dict[tuple[str, ...], str]:
        """Names → PEM of the certificates that a worker would be told now."""
        assert self.config is not None
        told = self.part.plans(self.config).listeners["web"].certificates
        return {one.names: one.chains[0] for one in told}

    async def wait(self, found: Callable[[], object], what: str) -> None:
        async with asyncio.timeout(10):
            while not found():
                await asyncio.sleep(0.002)
        assert found(), what

    async def wait_change(self) -> dict[tuple[str, ...], str]:
        """What is shown after the next change."""
        async with asyncio.timeout(10):
            await self.part.changed.wait()
        self.part.changed.clear()
        return self.shown()

    def log(self, event: str) -> list[MutableMapping[str, Any]]:
        return [line for line in self.lines if line["event"] == event]

    def mended(self) -> set[str]:
        """The names of files that the log calls good again."""
        return {Path(str(line["file"])).name for line in self.log(MENDED)}


def following(work: Callable[[Following], Awaitable[None]], settle: float = 0.01) -> None:
    async def main() -> None:
        it = Following(settle)
        with capture_logs() as it.lines:
            try:
                async with asyncio.timeout(20):
                    await work(it)
            finally:
                await it.part.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def replace(path: Path, data: bytes) -> None:
    """As an editor or a careful program does: another file under the same name."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(data)
    fresh.rename(path)


def has(pem: str, issued: trustme.LeafCert) -> bool:
    return pem.encode().split() == (chain_of(issued) + key_of(issued)).split()


def test_a_file_that_is_replaced_or_written_in_place_is_read_again() -> None:
    write_pem(Path("www.pem"), "www.example.com")

    async def test(it: Following) -> None:
        it.begin("{certificates: www.pem}")
        for put in (replace, Path.write_bytes):
            issued = authority().issue_cert("www.example.com")
            put(Path("www.pem"), chain_of(issued) + key_of(issued))
            [shown] = (await it.wait_change()).values()
            assert has(shown, issued)
        assert it.log(BROKEN) == []

    following(test)


def test_a_directory_behind_links_is_followed_as_kubernetes_swaps_it() -> None:
    for number in (1, 2):
        issued = authority().issue_cert(f"v{number}.example.com")
        Path(f"certs/..{number}").mkdir(parents=True)
        Path(f"certs/..{number}/tls.crt").write_bytes(chain_of(issued))
        Path(f"certs/..{number}/tls.key").write_bytes(key_of(issued))
    Path("certs/..data").symlink_to("..1")
    for name in ("tls.crt", "tls.key"):
        Path(f"certs/{name}").symlink_to(f"..data/{name}")

    async def test(it: Following) -> None:
        it.begin("{certificates: certs/}")
        assert list(it.shown()) == [("v1.example.com",)]
        Path("certs/..new").symlink_to("..2")
        Path("certs/..new").rename("certs/..data")
        shutil.rmtree("certs/..1")
        assert list(await it.wait_change()) == [("v2.example.com",)]
        assert it.log(BROKEN) == []

    following(test)


def test_what_comes_into_a_directory_and_leaves_it_is_shown_and_is_not() -> None:
    Path("certs").mkdir()
    write_pem(Path("certs/b.pem"), "b.example.com")

    async def test(it: Following) -> None:
        it.begin("{certificates: certs}")
        write_pem(Path("certs/a.pem"), "a.example.com")
        await it.wait(lambda: len(it.shown()) == 2, "two certificates")
        assert list(it.shown()) == [("a.example.com",), ("b.example.com",)]
        Path("certs/b.pem").unlink()
        await it.wait(lambda: len(it.shown()) == 1, "one certificate")
        assert list(it.shown()) == [("a.example.com",)]
        Path("certs/a.pem").unlink()
        await it.wait(lambda: it.log(BROKEN), "a line")
        assert list(it.shown()) == [("a.example.com",)]
        async with asyncio.timeout(4):  # less than the time between two looks that nobody asked for
            write_pem(Path("certs/c.pem"), "c.example.com")
            await it.wait(lambda: list(it.shown()) == [("c.example.com",)], "another one")

    following(test)


def test_one_broken_file_of_a_directory_keeps_nobody_from_the_others() -> None:
    Path("certs").mkdir()
    good = write_pem(Path("certs/a.pem"), "a.example.com")
    write_pem(Path("certs/b.pem"), "b.example.com")

    async def test(it: Following) -> None:
        it.begin("{certificates: certs}")
        Path("certs/a.pem").write_text("x")
        await it.wait(lambda: it.log(BROKEN), "a line")
        issued = authority().issue_cert("b.example.com")
        replace(Path("certs/b.pem"), chain_of(issued) + key_of(issued))
        shown = await it.wait_change()
        assert has(shown["a.example.com",], good)
        assert has(shown["b.example.com",], issued)

    following(test)


def test_a_broken_file_keeps_the_last_good_one_and_one_line_says_so() -> None:
    Path("certs").mkdir()
    good = write_pem(Path("certs/www.pem"), "www.example.com")
    authority().cert_pem.write_to_path("ca.pem")

    async def test(it: Following) -> None:
        it.begin("{certificates: certs/, client_ca: ca.pem}")
        before = it.shown()
        for broken in (b"", chain_of(good), b"\xff\xfe"):
            count = len(it.log(BROKEN))
            replace(Path("certs/www.pem"), broken)
            await it.wait(lambda count=count: len(it.log(BROKEN)) > count, "a line")
            assert it.shown() == before
        Path("certs/www.pem").unlink()
        await it.wait(lambda: str(it.log(BROKEN)[-1]["file"]).endswith("certs"), "a line")
        assert it.shown() == before
        Path("ca.pem").write_text("x")
        await it.wait(lambda: str(it.log(BROKEN)[-1]["file"]).endswith("ca.pem"), "a line")
        assert it.shown() == before
        assert not it.part.changed.is_set()
        assert "PRIVATE" not in json.dumps(it.lines, default=str)
        assert it.mended() == set()
        issued = write_pem(Path("certs/www.pem"), "www.example.com")
        authority().cert_pem.write_to_path("ca.pem")
        await it.wait(lambda: {"certs", "ca.pem"} <= it.mended(), "two lines")
        [shown] = it.shown().values()
        assert has(shown, issued)

    following(test)


def test_a_chain_and_its_key_that_come_one_after_the_other_are_no_news_worth_a_warning() -> None:
    """For as long as `settle`, which is never over in this test."""
    one, two = authority().issue_cert("a.example.com"), authority().issue_cert("a.example.com")
    for first in ("crt", "key"):
        Path("a.crt").write_bytes(chain_of(one))
        Path("a.key").write_bytes(key_of(one))

        async def test(it: Following, first: str = first) -> None:
            it.begin("{certificates: {chain: a.crt, key: a.key}}")
            new = {"crt": chain_of(two), "key": key_of(two)}
            replace(Path(f"a.{first}"), new.pop(first))
            await it.wait(lambda: it.part._known.problems, "a look at half of it")
            [shown] = it.shown().values()
            assert has(shown, one)
            [(other, data)] = new.items()
            replace(Path(f"a.{other}"), data)
            [shown] = (await it.wait_change()).values()
            assert has(shown, two)
            assert it.lines == []

        following(test, settle=1.0)


def test_a_reload_keeps_what_was_good_and_refuses_what_never_was() -> None:
    good = write_pem(Path("www.pem"), "www.example.com")

    async def test(it: Following) -> None:
        it.begin("{certificates: www.pem}")
        Path("www.pem").write_text("x")
        Path("new.pem").write_text("y")
        before = it.config
        with pytest.raises(ConfigError, match=r"new.pem: listeners.web.tls.certificates\[1\]: "):
            await it.part.prepare(configuration("{certificates: [www.pem, new.pem]}"))
        await it.part.prepare(configuration("{certificates: www.pem, min_version: 1.3}"))
        it.config = before
        it.apply()
        [shown] = it.shown().values()
        assert has(shown, good)
        await it.wait(lambda: it.log(BROKEN), "a line")
        assert len(it.log(BROKEN)) == 1

    following(test)


def dated(start: datetime, end: datetime) -> Certificate:
    issued = authority().issue_cert("a.example.com", not_before=start, not_after=end)
    content = read_content(chain_of(issued) + key_of(issued))
    assert content.chain is not None
    return pair(content.chain, content.keys)


def test_a_certificate_that_ends_soon_is_told_once_a_day() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    used = [
        ("/fine.pem", dated(now - timedelta(days=75), now + timedelta(days=16))),
        ("/soon.pem", dated(now - timedelta(days=77), now + timedelta(days=13))),
        ("/short.pem", dated(now - timedelta(hours=6), now + timedelta(hours=18))),
        ("/over.pem", dated(now - timedelta(days=91), now - timedelta(days=1))),
        ("/early.pem", dated(now + timedelta(days=1), now + timedelta(days=91))),
    ]
    clock = [now]
    expiry = Expiry(lambda: used, lambda: clock[0])
    with capture_logs() as lines:
        for hours in (0, 1, 22):
            clock[0] = now + timedelta(hours=hours)
            expiry.tell()
    told = {line["file"]: line["event"] for line in lines}
    assert told == {
        "/soon.pem": "a certificate expires soon, on 2030-01-14 00:00 UTC",
        "/over.pem": "a certificate expired on 2029-12-31 00:00 UTC",
        "/early.pem": "a certificate is not valid before 2030-01-02 00:00 UTC",
        "/short.pem": "a certificate expired on 2030-01-01 18:00 UTC",
    }
    assert [line["file"] for line in lines].count("/over.pem") == 1
    with capture_logs() as lines:
        clock[0] = now + timedelta(hours=25)
        expiry.tell()
    assert {line["file"] for line in lines} == {"/soon.pem", "/over.pem"}


def test_the_report_tells_of_each_certificate_what_its_time_means() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    shown = {
        "/fine.pem": dated(now - timedelta(days=75), now + timedelta(days=16)),
        "/new.pem": dated(now - timedelta(hours=6), now + timedelta(hours=18)),
        "/soon.pem": dated(now - timedelta(hours=18), now + timedelta(hours=6)),
        "/over.pem": dated(now - timedelta(days=91), now),
        "/early.pem": dated(now + timedelta(days=1), now + timedelta(days=91)),
    }
    states = ["valid", "valid", "soon", "expired", "not_yet"]
    assert [one["state"] for one in report(shown, now)] == states


YAML = """\
admin: {{bind: "unix:{door}"}}
listeners:
  web: {{bind: "127.0.0.1:0", pool: app, tls: {{certificates: {certs}/}}}}
  raw: {{bind: "127.0.0.1:0", pool: app}}
pools:
  app: {{upstreams: 127.0.0.1:9, health: off, tls: {{certificate: {certs}/www.pem}}}}
"""


@contextmanager
def serving(directory: Path) -> Iterator[tuple[Proxy, Path]]:
    """The whole proxy with a directory `certs`, and its door."""
    door = directory / "door"
    with running_proxy(YAML.format(door=door, certs=directory / "certs")) as proxy:
        yield proxy, door


def test_the_running_proxy_tells_its_certificates_and_follows_them(tmp_path: Path) -> None:
    Path("certs").mkdir()
    write_pem(Path("certs/www.pem"), "www.example.com", "example.com")
    with serving(tmp_path) as (proxy, door):
        workers = proxy.worker_pids()
        web, raw = request(door, "GET", "/api/v1/status")[1]["listeners"]
        [shown] = web["certificates"]
        assert raw["certificates"] == []
        assert shown["file"] == str(tmp_path / "certs/www.pem")
        assert shown["names"] == ["www.example.com", "example.com"]
        assert shown["not_after"] == "3000-01-01T00:00:00Z"
        assert shown["days_left"] > 10_000
        assert shown["state"] == "valid"
        end = datetime.now(UTC) + timedelta(days=3)
        issued = authority().issue_cert("other.example.com", not_after=end)
        replace(Path("certs/www.pem"), chain_of(issued) + key_of(issued))
        proxy.wait_log("certificates changed", where=lambda line: line.get("listener") == "web")
        proxy.wait_log("certificates changed", where=lambda line: line.get("pool") == "app")
        assert proxy.log("upstreams changed") == proxy.log("access changed") == []
        [shown] = request(door, "GET", "/api/v1/status")[1]["listeners"][0]["certificates"]
        assert shown["names"] == ["other.example.com"]
        assert 2.9 < shown["days_left"] <= 3
        command = [sys.executable, "-m", "spliceproxy", "status", "--admin", f"unix:{door}"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "other.example.com" in printed
        assert "2d 23h" in printed
        assert "PRIVATE" not in proxy.stderr + printed
        assert proxy.worker_pids() == workers


def test_status_names_a_file_that_is_broken_for_as_long_as_it_is(tmp_path: Path) -> None:
    Path("certs").mkdir()
    good = write_pem(Path("certs/www.pem"), "www.example.com")
    with serving(tmp_path) as (proxy, door):
        replace(Path("certs/www.pem"), chain_of(good))
        proxy.wait_log(BROKEN)
        web, raw = request(door, "GET", "/api/v1/status")[1]["listeners"]
        assert [one["file"] for one in web["broken_files"]] == [str(tmp_path / "certs/www.pem")]
        assert "no file beside it has its private key" in web["broken_files"][0]["problem"]
        assert [one["names"] for one in web["certificates"]] == [["www.example.com"]]
        assert raw["broken_files"] == []
        command = [sys.executable, "-m", "spliceproxy", "status", "--admin", f"unix:{door}"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "no file beside it has its private key" in printed
        assert "broken" in printed
        replace(Path("certs/www.pem"), chain_of(good) + key_of(good))
        proxy.wait_log(MENDED)
        web, raw = request(door, "GET", "/api/v1/status")[1]["listeners"]
        assert web["broken_files"] == []


def test_a_change_of_the_configuration_is_told_without_what_the_files_hold(tmp_path: Path) -> None:
    Path("certs").mkdir()
    write_pem(Path("certs/www.pem"), "www.example.com")
    with serving(tmp_path) as (proxy, door):
        text = proxy.config.read_text()
        proxy.config.write_text(
            text.replace("/}", "/, min_version: 1.3}").replace(
                "off, tls", "off, on_down: reset, tls"
            )
        )
        proxy.signal(1)
        said = proxy.wait_log("reloaded")
        assert "~ listener web: tls.min_version 1.2 → 1.3" in said["changes"]
        [shown] = request(door, "GET", "/api/v1/status")[1]["listeners"][0]["certificates"]
        assert shown["names"] == ["www.example.com"]
        write_pem(Path("certs/a.pem"), "a.example.com")
        proxy.wait_log("certificates changed")
        replace(Path("certs/a.pem"), b"x")
        wait_until(lambda: proxy.log(BROKEN), 10, "a warning")
        [line] = proxy.log(BROKEN)
        assert line["problem"].endswith("it begins with -----BEGIN CERTIFICATE-----")


def test_a_start_without_its_certificate_ends_with_the_code_of_configurations() -> None:
    Path("a.yaml").write_text(YAML.format(door=Path("door").absolute(), certs="certs"))
    for command in ("run", "check"):
        done = subprocess.run(
            [sys.executable, "-m", "spliceproxy", command, "a.yaml"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 78
        assert "certs: listeners.web.tls.certificates[0]: no such file; " in done.stderr


def test_check_warns_of_a_certificate_that_ends_soon(tmp_path: Path) -> None:
    Path("certs").mkdir()
    end = datetime.now(UTC) + timedelta(days=5)
    issued = authority().issue_cert("a.example.com", not_after=end)
    Path("certs/www.pem").write_bytes(chain_of(issued) + key_of(issued))
    Path("a.yaml").write_text(YAML.format(door=tmp_path / "door", certs="certs"))
    command = [sys.executable, "-m", "spliceproxy", "check", "a.yaml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "OK: 2 listeners" in done.stdout) == (0, True)
    text = f"warning: {tmp_path}/certs/www.pem: the certificate expires soon, on {end:%Y-%m-%d}"
    assert done.stderr.startswith(text)
    assert done.stderr.count("\n") == 1
