"""The page for everybody: names and contrast by axe-core, keyboard, widths, themes, motion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from scenarios import all_down, empty, many_upstreams, record, usual
from screen import Screen, ShowProxy

WIDTHS = (360, 440, 470, 520, 620, 680, 768, 820, 900, 1024, 1180, 1400, 2000, 2560)


def violations(screen: Screen) -> list[str]:
    """What axe-core, with all its rules but experimental ones, finds wrong."""
    found: dict[str, Any] = Axe().run(screen.page).response
    return [
        f"{one['id']}: {one['help']}: {node['html'][:200]} {node['failureSummary']}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("proxy", [usual, all_down, empty])
def test_axe_finds_nothing_wrong(show: ShowProxy, scheme: str, proxy: Callable[..., Any]) -> None:
    screen, api = show(proxy(), color_scheme=scheme, reduced_motion="reduce")
    screen.wait(lambda: api.streams == 1, "the stream")
    api.tell("record", record())
    screen.wait_text("#records li", "upstream_reset")
    screen.stand_still()
    assert violations(screen) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong_with_dialogs_notices_and_a_lost_proxy(
    show: ShowProxy, scheme: str
) -> None:
    screen, api = show(color_scheme=scheme, reduced_motion="reduce")
    screen.button("drain upstream 10.0.0.1:9000").click()
    screen.dialog.wait_for()
    assert violations(screen) == []
    screen.confirm("Drain")
    screen.wait(lambda: "is drained" in screen.notice(), "what came of it")
    screen.button("client_reset").click()  # with the pointer on it, its hint is shown
    assert screen.page.locator("#hint").is_visible()
    assert violations(screen) == []
    api.stop()
    screen.wait_connection("reconnecting")
    assert violations(screen) == []
    screen.close(forgive="Failed to load")


@pytest.mark.parametrize("proxy", [usual, many_upstreams])
def test_it_fits_every_width(show: ShowProxy, proxy: Callable[..., Any]) -> None:
    screen, _ = show(proxy())
    for width in WIDTHS:
        screen.page.set_viewport_size({"width": width, "height": 800})
        sizes = screen.page.evaluate(
            """() => {
              const all = (selector) => [...document.querySelectorAll(selector)];
              const wide = all(".scroller").filter((one) => one.scrollWidth > one.clientWidth);
              const names = all("#tree .upstream .col-name").map((one) => one.clientWidth);
              return {
                page: document.documentElement.scrollWidth,
                tables: wide.map((one) => one.id),
                names: Math.min(...names),
                cut: all("td.number").filter((one) => one.scrollWidth > one.clientWidth)
                  .map((one) => one.textContent),
              };
            }"""
        )
        assert sizes["page"] <= width, width
        assert sizes["tables"] == [], width
        assert sizes["names"] >= 75, width
        assert sizes["cut"] == [], width


def test_the_theme_follows_the_system_until_somebody_chooses(show: ShowProxy) -> None:
    screen, _ = show(color_scheme="dark")

    def ground() -> str:
        return screen.page.evaluate("getComputedStyle(document.body).backgroundColor")

    dark = ground()
    screen.page.emulate_media(color_scheme="light")
    light = ground()
    assert light != dark
    button = screen.page.locator("#theme")
    button.click()
    button.click()
    assert screen.page.locator("#theme-word").text_content() == "dark"
    assert ground() == dark
    screen.page.reload()
    assert ground() == dark
    screen.wait_connection("live")
    button.click()
    assert screen.page.locator("#theme-word").text_content() == "auto"
    assert ground() == light


def test_every_control_shows_that_it_has_the_focus(show: ShowProxy) -> None:
    screen, _ = show()
    seen = set()
    for _ in range(60):
        screen.page.keyboard.press("Tab")
        focused = screen.page.evaluate(
            """() => {
              const node = document.activeElement;
              const style = getComputedStyle(node);
              const shown = style.outlineStyle !== "none" || style.stroke !== "none";
              return [node.id || node.getAttribute("aria-label") || node.textContent, shown];
            }"""
        )
        assert focused[1], focused[0]
        seen.add(focused[0])
    assert {"pause", "lock", "theme", "tree-problems", "tree-filter", "sessions-client"} <= seen


def test_the_first_tab_leads_past_the_head(show: ShowProxy) -> None:
    screen, _ = show()
    screen.page.keyboard.press("Tab")
    assert screen.page.evaluate("document.activeElement.textContent") == (
        "Skip to listeners and pools"
    )
    screen.page.keyboard.press("Enter")
    assert screen.page.evaluate("document.activeElement.id") == "tree-section"


def test_a_slash_leads_to_the_filter_but_is_a_slash_where_one_types(show: ShowProxy) -> None:
    screen, _ = show()
    screen.page.keyboard.press("/")
    assert screen.page.evaluate("document.activeElement.id") == "tree-filter"
    assert screen.page.locator("#tree-filter").input_value() == ""
    screen.page.locator("#sessions-upstream").focus()
    screen.page.keyboard.type("unix:/run/app")
    assert screen.page.locator("#sessions-upstream").input_value() == "unix:/run/app"


def test_hints_come_with_the_focus_and_go_with_escape(show: ShowProxy) -> None:
    screen, _ = show()
    hint = screen.page.locator("#hint")
    screen.button("idle_timeout").focus()
    assert (hint.text_content() or "").startswith("Neither side said anything for timeouts.idle.")
    screen.page.keyboard.press("Escape")
    assert not hint.is_visible()


def test_nothing_moves_for_those_who_want_less_motion(show: ShowProxy) -> None:
    moving = (
        "document.getAnimations().length + "
        "[...document.querySelectorAll('*')].filter((one) => {"
        "  const style = getComputedStyle(one);"
        "  return style.animationName !== 'none' || parseFloat(style.transitionDuration) > 0;"
        "}).length"
    )
    screen, _ = show(reduced_motion="reduce")
    assert screen.page.evaluate(moving) == 0
    other, _ = show(reduced_motion="no-preference")
    assert other.page.evaluate(moving) > 0
