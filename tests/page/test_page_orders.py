"""The page's buttons say what they will do, do it when told so, and show what came of it."""

from __future__ import annotations

import re

import pytest
from fake_api import FakeApi
from scenarios import all_down
from screen import Screen, ShowProxy


def open_drain(screen: Screen, name: str) -> str:
    """Press a drain button; what the dialog says."""
    screen.button(name).click()
    screen.dialog.wait_for()
    return screen.dialog.inner_text()


def test_a_drained_upstream_is_shown_drained(show: ShowProxy) -> None:
    screen, api = show()
    said = open_drain(screen, "drain upstream 10.0.0.1:9000")
    assert "Drain 10.0.0.1:9000 of app?" in said
    assert "It takes no new sessions; 10.0.0.2:9000 and 10.0.0.3:9000 take them." in said
    assert re.search(r"Its \d+ sessions go on until they end by themselves\.", said)
    screen.confirm("Drain")
    assert api.orders == [("drain", {"target": "pool/app/10.0.0.1:9000"})]
    screen.wait(lambda: screen.row("10.0.0.1:9000")["state"] == "draining", "its state")
    assert screen.row("10.0.0.1:9000")["order"] == "undrain"
    assert re.match(r"pool/app/10.0.0.1:9000 is drained: .* sessions left\.", screen.notice())
    api.proxy.upstream("10.0.0.1:9000").busy = 0
    screen.wait(lambda: screen.row("10.0.0.1:9000")["state"] == "drained", "its last session's end")


def test_undrain_has_it_take_sessions_again(show: ShowProxy) -> None:
    screen, api = show()
    api.proxy.upstream("10.0.0.1:9000").states.add("draining")
    screen.button("undrain upstream 10.0.0.1:9000").click()
    screen.confirm("Undrain")
    assert api.orders == [("undrain", {"target": "pool/app/10.0.0.1:9000"})]
    screen.wait(lambda: screen.row("10.0.0.1:9000")["state"] == "up", "its state")
    assert screen.notice() == "pool/app/10.0.0.1:9000 takes new sessions again."


def test_cancel_escape_and_a_click_beside_it_do_nothing(show: ShowProxy) -> None:
    screen, api = show()
    ways = [
        lambda: screen.button("Cancel").click(),
        lambda: screen.page.keyboard.press("Escape"),
        lambda: screen.page.mouse.click(5, 400),
    ]
    for leave in ways:
        open_drain(screen, "drain upstream 10.0.0.2:9000")
        leave()
        screen.dialog.wait_for(state="hidden")
    rounds = api.asked.count("GET /api/v1/status")
    screen.wait(lambda: api.asked.count("GET /api/v1/status") > rounds, "another round")
    assert api.orders == []
    assert screen.row("10.0.0.2:9000")["state"] == "up"


def test_its_sessions_can_be_ended_within_a_time(show: ShowProxy) -> None:
    screen, api = show()
    open_drain(screen, "drain pool app")
    seconds = screen.page.get_by_label("seconds in which the sessions end")
    assert seconds.is_disabled()
    screen.page.get_by_label("End them within").check()
    seconds.fill("90")
    screen.confirm("Drain")
    assert api.orders == [("drain", {"target": "pool/app", "over": 90})]
    screen.wait(lambda: screen.row("app", "pool")["order"] == "undrain", "the pool's button")


def test_the_last_upstream_and_a_listener_are_drained_with_a_warning(show: ShowProxy) -> None:
    screen, api = show()
    said = open_drain(screen, "drain upstream 10.0.0.20:9000")
    assert "no other upstream of canary can be used" in said
    assert "New clients of web that belong there wait in its queue or are refused." in said
    screen.button("Cancel").click()
    said = open_drain(screen, "drain listener web")
    assert "It gives up its addresses: new clients are refused" in said
    screen.confirm("Drain")
    assert api.orders == [("drain", {"target": "listener/web"})]
    screen.wait(lambda: screen.row("web", "listener")["state"] == "draining", "its state")


def test_the_keyboard_alone_can_drain(show: ShowProxy) -> None:
    screen, api = show()
    keyboard = screen.page.keyboard
    keyboard.press("/")
    keyboard.type("10.0.0.3")
    screen.wait(lambda: screen.names() == ["10.0.0.3:9000"], "the one row")
    for _ in range(40):
        keyboard.press("Tab")
        label = screen.page.evaluate("document.activeElement.getAttribute('aria-label')")
        if label == "drain upstream 10.0.0.3:9000":
            break
    keyboard.press("Enter")
    screen.dialog.wait_for()
    keyboard.press("Enter")  # Cancel has the focus: nothing happens by a second Enter
    screen.dialog.wait_for(state="hidden")
    assert api.orders == []
    label = screen.page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert label == "drain upstream 10.0.0.3:9000"  # where the focus was before
    keyboard.press("Enter")
    keyboard.press("Tab")
    keyboard.press("Enter")
    screen.wait(lambda: api.orders, "the order")
    assert api.orders == [("drain", {"target": "pool/app/10.0.0.3:9000"})]


