"""The token: from a link or a form, kept for the tab, sent with each request, needed for orders."""

from __future__ import annotations

from collections.abc import Callable

from fake_api import fake_api
from scenarios import usual
from screen import Screen, ShowProxy

MakeScreen = Callable[..., Screen]


def orders_shown(screen: Screen) -> bool:
    return screen.page.locator("#tree .col-order button").first.is_visible()


def test_a_link_carries_the_token_and_the_address_loses_it(screens: MakeScreen) -> None:
    with fake_api(usual()) as api:
        api.write_token = "s3cret"
        screen = screens(api.url)
        sent: list[str | None] = []
        screen.page.on("request", lambda request: sent.append(request.headers.get("authorization")))
        screen.open("#token=s3cret")
        screen.wait_text("#lock-word", "writable")
        assert screen.page.url == api.url
        assert "Bearer s3cret" in sent
        assert orders_shown(screen)
        screen.page.reload()
        screen.wait_text("#lock-word", "writable")
        assert screen.page.evaluate("localStorage.length") == 0
        assert screen.page.evaluate("document.cookie") == ""
        screen.close()


def test_without_the_write_token_there_are_no_buttons(screens: MakeScreen) -> None:
    with fake_api(usual()) as api:
        api.write_token = "s3cret"
        screen = screens(api.url)
        screen.open()
        screen.wait_text("#lock-word", "read-only")
        assert not orders_shown(screen)
        assert not screen.page.locator("#sessions-reset").is_visible()
        assert not screen.page.locator("#tree .col-weight button").first.is_visible()
        assert screen.page.locator("#tree .upstream .col-weight span").first.is_visible()
        assert not screen.page.locator("#reload").is_visible()
        assert not screen.page.locator("#log-level").is_visible()
        assert screen.page.get_by_text("log level info").is_visible()
        screen.button("read-only").click()
        screen.dialog.get_by_label("Token").fill("s3cret")
        screen.confirm("Unlock")
        screen.wait_text("#lock-word", "writable")
        assert orders_shown(screen)
        screen.button("writable").click()
        screen.confirm("Lock")
        screen.wait_text("#lock-word", "read-only")
        assert screen.page.evaluate("sessionStorage.length") == 0
        screen.close()


def test_a_proxy_that_shows_itself_to_nobody_asks_for_the_token(screens: MakeScreen) -> None:
    with fake_api(usual()) as api:
        api.read_token, api.write_token = "look", "act"
        screen = screens(api.url)
        screen.page.goto(api.url)
        screen.dialog.wait_for()
        screen.dialog.get_by_label("Token").fill("guess")
        screen.dialog.get_by_role("button", name="Open").click()
        screen.wait(lambda: "not accepted" in screen.notice(), "what is wrong")
        screen.wait_connection("no access")
        screen.dialog.get_by_label("Token").fill("look")
        screen.dialog.get_by_role("button", name="Open").click()
        screen.wait_connection("live")
        screen.wait_text("#lock-word", "read-only")
        assert screen.row("10.0.0.1:9000")["state"] == "up"
        screen.wait(lambda: api.streams == 1, "the stream")
        screen.close(forgive="401")


def test_whoever_cancels_is_not_asked_again_and_again(screens: MakeScreen) -> None:
    with fake_api(usual()) as api:
        api.read_token, api.write_token = "look", "act"
        screen = screens(api.url)
        screen.page.goto(api.url)
        screen.button("Cancel").click()
        seen = len(api.asked)
        screen.wait(lambda: len(api.asked) > seen + 1, "another try")
        assert not screen.dialog.is_visible()
        screen.button("read-only").click()
        screen.dialog.get_by_label("Token").fill("look")
        screen.confirm("Unlock")
        screen.wait_connection("live")
        screen.close(forgive="401")


def test_an_order_with_a_token_that_is_no_more_good_says_so(show: ShowProxy) -> None:
    screen, api = show()
    screen.button("drain upstream 10.0.0.1:9000").click()
    api.write_token = "another one since"
    screen.dialog.get_by_role("button", name="Drain").click()
    screen.wait_text("#ask-error", "the write token is needed")
    assert api.orders == []
    screen.button("Cancel").click()
    screen.wait_text("#lock-word", "read-only")
    assert not orders_shown(screen)
    screen.close(forgive="401")
