"""What the page shows is what the API says."""

from __future__ import annotations

import re

from scenarios import all_down, empty, one_upstream, record, usual
from screen import ShowProxy

from spliceproxy.telemetry.record import NORMAL_ENDS, WHYS

UNKNOWN = "\N{EN DASH}"


def test_numbers_are_written_with_units_that_fit(show: ShowProxy) -> None:
    screen, _ = show(one_upstream())
    for function, expected in {
        "bytes": {0: "0 B", 999: "999 B", 1023: "1023 B", 1536: "1.5 KiB", 102400: "100 KiB",
                  1048524: "1.0 MiB", 5 * 2**40: "5.0 TiB"},
        "rate": {0: "0", 0.4: "0", 900: "900 B/s", 2**20: "1.0 MiB/s"},
        "perSecond": {0: "0", 0.01: "<0.1", 0.2: "0.2", 9.97: "10", 1234.4: "1,234"},
        "milliseconds": {0: "<0.01 ms", 0.313: "0.31 ms", 0.999: "1.0 ms", 12.2: "12 ms",
                         999.9: "1.0 s", 61_000: "1m 01s"},
        "duration": {0.44: "0.4 s", 12.4: "12 s", 59.9: "1m 00s", 61: "1m 01s", 3720: "1h 02m",
                     273_700: "3d 4h"},
        "percent": {0: "0 %", 0.004: "0.4 %", 0.31: "31 %"},
        "count": {0: "0", 1234567: "1,234,567"},
    }.items():  # fmt: skip
        said = screen.say(function, list(expected))
        assert [text.replace("\u00a0", " ") for text in said] == list(expected.values())
        assert screen.say(function, [None]) == [UNKNOWN]


def test_every_row_has_the_numbers_of_its_name(show: ShowProxy) -> None:
    screen, api = show()
    screen.stand_still()
    traffic, status = api.answers["traffic"], api.answers["status"]
    found = {(row["kind"], row["name"]): row for row in screen.rows()}
    expected = {
        **{("listener", one["name"]): one for one in status["listeners"]},
        **{("pool", one["name"]): one for one in status["pools"]},
        **{("upstream", one["name"]): one for pool in status["pools"] for one in pool["upstreams"]},
    }
    assert found.keys() == expected.keys()
    flat = {("listener", name): numbers for name, numbers in traffic["listeners"].items()} | {
        ("pool", name): numbers for name, numbers in traffic["pools"].items()
    }
    for upstreams in traffic["upstreams"].values():
        flat |= {("upstream", name): numbers for name, numbers in upstreams.items()}
    for key, numbers in flat.items():
        row, rates = found[key], numbers["rates"]
        assert [row["up"], row["down"]] == screen.say(
            "rate", [rates["bytes_up"], rates["bytes_down"]]
        )
        connect = numbers["connect_ms"]
        assert [row["p50"], row["p99"]] == screen.say(
            "milliseconds", [connect["p50"], connect["p99"]]
        )
        assert [row["sessions"]] == screen.say("count", [expected[key]["sessions"]])


def test_states_have_a_word_and_a_shape(show: ShowProxy) -> None:
    proxy = usual()
    proxy.upstream("10.0.0.1:9000").states = {"ejected", "draining"}
    proxy.upstream("10.0.0.2:9000").held_back = 60
    proxy.listeners[1].draining = True
    screen, _ = show(proxy)
    told = {row["name"]: (row["state"], row["shape"]) for row in screen.rows()}
    assert told["10.0.0.1:9000"] == ("draining, ejected", "#icon-ejected")
    assert told["10.0.0.2:9000"] == ("slow start, 40\u00a0%", "#icon-slow")
    assert told["10.0.0.3:9000"] == ("up", "#icon-up")
    assert told["10.0.1.2:5432"] == ("down", "#icon-down")
    assert screen.row("app", "pool")["state"] == "2 of 3 up"
    assert screen.row("postgres", "listener")["state"] == "draining"


def test_the_head_tells_all_together_and_the_workers(show: ShowProxy) -> None:
    screen, api = show()
    screen.stand_still()
    total = api.answers["traffic"]["total"]
    tiles = screen.page.locator(".tile .value").all_text_contents()
    rates = total["rates"]
    [sessions] = screen.say("count", [total["sessions"]])
    down, up = screen.say("rate", [rates["bytes_down"], rates["bytes_up"]])
    [errors] = screen.say("perSecond", [rates["errors"]])
    [connect] = screen.say("milliseconds", [total["connect_ms"]["p50"]])
    assert [*tiles[:3], *tiles[4:6]] == [sessions, down, up, errors, connect]
    assert tiles[6].replace("\u00a0", " ") == "42 %"  # the busier one of the two
    assert screen.page.locator("#workers li").all_text_contents() == [
        "worker 0: 31\u00a0% CPU",
        "worker 1: 42\u00a0% CPU",
    ]
    assert screen.page.locator("#ready-word").text_content() == "ready"
    assert screen.page.locator("#version").text_content() == "0.1.0"
    assert "up 1d 2h" in (screen.page.locator("#uptime").text_content() or "").replace(
        "\u00a0", " "
    )


def test_a_proxy_that_is_not_ready_says_why(show: ShowProxy) -> None:
    screen, _ = show(all_down())
    assert screen.page.locator("#ready-word").text_content() == "not ready"
    assert screen.page.locator("#reasons").text_content() == (
        "pool app has no upstream that can be used"
    )
    assert {row["state"] for row in screen.rows() if row["kind"] == "upstream"} == {"down"}
    assert screen.row("web", "listener")["state"] == "pool down"
    assert screen.row("app", "pool")["about"].startswith("31 waiting")


