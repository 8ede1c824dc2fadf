"""When the proxy does not answer, is paused, or nobody looks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fake_api import FakeApi, fake_api
from scenarios import record, usual
from screen import Screen, ShowProxy


def rounds(api: FakeApi) -> int:
    return api.asked.count("GET /api/v1/traffic")


def test_it_says_that_nobody_answers_and_comes_back_by_itself(show: ShowProxy) -> None:
    screen, api = show()
    screen.wait(lambda: api.streams == 1, "the stream")
    before = screen.row("10.0.0.1:9000")
    api.stop()
    screen.wait_connection("reconnecting")
    screen.wait_text("#lost", f"No answer from {screen.place}")
    screen.wait_text("#lost", "What stands here is what it said last.")
    screen.wait_text("#lost-wait", "trying again in")
    assert screen.page.title() == "reconnecting · spliceproxy"
    assert screen.row("10.0.0.1:9000") == before
    api.start()
    screen.wait_connection("live")
    assert not screen.page.locator("#lost").is_visible()
    screen.wait(lambda: api.streams == 1, "the stream again")
    api.tell("record", record(client="198.51.100.9:1"))
    screen.wait_text("#records li", "198.51.100.9:1")
    screen.close(forgive="Failed to load")


def test_events_of_the_time_away_are_told_once(show: ShowProxy) -> None:
    screen, api = show()
    lines = screen.page.locator("#events li")
    screen.wait(lambda: lines.count() == len(api.proxy.events), "the events")
    api.stop()
    screen.wait_connection("reconnecting")
    api.proxy.events.append(
        {"time": "2030-01-01T00:00:00.000Z", "level": "warning", "event": "worker died"}
    )
    api.start()
    screen.wait_text("#events li", "worker died")
    assert lines.count() == len(api.proxy.events)
    told = lines.count()
    screen.wait(lambda: api.streams == 1, "the stream")
    api.tell("event", api.proxy.events[-1])  # as when it happened between the two answers
    api.tell("event", {**api.proxy.events[-1], "event": "worker started"})
    screen.wait_text("#events li", "worker started")
    assert lines.count() == told + 1
    screen.close(forgive="Failed to load")


def test_a_proxy_that_started_anew_is_asked_for_its_history(show: ShowProxy) -> None:
    screen, api = show()
    assert api.asked.count("GET /api/v1/history") == 1
    begin = rounds(api)
    screen.wait(lambda: rounds(api) > begin + 1, "two rounds")
    assert api.asked.count("GET /api/v1/history") == 1
    api.proxy.pid += 1
    screen.wait(lambda: api.asked.count("GET /api/v1/history") == 2, "the history")


def test_another_version_asks_for_its_own_page(show: ShowProxy) -> None:
    screen, api = show()
    api.proxy.version = "0.2.0"
    screen.wait(lambda: screen.notice().startswith("spliceproxy 0.2.0 runs now."), "the notice")


def test_a_paused_page_asks_nothing_and_stands_still(show: ShowProxy) -> None:
    screen, api = show()
    screen.wait(lambda: api.streams == 1, "the stream")
    screen.stand_still()
    screen.page.clock.install()
    shown, asked = screen.rows(), len(api.asked)
    api.tell("record", record(client="198.51.100.9:1"))
    screen.page.clock.run_for(60_000)
    assert len(api.asked) == asked
    assert screen.rows() == shown
    assert screen.page.locator("#records li").count() == 0
    screen.button("go on").click()
    screen.page.clock.run_for(1000)
    screen.wait_connection("live")
    screen.wait_text("#records li", "198.51.100.9:1")


@pytest.fixture
def clocked(screens: Callable[..., Screen]) -> Callable[[FakeApi], Screen]:
    """Opens a page whose timers the test moves on."""

    def make(api: FakeApi) -> Screen:
        screen = screens(api.url)
        screen.page.clock.install()
        screen.page.goto(api.url)
        screen.page.clock.run_for(100)
        screen.wait_connection("live")
        return screen

    return make


def test_a_hidden_page_asks_less_often(clocked: Callable[[FakeApi], Screen]) -> None:
    with fake_api(usual()) as api:
        screen = clocked(api)

        def look(hidden: bool) -> None:
            screen.page.evaluate(
                """(hidden) => {
                  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
                  document.dispatchEvent(new Event("visibilitychange"));
                }""",
                hidden,
            )

        def pass_seconds(seconds: int) -> int:
            """Move the timers on, and let what they begin be carried out; the rounds since then."""
            begin = rounds(api)
            for _ in range(seconds):
                screen.page.clock.run_for(1000)
                screen.page.evaluate("fetch('api/v1/history')")  # what was asked before was heard
            return rounds(api) - begin

        pass_seconds(2)
        look(hidden=True)
        pass_seconds(2)  # a last round, which is under way
        assert pass_seconds(20) == 0
        look(hidden=False)
        assert 2 <= pass_seconds(6) <= 4
        screen.close()


def test_while_too_many_ask_for_sessions_the_rest_is_shown(show: ShowProxy) -> None:
    screen, api = show()
    api.refusals["sessions"] = (409, "too many ask for sessions at the same time; try again")
    screen.wait_text("#sessions-complaint", "too many ask for sessions at the same time; try again")
    api.proxy.upstream("10.0.0.1:9000").states.add("down")
    screen.wait(lambda: screen.row("10.0.0.1:9000")["state"] == "down", "what happens meanwhile")
    assert screen.page.locator("#connection-word").text_content() == "live"
    assert screen.page.locator("#sessions-client").get_attribute("aria-invalid") is None
    del api.refusals["sessions"]
    screen.page.locator("#sessions-complaint").wait_for(state="hidden")
    screen.close(forgive="409 (Conflict)")


def test_sessions_that_are_not_told_in_time_cost_the_page_nothing_else(show: ShowProxy) -> None:
    screen, api = show()
    screen.page.route("**/api/v1/sessions?*", lambda route: route.abort("timedout"))
    screen.wait_text("#sessions-complaint", "no answer about sessions in time")
    api.proxy.upstream("10.0.0.1:9000").states.add("down")
    screen.wait(lambda: screen.row("10.0.0.1:9000")["state"] == "down", "what happens meanwhile")
    assert screen.page.locator("#connection-word").text_content() == "live"
    screen.close(forgive="Failed to load")


def test_the_rest_is_asked_while_the_sessions_are_waited_for(show: ShowProxy) -> None:
    screen, api = show()
    api.hold("sessions")
    seen = len(api.asked)

    def asked() -> list[str]:
        """What was asked from the question on that waits."""
        found = api.asked[seen:]
        first = [number for number, one in enumerate(found) if "/sessions?" in one][:1]
        return found[first[0] :] if first else []

    rest = {"GET /api/v1/traffic", "GET /api/v1/status"}
    screen.wait(lambda: rest <= set(asked()), "the rest")
    api.let_go("sessions")
    screen.close()


def test_where_the_rest_fails_first_the_sessions_are_no_fault_of_the_page(show: ShowProxy) -> None:
    screen, api = show()
    api.hold("sessions")
    api.refusals["traffic"] = (503, "not now")
    screen.wait_connection("reconnecting")
    del api.refusals["traffic"]
    api.refusals["sessions"] = (503, "not now")
    api.let_go("sessions")  # a refusal that nobody waits for any more
    screen.wait_text("#lost", "not now")
    del api.refusals["sessions"]
    screen.wait_connection("live")
    screen.close(forgive="503 (Service Unavailable)")


def test_a_slow_proxy_is_never_asked_twice_at_a_time(show: ShowProxy) -> None:
    screen, api = show()
    api.delay = 0.9
    begin = rounds(api)
    screen.wait(lambda: rounds(api) > begin, "a slow round")
    api.most_under_way = 0
    for _ in range(3):
        screen.page.locator("#sessions th.col-idle button").click()  # wants a round at once
    screen.wait(lambda: rounds(api) > begin + 1, "the next one", timeout=20)
    assert api.most_under_way == 2  # the sessions are asked for beside the rest
    api.delay = 0.0
