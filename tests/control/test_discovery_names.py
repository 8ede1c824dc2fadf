"""control/discovery: host names and SRV records, asked of a real DNS server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from harness.discovering import QUICK, Discovering, discovering
from harness.dns import DnsServer, dns_server
from harness.health import run

from spliceproxy.control.plan import plan_pools
from spliceproxy.control.slots import UpstreamSlots

HOLD = 0.3
assert QUICK.hold == HOLD

Test = Callable[[DnsServer, Discovering], Awaitable[None]]


def with_dns(test: Test, **options: object) -> None:
    """Run a test with a DNS server and a discovery that asks it."""

    async def main() -> None:
        with dns_server() as dns:
            async with discovering(dns.address, **options) as it:  # type: ignore[arg-type]
                await test(dns, it)

    run(main)


def test_each_address_of_a_name_is_an_upstream_of_both_families() -> None:
    async def test(dns: DnsServer, it: Discovering) -> None:
        dns.answer("app.test", A="10.0.0.2 10.0.0.1", AAAA="2001:db8::1", ttl=60)
        entry = {"address": "app.test:80", "weight": 3, "tier": 1, "max_sessions": 9}
        assert await it.follow(entry, "127.0.0.1:9") == [
            "10.0.0.1:80 weight 3 tier 1 limit 9",
            "10.0.0.2:80 weight 3 tier 1 limit 9",
            "127.0.0.1:9",
            "[2001:db8::1]:80 weight 3 tier 1 limit 9",
        ]

    with_dns(test)


def test_an_answer_is_followed_when_its_ttl_is_over() -> None:
    async def test(dns: DnsServer, it: Discovering) -> None:
        dns.answer("app.test", A="10.0.0.1", ttl=1)
        assert await it.follow("app.test:80") == ["10.0.0.1:80"]
        began = asyncio.get_running_loop().time()
        dns.answer("app.test", A="10.0.0.2", ttl=1)
        await it.wait_found("10.0.0.2:80")
        assert 0.5 < asyncio.get_running_loop().time() - began < 3
        assert it.discovery.changed.is_set()

    with_dns(test)


@pytest.mark.parametrize(
    ("ttl", "bounds", "soon"),
    [(3600, {"max_ttl": "100ms"}, True), (0, {"min_ttl": "1m"}, False)],
)
def test_the_bounds_of_the_configuration_hold(ttl: int, bounds: dict[str, str], soon: bool) -> None:
    async def test(dns: DnsServer, it: Discovering) -> None:
        dns.answer("app.test", A="10.0.0.1", ttl=ttl)
        dns.answer("other.test", A="10.1.0.1", ttl=ttl)
        await it.follow("app.test:80", **bounds)
        if soon:
            await it.wait(lambda: dns.asked("app.test") >= 4, "more questions")
        else:
            assert it.discovery.ttl(it.discovery._roots) == 60
            assert dns.asked("app.test") == 1

    with_dns(test)


def test_an_answer_in_another_order_is_no_change() -> None:
    async def test(dns: DnsServer, it: Discovering) -> None:
        dns.answer("app.test", A="10.0.0.1 10.0.0.2", ttl=0)
        await it.follow("app.test:80")
        dns.answer("app.test", A="10.0.0.2 10.0.0.1", ttl=0)
        asked = dns.asked("app.test")
        await it.wait(lambda: dns.asked("app.test") > asked + 2, "more questions")
        assert not it.discovery.changed.is_set()

    with_dns(test)


@pytest.mark.parametrize("how", ["SERVFAIL", "REFUSED", "silence"])
def test_the_last_good_answer_stays_while_dns_fails_and_the_log_says_so_once(
    how: str, tmp_path: Path
) -> None:
    async def test(dns: DnsServer, it: Discovering) -> None:
        dns.answer("app.test", A="10.0.0.1", ttl=0)
        await it.follow("app.test:80")
        dns.misbehave("app.test", how)
        asked = dns.asked("app.test")
        await it.wait(lambda: dns.asked("app.test") > asked + 4, "more questions")
        await it.wait(lambda: it.log("a name cannot be looked up"), "the warning")
        assert it.found() == ["10.0.0.1:80"]
        [line] = it.log("a name cannot be looked up")
        assert (line["name"], line["known"]) == ("app.test", 1)
        assert line["reason"] == (
            "no answer within 1 s" if how == "silence" else f"{_server(dns)} answered {how}"
        )
        dns.answer("app.test", A="10.0.0.3", ttl=0)
        await it.wait_found("10.0.0.3:80")
        assert len(it.log("a name can be looked up again")) == 1
        assert len(it.log("a name cannot be looked up")) == 1

    with_impatience(test, tmp_path)


def with_impatience(test: Test, tmp_path: Path) -> None:
    """The same with a second for each question."""

    async def main() -> None:
        with dns_server() as dns:
            path = system(tmp_path, "options timeout:1 attempts:1")
            async with discovering(resolv_conf=path, port=dns.port) as it:
                await test(dns, it)

    run(main)


def _server(dns: DnsServer) -> str:
    return f"Do53:127.0.0.1@{dns.port}"


def test_a_name_that_is_gone_for_a_moment_loses_nobody() -> None:
    async def test(dns: DnsServer, it: Discovering) -> None:
        dns.answer("app.test", A="10.0.0.1", ttl=0)
        await it.follow("app.test:80")
        dns.forget("app.test")
        asked = dns.asked("app.test")
        await it.wait(lambda: dns.asked("app.test") > asked + 3, "more questions")
        assert it.found() == ["10.0.0.1:80"]
        dns.answer("app.test", A="10.0.0.1", ttl=0)
        await it.wait(lambda: it.log("a name can be looked up again"), "the answer")
        assert not it.discovery.changed.is_set()

    with_dns(test, pace=replace(QUICK, hold=60))


@pytest.mark.parametrize("answer", ["NXDOMAIN", "NODATA"])
def test_a_name_that_stays_gone_loses_its_upstreams_after_the_hold(answer: str) -> None:
    async def test(dns: DnsServer, it: Discovering) -> None:
        dns.answer("app.test", A="10.0.0.1", ttl=0)
        await it.follow("app.test:80")
        began = asyncio.get_running_loop().time()
        dns.answer("app.test", **({} if answer == "NXDOMAIN" else {"TXT": "nothing"}))
        await it.wait_found()
        assert asyncio.get_running_loop().time() - began >= HOLD
        dns.answer("app.test", A="10.0.0.1", ttl=0)
        await it.wait_found("10.0.0.1:80")

    with_dns(test)


@pytest.mark.parametrize("how", ["SERVFAIL", "silence"])
def test_a_family_that_fails_leaves_the_other_as_it_answers(how: str) -> None:
    async def test(dns: DnsServer, it: Discovering) -> None:
        dns.answer("app.test", A="10.0.0.1", AAAA="2001:db8::1", ttl=0)
        await it.follow("app.test:80")
        dns.answer("app.test", A="10.0.0.2", AAAA="2001:db8::2", ttl=0)
        dns.misbehave("app.test", how, "AAAA")
        await it.wait_found("10.0.0.2:80", "[2001:db8::1]:80")
        dns.answer("app.test", A="10.0.0.2", AAAA="2001:db8::2", ttl=0)
        await it.wait_found("10.0.0.2:80", "[2001:db8::2]:80")

    with_dns(test)


def test_a_pool_may_be_empty_until_an_answer_comes() -> None:
    async def test(dns: DnsServer, it: Discovering) -> None:
        dns.misbehave("silent.test", "silence")
        dns.misbehave("later.test", "SERVFAIL")
        began = asyncio.get_running_loop().time()
        assert await it.follow("silent.test:80", "later.test:80", "127.0.0.1:9") == ["127.0.0.1:9"]
        assert asyncio.get_running_loop().time() - began < QUICK.first_answers + 0.5
        dns.answer("later.test", A="10.0.0.1")
        await it.wait_found("10.0.0.1:80", "127.0.0.1:9")

    with_dns(test)


def test_srv_records_give_ports_weights_and_tiers() -> None:
    async def test(dns: DnsServer, it: Discovering) -> None:
        dns.answer("a.test", A="10.0.0.1", AAAA="2001:db8::1")
        dns.answer("b.test", A="10.0.0.2")
        records = ["10 5 8001 a.test.", "10 0 8002 b.test.", "30 7 8003 b.test.", "40 0 1 ."]
        dns.answer("_app._tcp.test", SRV=records)
        entry = {"address": "srv:_app._tcp.test", "weight": 2, "tier": 1, "max_sessions": 200}
        assert await it.follow(entry) == [
            "10.0.0.1:8001 weight 10 tier 1 limit 200",
            "10.0.0.2:8002 weight 2 tier 1 limit 200",
            "10.0.0.2:8003 weight 14 tier 2 limit 200",
            "[2001:db8::1]:8001 weight 10 tier 1 limit 200",
        ]

    with_dns(test)


def test_each_upstream_has_the_name_that_its_certificate_should_be_for(tmp_path: Path) -> None:
    """Of SRV records the domain that was asked, not the targets, which are only DNS's word."""
    path = tmp_path / "list.yaml"
    path.write_text("[Listed.test:5, 127.0.0.2:6]")

    async def test(dns: DnsServer, it: Discovering) -> None:
        for number, name in enumerate(("a.test", "target.other.test", "listed.test"), 1):
            dns.answer(name, A=f"10.0.0.{number}")
        dns.answer("_app._tcp.svc.test", SRV=["0 1 80 target.other.test."])
        written = ("A.test.:1", "srv:_app._tcp.Svc.test.", f"file:{path}", "127.0.0.1:2", "[::1]:3")
        await it.follow(*written, "unix:/run/app.sock")
        await it.wait(lambda: len(it.found()) == 7, "all of them")
        assert it.config is not None
        found = it.discovery.found(it.config)
        [pool] = plan_pools(it.config, found, UpstreamSlots())
        assert {one.name: one.server_name for one in pool.upstreams} == {
            "10.0.0.1:1": "a.test",
            "10.0.0.2:80": "svc.test",
            "10.0.0.3:5": "listed.test",
            "127.0.0.2:6": "127.0.0.2",
            "127.0.0.1:2": "127.0.0.1",
            "[::1]:3": "::1",
            "unix:/run/app.sock": "",
        }

    with_dns(test)


