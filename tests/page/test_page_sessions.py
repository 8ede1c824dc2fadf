"""The table of live sessions: the proxy filters, sorts and pages; the page asks and shows."""

from __future__ import annotations

from collections import Counter

from scenarios import many_upstreams
from screen import Screen, ShowProxy


def clients(screen: Screen) -> list[str]:
    return [row["client"] for row in screen.sessions()]


def test_rows_say_what_the_api_says(show: ShowProxy) -> None:
    screen, api = show()
    screen.stand_still()
    answer = api.answers["sessions"]
    assert answer["matching"] == 130
    assert len(answer["sessions"]) == 50
    found = screen.sessions()
    for row, session in zip(found, answer["sessions"], strict=True):
        assert row["client"] == session["client"]
        assert row["where"] == f"{session['listener']} → {session['upstream']}"
        assert [row["rate-up"], row["rate-down"]] == screen.say(
            "rate", [session["rate_up"], session["rate_down"]]
        )
        assert [row["bytes"]] == screen.say("bytes", [session["bytes_up"] + session["bytes_down"]])
        assert [row["age"]] == screen.say("duration", [session["age_seconds"]])
    assert {row["phase"] for row in found} == {"open", "↓ moving", "↓ blocked"}
    assert screen.page.locator("#sessions-range").text_content() == "1–50 of 130"  # noqa: RUF001


def test_a_column_sorts_both_ways_and_says_so(show: ShowProxy) -> None:
    screen, api = show()
    head = screen.page.locator("#sessions th.col-idle")
    for direction in ("descending", "ascending"):
        head.get_by_role("button").click()
        screen.wait(lambda: head.get_attribute("aria-sort") == direction, direction)  # noqa: B023
        expected = sorted(
            api.proxy.sessions, key=lambda one: one["idle_seconds"], reverse=direction[0] == "d"
        )
        first = [one["client"] for one in expected[:3]]
        screen.wait(lambda: clients(screen)[:3] == first, "the rows in this order")  # noqa: B023
    assert screen.page.locator("#sessions [aria-sort]").count() == 1


def test_filters_ask_the_proxy_and_begin_at_the_first_page(show: ShowProxy) -> None:
    screen, api = show(many_upstreams(20))
    screen.button("next page").click()
    screen.wait_text("#sessions-range", "51–100 of 1,234")  # noqa: RUF001
    screen.page.locator("#sessions-listener").select_option("mail")
    screen.wait(lambda: all(row["where"].startswith("mail") for row in screen.sessions()), "mail")
    screen.wait_text("#sessions-range", "1–50 of ")  # noqa: RUF001
    screen.page.locator("#sessions-client").fill("192.0.3.0/24")
    screen.wait(lambda: all(one.startswith("192.0.3.") for one in clients(screen)), "the network")
    query = "listener=mail&sort=age&offset=0&limit=50"
    assert any(f"sessions?client=192.0.3.0%2F24&{query}" in one for one in api.asked)


def test_an_answer_to_an_older_filter_is_not_shown_under_a_newer_one(show: ShowProxy) -> None:
    screen, api = show()
    pool, reset = screen.page.locator("#sessions-pool"), screen.page.locator("#sessions-reset")
    of = Counter(one["pool"] for one in api.proxy.sessions)
    assert of["app"] > of["canary"] > 0
    pool.select_option("app")
    screen.wait_text("#sessions-reset", f"Reset {of['app']}…")
    api.hold("sessions")
    seen = len(api.asked)

    def waits(name: str) -> bool:
        """Whether a question for the sessions of this pool waits for its answer."""
        return any(f"/sessions?pool={name}&" in one for one in api.asked[seen:])

    screen.wait(lambda: waits("app"), "the question")
    pool.select_option("canary")
    assert reset.is_disabled()  # it speaks of the filter before
    api.let_go("sessions", others=False)
    screen.wait(lambda: waits("canary"), "the next question")
    assert reset.is_disabled()
    api.let_go("sessions")
    screen.wait_text("#sessions-reset", f"Reset {of['canary']}…")
    assert reset.is_enabled()
    assert len(screen.sessions()) == of["canary"]


def test_half_an_address_is_complained_of_beside_it(show: ShowProxy) -> None:
    screen, _ = show()
    screen.page.locator("#sessions-client").fill("192.0.")
    screen.page.locator("#sessions-complaint").wait_for()
    assert screen.page.locator("#sessions-client").get_attribute("aria-invalid") == "true"
    screen.page.locator("#sessions-client").fill("192.0.2.0/24")
    screen.page.locator("#sessions-complaint").wait_for(state="hidden")
    assert screen.page.locator("#connection-word").text_content() == "live"
    screen.close(forgive="400 (Bad Request)")


def test_pages_that_are_gone_lead_back(show: ShowProxy) -> None:
    screen, api = show()
    screen.button("next page").click()
    screen.button("next page").click()
    screen.wait_text("#sessions-range", "101–130 of 130")  # noqa: RUF001
    assert screen.button("next page").is_disabled()
    del api.proxy.sessions[60:]
    screen.wait_text("#sessions-range", "51–60 of 60")  # noqa: RUF001


def test_nothing_is_asked_of_the_workers_while_the_table_is_out_of_sight(show: ShowProxy) -> None:
    screen, api = show(viewport={"width": 700, "height": 400})
    screen.wait(lambda: screen.names(), "rows")
    screen.page.locator(".top").scroll_into_view_if_needed()

    def rounds() -> int:
        return api.asked.count("GET /api/v1/traffic")

    seen = rounds()
    screen.wait(lambda: rounds() > seen, "a round")
    api.asked.clear()
    screen.wait(lambda: rounds() > 1, "two more rounds")
    assert not any("/sessions" in one for one in api.asked)
    screen.page.locator("#sessions-section").scroll_into_view_if_needed()
    screen.wait(lambda: any("/sessions" in one for one in api.asked), "the sessions")


def test_who_has_a_session_is_said_where_it_is_no_more_the_newest(show: ShowProxy) -> None:
    screen, api = show()
    oldest = max(api.proxy.sessions, key=lambda one: one["age_seconds"])
    said = screen.page.locator("#sessions tbody tr").first.locator(".col-client")
    assert "of before an upgrade" not in str(said.get_attribute("data-hint"))
    oldest["process"] = 1234
    words = "with process 1234 of before an upgrade"
    screen.wait(lambda: words in str(said.get_attribute("data-hint")), words)


def test_who_did_not_answer_is_named_also_where_sessions_were_reset(show: ShowProxy) -> None:
    screen, api = show()
    api.proxy.silent["silent_processes"] = [1234]
    missing = "sessions are missing here."
    screen.wait_text(
        "#sessions-silent", f"Process 1234 of before an upgrade did not answer in time: {missing}"
    )
    api.proxy.silent["silent_workers"] = [1]
    screen.wait_text(
        "#sessions-silent",
        f"Worker 1 and process 1234 of before an upgrade did not answer in time: {missing}",
    )
    client = api.answers["sessions"]["sessions"][0]["client"]
    screen.button(f"reset the session of {client}").click()
    screen.confirm("Reset")
    assert screen.notice() == (
        "1 session was reset. Worker 1 and process 1234 of before an upgrade did not answer in "
        "time: sessions may live on."
    )