def test_a_quiet_proxy_shows_zeros_and_says_that_nothing_was(show: ShowProxy) -> None:
    screen, _ = show(empty())
    assert [row["up"] for row in screen.rows()] == ["0", "0", "0"]
    assert screen.row("127.0.0.1:9001")["p50"] == UNKNOWN
    for part in ("sessions", "ends", "events", "records"):
        assert screen.page.locator(f"#{part}-nothing").is_visible()


def test_ribbons_are_as_thick_as_the_throughput(show: ShowProxy) -> None:
    screen, api = show()
    screen.stand_still()
    edges: dict[str, float] = {}
    for edge in api.answers["traffic"]["edges"]:
        moved = edge["rates"]["bytes_up"] + edge["rates"]["bytes_down"]
        for key in (
            f"link listener/{edge['listener']} pool/{edge['pool']}",
            f"link pool/{edge['pool']} upstream/{edge['pool']}/{edge['upstream']}",
        ):
            edges[key] = edges.get(key, 0) + moved
    thick = {}
    for ribbon in screen.page.locator(".ribbon").all():
        path = ribbon.get_attribute("d") or ""
        begin = re.match(r"M[\d.]+ ([\d.]+)", path)
        end = re.search(r" ([\d.]+)Z$", path)
        assert begin is not None
        assert end is not None
        thick[ribbon.get_attribute("data-key")] = float(end[1]) - float(begin[1])
    assert thick.keys() == edges.keys()
    widest = max(edges, key=lambda key: edges[key])
    for key, moved in edges.items():
        expected = max(1.0, thick[widest] * moved / edges[widest])
        assert abs(thick[key] - expected) < 0.3, key


def test_a_ribbon_tells_its_numbers_to_pointer_and_keyboard(show: ShowProxy) -> None:
    screen, _ = show()
    ribbons = screen.page.locator(".ribbon")
    assert "all: " in (screen.page.locator("#flows-readout").text_content() or "")
    ribbons.nth(0).focus()
    screen.wait_text("#flows-readout", "web → app: ")
    screen.page.keyboard.press("ArrowDown")
    said = screen.page.locator("#flows-readout").text_content() or ""
    assert said == screen.page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert not said.startswith("web → app: ")


def test_ends_are_grouped_and_each_has_a_sentence(show: ShowProxy) -> None:
    screen, _ = show()
    rows = screen.page.locator("#ends-errors tr:not(.group)")
    first = rows.first.locator("th, td").all_text_contents()
    assert first[0].startswith("client_resetThe client reset its connection")
    assert first[1:] == ["client", "", "0.4/s", "1,803"]
    normal = screen.page.locator("#ends-normal tr:not(.group) .by").all_text_contents()
    assert normal == ["client", "upstream", "proxy"]
    unknown = screen.page.evaluate(
        "(whys) => import('./words.js').then((m) => whys.filter((why) => "
        "m.whySentence(why) === m.whySentence('no such why')))",
        sorted(WHYS),
    )
    assert unknown == []
    normal = screen.page.evaluate("import('./words.js').then((m) => [...m.NORMAL_ENDS])")
    assert set(normal) == NORMAL_ENDS


def test_what_happens_appears_while_one_watches(show: ShowProxy) -> None:
    screen, api = show()
    assert "upstream down" in (screen.page.locator("#events").text_content() or "")
    screen.wait(lambda: api.streams == 1, "the stream")
    api.tell("event", {"time": "2030-01-01T00:00:00.000Z", "level": "info", "event": "upstream up",
                       "pool": "postgres", "upstream": "10.0.1.2:5432"})  # fmt: skip
    screen.wait_text("#events li", "upstream up pool postgres, upstream 10.0.1.2:5432")
    api.tell("record", record(why="upstream_reset"))
    screen.wait_text("#records li", "upstream_reset by upstream 192.0.2.7:44430 on web")
    api.tell("lost", {"records": 12})
    screen.wait_text("#records li", "12 more records came than could be told")
    api.tell("lost", {"events": 3})
    screen.wait_text("#events li", "3 more events came than could be told")


def test_a_click_on_a_reason_shows_such_ends_as_they_come(show: ShowProxy) -> None:
    screen, api = show()
    screen.button("connect_refused").click()
    screen.wait_text("#records-title", "Sessions that ended")
    wanted = "GET /api/v1/stream?records=all&events=on&why=connect_refused"
    screen.wait(lambda: wanted in api.asked, "a stream of such records")
    screen.wait(lambda: api.streams == 1, "one stream in place of the other")
    api.tell("record", record(session="1", why="connect_refused", closed_by="client"))
    api.tell("record", record(session="2", why="connect_refused", closed_by="proxy"))
    screen.wait_text("#records li", "connect_refused by proxy")
    assert screen.page.locator("#records li").count() == 1
    screen.button("all errors").click()
    screen.wait_text("#records-title", "Last errors")
    assert screen.button("connect_refused").get_attribute("aria-pressed") == "false"


def test_what_clients_say_is_text_and_nothing_else(show: ShowProxy) -> None:
    proxy = usual()
    markup = "<img src=x onerror=alert(1)>"
    proxy.sessions[0] |= {"client": markup, "sni": markup, "age_seconds": 1e9}
    proxy.events.append({"time": "2030-01-01T00:00:00.000Z", "level": "info", "event": markup})
    screen, api = show(proxy)
    screen.wait(lambda: bool(screen.sessions()), "the sessions")
    assert screen.sessions()[0]["client"] == markup
    screen.wait(lambda: api.streams == 1, "the stream")
    api.tell("record", record(client=markup, tls_error=markup))
    screen.wait_text("#records li", markup)
    screen.wait_text("#events li", markup)
    assert screen.page.locator("img").count() == 1  # the page's own