def test_heavy_srv_records_keep_their_proportions() -> None:
    async def test(dns: DnsServer, it: Discovering) -> None:
        dns.answer("a.test", A="10.0.0.1")
        records = ["0 60000 1 a.test.", "0 30000 2 a.test.", "0 1 3 a.test."]
        dns.answer("_app._tcp.test", SRV=records)
        assert await it.follow("srv:_app._tcp.test") == [
            "10.0.0.1:1 weight 256",
            "10.0.0.1:2 weight 128",
            "10.0.0.1:3",
        ]

    with_dns(test)


@pytest.mark.parametrize("how", ["silence", "SERVFAIL"])
def test_new_srv_targets_take_over_only_when_their_addresses_are_known(
    how: str, tmp_path: Path
) -> None:
    async def test(dns: DnsServer, it: Discovering) -> None:
        dns.answer("a.test", A="10.0.0.1")
        dns.answer("_app._tcp.test", SRV=["0 1 80 a.test."], ttl=0)
        assert await it.follow("srv:_app._tcp.test") == ["10.0.0.1:80"]
        dns.misbehave("b.test", how)
        dns.answer("_app._tcp.test", SRV=["0 1 80 b.test."], ttl=0)
        await it.wait(lambda: dns.asked("b.test") > 1, "the question")
        assert it.found() == ["10.0.0.1:80"]
        dns.answer("b.test", A="10.0.0.2")
        seen = set()

        def moved() -> bool:
            seen.add(tuple(it.found()))
            return it.found() == ["10.0.0.2:80"]

        await it.wait(moved, "the new target", timeout=20)
        assert () not in seen

    with_impatience(test, tmp_path)