def test_arrow_keys_go_from_row_to_row(show: ShowProxy) -> None:
    screen, _ = show()
    screen.button("drain upstream 10.0.0.1:9000").focus()
    screen.page.keyboard.press("ArrowDown")
    focused = "document.activeElement.getAttribute('aria-label')"
    assert screen.page.evaluate(focused) == "drain upstream 10.0.0.2:9000"
    screen.page.keyboard.press("ArrowUp")
    screen.page.keyboard.press("ArrowUp")
    assert screen.page.evaluate(focused) == "drain pool app"


def test_a_weight_is_set_and_set_back(show: ShowProxy) -> None:
    screen, api = show()
    target = "pool/app/10.0.0.1:9000"
    screen.button("weight of 10.0.0.1:9000: 1, change").click()
    screen.dialog.get_by_label("Weight").fill("3")
    screen.confirm("Set weight")
    screen.wait(lambda: screen.row("10.0.0.1:9000")["weight"] == "3 (1)", "the weight")
    assert screen.notice() == f"{target} has weight 3; the configuration says 1."
    screen.button("weight of 10.0.0.1:9000: 3, change").click()
    screen.button("Back to 1, as configured").click()
    screen.confirm("Set weight")
    screen.wait(lambda: screen.row("10.0.0.1:9000")["weight"] == "1", "the configured one")
    assert api.orders == [
        ("weight", {"target": target, "weight": 3}),
        ("weight", {"target": target, "weight": None}),
    ]


def test_what_the_proxy_refuses_is_told_in_the_dialog(show: ShowProxy) -> None:
    screen, api = show()
    screen.button("weight of 10.0.0.1:9000: 1, change").click()
    screen.dialog.get_by_label("Weight").fill("900")
    screen.dialog.get_by_role("button", name="Set weight").click()
    screen.wait_text("#ask-error", "weight: at most 500")
    assert screen.dialog.is_visible()
    assert api.orders == []
    screen.close(forgive="400 (Bad Request)")


def test_one_session_is_reset(show: ShowProxy) -> None:
    screen, api = show()
    oldest = api.answers["sessions"]["sessions"][0]
    screen.button(f"reset the session of {oldest['client']}").click()
    assert oldest["client"] in screen.dialog.inner_text()
    screen.confirm("Reset")
    assert api.orders == [("reset", {"sessions": [oldest["session"]]})]
    screen.wait(
        lambda: screen.sessions()[0]["client"] != oldest["client"], "the session to be gone"
    )
    assert screen.notice() == "1 session was reset."


def test_all_sessions_that_match_are_reset_and_never_all_without_a_filter(show: ShowProxy) -> None:
    screen, api = show()
    reset = screen.page.locator("#sessions-reset")
    assert reset.is_disabled()
    screen.page.locator("#sessions-pool").select_option("canary")
    screen.wait(lambda: reset.is_enabled(), "a filter in force")
    matching = sum(one["pool"] == "canary" for one in api.proxy.sessions)
    assert reset.text_content() == f"Reset {matching}…"
    reset.click()
    assert "All sessions with pool canary end now" in screen.dialog.inner_text()
    screen.confirm(f"Reset {matching}")
    assert api.orders == [("reset", {"where": {"pool": "canary"}})]
    screen.page.get_by_text("No session matches.").wait_for()
    assert reset.is_disabled()


def test_a_reload_shows_what_changed(show: ShowProxy) -> None:
    screen, api = show()
    api.proxy.changes = ["+ listener db", "~ pool app: upstream 10.0.0.1:9000: weight 1 → 3"]
    screen.button("reload").click()
    assert "read again from /etc/spliceproxy/app.yaml" in screen.dialog.inner_text()
    assert screen.page.evaluate("document.activeElement.textContent") == "Cancel"
    assert api.orders == []
    screen.dialog.get_by_role("button", name="Reload", exact=True).click()
    screen.wait(lambda: screen.dialog.get_by_role("listitem").count() == 2, "the answer")
    assert screen.dialog.get_by_role("listitem").all_text_contents() == api.proxy.changes
    assert screen.dialog.get_by_role("button").all_text_contents() == ["Close"]
    assert api.orders == [("reload", {})]
    screen.page.keyboard.press("Enter")
    screen.dialog.wait_for(state="hidden")
    api.proxy.changes = []
    screen.button("reload").click()
    assert screen.dialog.get_by_role("listitem").count() == 0
    screen.confirm("Reload")
    assert screen.notice() == "Reloaded: the configuration is the one that was in force."