def test_a_new_name_that_fails_and_then_is_not_there_does_not_keep_the_old_one() -> None:
    async def test(dns: DnsServer, it: Discovering) -> None:
        dns.answer("a.test", A="10.0.0.1")
        dns.answer("_app._tcp.test", SRV=["0 1 80 a.test."], ttl=0)
        await it.follow("srv:_app._tcp.test")
        dns.misbehave("b.test", "SERVFAIL")
        dns.answer("_app._tcp.test", SRV=["0 1 80 b.test."], ttl=0)
        await it.wait(lambda: dns.asked("b.test") > 1, "the question")
        assert it.found() == ["10.0.0.1:80"]
        dns.forget("b.test")
        await it.wait_found()

    with_dns(test)


def test_a_truncated_answer_is_asked_for_over_tcp() -> None:
    async def test(dns: DnsServer, it: Discovering) -> None:
        many = [f"10.0.{n >> 8}.{n & 255}" for n in range(300)]
        dns.answer("app.test", A=" ".join(many), ttl=60)
        dns.misbehave("app.test", "truncate")
        assert len(await it.follow("app.test:80")) == 300
        assert dns.asked("app.test", over="tcp") == 1

    with_dns(test)


def test_an_alias_is_followed_for_the_shorter_ttl() -> None:
    async def test(dns: DnsServer, it: Discovering) -> None:
        dns.answer("app.test", CNAME="real.test.", ttl=300)
        dns.answer("real.test", A="10.0.0.1", ttl=7)
        assert await it.follow("app.test:80") == ["10.0.0.1:80"]
        assert it.discovery.ttl(it.discovery._roots) == 7

    with_dns(test)


def test_a_server_that_fails_leaves_the_answer_to_the_next_one() -> None:
    async def main() -> None:
        with dns_server() as bad, dns_server() as good:
            bad.misbehave("app.test", "SERVFAIL")
            good.answer("app.test", A="10.0.0.1")
            async with discovering() as it:
                servers = [bad.address, good.address]
                assert await it.follow("app.test:80", servers=servers) == ["10.0.0.1:80"]

    run(main)


def test_the_hosts_file_comes_first_and_is_followed(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("# names\n10.9.0.1 App.test alias  # more\nnonsense\n2001:db8::9 app.test\n")

    async def test(dns: DnsServer, it: Discovering) -> None:
        dns.answer("app.test", A="10.0.0.1")
        assert await it.follow("app.test:80") == ["10.9.0.1:80", "[2001:db8::9]:80"]
        assert not dns.asked("app.test")
        hosts.write_text("10.9.0.2 app.test\n2001:db8::9 app.test\n")
        await it.wait_found("10.9.0.2:80", "[2001:db8::9]:80")
        hosts.unlink()
        await it.wait_found("10.0.0.1:80")

    with_dns(test, hosts=str(hosts))


def system(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "resolv.conf"
    path.write_text(f"nameserver 127.0.0.1\n{text}\n")
    return path


@pytest.mark.parametrize(
    ("options", "name", "asked"),
    [
        ("", "app", ["app.one.test", "app.two.test"]),
        ("", "app.x", ["app.x", "app.x.one.test", "app.x.two.test"]),
        ("options ndots:3", "app.x", ["app.x.one.test", "app.x.two.test"]),
        ("options ndots:3", "app.x.", ["app.x"]),
    ],
)
def test_the_search_list_and_ndots_of_resolv_conf_are_obeyed(
    tmp_path: Path, options: str, name: str, asked: list[str]
) -> None:
    async def main() -> None:
        with dns_server() as dns:
            dns.answer(asked[-1], A="10.0.0.1")
            path = system(tmp_path, f"search one.test two.test\n{options}")
            async with discovering(resolv_conf=path, port=dns.port) as it:
                assert await it.follow(f"{name}:80") == ["10.0.0.1:80"]
            assert [one for one in asked if dns.asked(one)] == asked

    run(main)


def test_no_other_name_takes_the_place_of_one_that_fails(tmp_path: Path) -> None:
    async def main() -> None:
        with dns_server() as dns:
            dns.answer("app.one.test", A="10.0.0.1", ttl=0)
            dns.answer("app.two.test", A="10.0.0.66", ttl=0)
            path = system(tmp_path, "search one.test two.test")
            async with discovering(resolv_conf=path, port=dns.port) as it:
                assert await it.follow("app:80") == ["10.0.0.1:80"]
                dns.misbehave("app.one.test", "SERVFAIL")
                asked = dns.asked("app.one.test")
                await it.wait(lambda: dns.asked("app.one.test") > asked + 3, "more questions")
                assert it.found() == ["10.0.0.1:80"]

    run(main)


def test_another_resolv_conf_is_obeyed_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        with dns_server() as dns:
            dns.answer("app.one.test", A="10.0.0.1", ttl=3600)
            dns.answer("app.two.test", A="10.0.0.2", ttl=3600)
            path = system(tmp_path, "search one.test")
            async with discovering(resolv_conf=path, port=dns.port) as it:
                assert await it.follow("app:80") == ["10.0.0.1:80"]
                system(tmp_path, "search two.test")
                await it.wait_found("10.0.0.2:80")

    run(main)


def test_a_reload_asks_only_for_names_that_are_new() -> None:
    async def test(dns: DnsServer, it: Discovering) -> None:
        dns.answer("a.test", A="10.0.0.1", ttl=3600)
        dns.answer("b.test", A="10.0.0.2", ttl=3600)
        await it.follow("a.test:80")
        assert await it.follow("a.test:80", "b.test:80") == ["10.0.0.1:80", "10.0.0.2:80"]
        assert await it.follow("b.test:81") == ["10.0.0.2:81"]
        assert (dns.asked("a.test"), dns.asked("b.test")) == (1, 1)

    with_dns(test)


def test_other_dns_servers_are_asked_at_once_and_what_was_known_stays() -> None:
    async def main() -> None:
        with dns_server() as one, dns_server() as two:
            one.answer("a.test", A="10.0.0.1", ttl=3600)
            two.answer("a.test", A="10.0.0.2", ttl=3600)
            async with discovering(one.address) as it:
                assert await it.follow("a.test:80") == ["10.0.0.1:80"]
                assert await it.follow("a.test:80", servers=two.address) == ["10.0.0.1:80"]
                await it.wait_found("10.0.0.2:80")

    run(main)


def test_a_thousand_names_are_asked_for_in_time() -> None:
    async def test(dns: DnsServer, it: Discovering) -> None:
        names = [f"n{n}.test" for n in range(1000)]
        for n, name in enumerate(names):
            dns.answer(name, A=f"10.1.{n >> 8}.{n & 255}", ttl=3600)
        began = asyncio.get_running_loop().time()
        found = await it.follow(*(f"{name}:80" for name in names))
        print(f"{len(found)} names in {asyncio.get_running_loop().time() - began:.2f} s")
        assert len(found) == 1000

    with_dns(test, pace=replace(QUICK, first_answers=30))