def test_a_reload_that_fails_shows_the_line_that_is_wrong(show: ShowProxy) -> None:
    screen, api = show()
    lines = [
        "/etc/app.yaml:10:5: pools.app.balence: unknown key; did you mean balance?",
        "    balence: least_sessions",
        "    ^",
    ]
    api.proxy.mistake = "\n".join(lines)
    screen.button("reload").click()
    screen.dialog.get_by_role("button", name="Reload", exact=True).click()
    screen.wait_text("#ask-error", "did you mean balance?")
    error = screen.page.locator("#ask-error")
    assert error.inner_text().splitlines() == lines  # blanks and line ends as they are
    assert "monospace" in error.evaluate("(node) => getComputedStyle(node).fontFamily")
    api.proxy.mistake = ""
    screen.confirm("Reload")  # once the file is put right
    assert api.orders == [("reload", {})]
    screen.close(forgive="400 (Bad Request)")


def begin_reload(screen: Screen, api: FakeApi, changes: list[str], mistake: str) -> None:
    """Have a reload under way, whose dialog was left by Escape; it will end so."""
    api.proxy.changes, api.proxy.mistake = changes, mistake
    api.hold("reload")
    screen.button("reload").click()
    screen.dialog.get_by_role("button", name="Reload", exact=True).click()
    screen.wait(lambda: "POST /api/v1/reload" in api.asked, "the order")
    screen.page.keyboard.press("Escape")
    screen.dialog.wait_for(state="hidden")


WRONG = "/etc/app.yaml:10:5: pools.app.balence: unknown key\n    balence: least_sessions\n    ^"
ENDS = [
    ([], "", "Reloaded: the configuration is the one that was in force."),
    (["+ listener db"], "", "Reloaded: 1 change is in force since now."),
    ([], WRONG, WRONG),
]


@pytest.mark.parametrize(("changes", "mistake", "told"), ENDS)
def test_what_came_of_an_order_whose_dialog_was_left_is_told_below(
    changes: list[str], mistake: str, told: str, show: ShowProxy
) -> None:
    screen, api = show()
    begin_reload(screen, api, changes, mistake)
    api.let_go("reload")
    screen.wait(lambda: screen.notice() == told, "the notice")
    assert screen.page.locator("#notice-text").inner_text() == told  # with its blanks and line ends
    assert screen.page.locator("#notice.failed").is_visible() == bool(mistake)
    assert not screen.dialog.is_visible()
    screen.close(forgive="400 (Bad Request)")


@pytest.mark.parametrize(("changes", "mistake", "told"), ENDS)
def test_an_order_that_ends_late_leaves_the_next_dialog_alone(
    changes: list[str], mistake: str, told: str, show: ShowProxy
) -> None:
    screen, api = show()
    begin_reload(screen, api, changes, mistake)
    api.hold("reset")
    client = api.answers["sessions"]["sessions"][0]["client"]
    screen.button(f"reset the session of {client}").click()
    reset = screen.dialog.get_by_role("button", name="Reset", exact=True)
    reset.click()
    screen.wait(lambda: "POST /api/v1/reset" in api.asked, "the other order")
    said = screen.dialog.inner_text()
    api.let_go("reload")
    screen.wait(lambda: screen.notice() == told, "the notice")
    assert screen.dialog.is_visible()
    assert screen.dialog.inner_text() == said
    assert reset.is_disabled()
    api.let_go("reset")
    screen.dialog.wait_for(state="hidden")
    assert screen.notice() == "1 session was reset."
    screen.close(forgive="400 (Bad Request)")


def test_the_level_of_the_log_is_shown_and_set(show: ShowProxy) -> None:
    screen, api = show()
    screen.button("log level: info").click()
    screen.dialog.get_by_label("Level").select_option("debug")
    screen.confirm("Set level")
    assert api.orders == [("log-level", {"level": "debug"})]
    assert screen.notice() == "The log level is debug; it was info."
    screen.button("log level: debug").wait_for()


def test_a_pool_that_is_down_already_says_so_before_it_is_drained(show: ShowProxy) -> None:
    screen, _ = show(all_down())
    said = open_drain(screen, "drain upstream 10.0.1.1:5432")
    assert "no other upstream of postgres can be used" in said
    assert "It has no sessions now." in said
    assert screen.page.get_by_label("End them within").count() == 0


def test_a_drain_is_for_sessions_of_before_an_upgrade_too(show: ShowProxy) -> None:
    upgraded = all_down()
    upgraded.older = 2
    screen, api = show(upgraded)
    said = open_drain(screen, "drain upstream 10.0.1.1:5432")
    assert "It has no sessions now." in said
    assert "Sessions of before an upgrade are meant too." in said
    assert screen.page.get_by_label("End them within").count() == 1
    api.proxy.silent["silent_processes"] = [1234]
    screen.confirm("Drain")
    assert screen.notice() == (
        "pool/postgres/10.0.1.1:5432 is drained: it takes no new sessions. No session is left. "
        "Process 1234 of before an upgrade did not answer in time: it does not know of this."
    )
