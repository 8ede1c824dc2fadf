"""Pools of 500 upstreams stay usable: the work of an update is bounded by what is in sight."""

from __future__ import annotations

from fake_api import FakeApi
from scenarios import many_upstreams
from screen import Screen, ShowProxy

MOST_NODES = 2500
"""Elements of the whole page; each row has about thirty."""
MOST_CHANGES = 1500
"""Changes of one round; 500 rows with ten numbers each would make 5000."""


def opened(show: ShowProxy, number: int = 500) -> tuple[Screen, FakeApi]:
    """The page of a large pool, with the pool open."""
    screen, api = show(many_upstreams(number))
    screen.button("upstreams of large").click()
    screen.wait(lambda: "10.0.0.7:9000" in screen.names(), "its upstreams")
    return screen, api


def elements(screen: Screen) -> int:
    return screen.page.evaluate("document.querySelectorAll('*').length")


def test_a_large_pool_is_closed_until_somebody_opens_it(show: ShowProxy) -> None:
    screen, _ = show(many_upstreams())
    assert screen.names("pool") == ["large", "small"]
    assert screen.names() == ["10.9.0.1:80"]
    assert screen.row("large", "pool")["state"] == "497 of 500 up"
    caret = screen.button("upstreams of large")
    assert caret.get_attribute("aria-expanded") == "false"
    caret.click()
    screen.wait(lambda: caret.get_attribute("aria-expanded") == "true", "it to be open")
    assert screen.page.locator("#tree").get_attribute("aria-rowcount") == "508"


def test_rows_out_of_sight_do_not_exist(show: ShowProxy) -> None:
    screen, _ = opened(show)
    assert elements(screen) < MOST_NODES
    before = elements(screen)
    other, _ = opened(show, 2000)
    assert elements(other) < before + 100


def test_scrolling_shows_every_row_in_its_turn(show: ShowProxy) -> None:
    screen, _ = opened(show)
    seen: set[str] = set()
    for _ in range(60):
        seen |= set(screen.names())
        screen.page.locator("#tree-scroller").evaluate(
            """async (node) => {
              node.scrollTop += node.clientHeight;
              for (let frame = 0; frame < 3; frame += 1) await new Promise(requestAnimationFrame);
            }"""
        )
    assert len(seen) == 501


def test_an_update_changes_only_what_is_in_sight(show: ShowProxy) -> None:
    screen, api = opened(show)
    screen.page.evaluate(
        """() => {
          window.changes = 0;
          const count = (found) => { window.changes += found.length; };
          new MutationObserver(count).observe(document.body, {
            subtree: true, childList: true, attributes: true, characterData: true,
          });
        }"""
    )
    begin = api.proxy.round
    screen.wait(lambda: api.proxy.round >= begin + 3, "three rounds")
    changes = screen.page.evaluate("window.changes") / 3
    assert 20 < changes < MOST_CHANGES


def test_a_round_that_says_the_same_changes_next_to_nothing(show: ShowProxy) -> None:
    proxy = many_upstreams()
    proxy.calm = True
    for upstream in proxy.upstreams():
        upstream.busy = 0
    proxy.sessions = []
    screen, _ = show(proxy)
    screen.button("upstreams of large").click()
    screen.page.evaluate(
        """() => {
          window.changed = [];
          const table = document.querySelector("#tree tbody");
          new MutationObserver((found) => window.changed.push(...found.map((one) => one.type)))
            .observe(table, { subtree: true, childList: true, characterData: true });
        }"""
    )
    begin = proxy.round
    screen.wait(lambda: proxy.round >= begin + 3, "three rounds")
    assert screen.page.evaluate("window.changed") == []


def test_the_filter_answers_at_each_letter(show: ShowProxy) -> None:
    screen, _ = opened(show)
    screen.page.keyboard.press("/")
    for letter, expected in (("10.1.", 250), ("10.1.24", 11), ("10.1.249", 1)):
        screen.page.locator("#tree-filter").fill(letter)
        # Pool and upstreams; the pool `small` has none that matches, listeners neither.
        screen.wait_text("#tree-count", f"{expected + 1} rows")
    assert screen.names() == ["10.1.249.7:9000"]
    screen.page.keyboard.press("Escape")
    screen.wait(lambda: "10.0.0.7:9000" in screen.names(), "all of them again")


def test_only_problems_are_shown_when_asked_for(show: ShowProxy) -> None:
    screen, _ = show(many_upstreams())
    screen.page.get_by_label("only problems").check()
    screen.wait(
        lambda: screen.names() == ["10.0.3.7:9000", "10.0.7.7:9000", "10.0.11.7:9000"], "three"
    )
    assert [row["state"] for row in screen.rows() if row["kind"] == "upstream"] == [
        "down",
        "ejected",
        "draining",
    ]


def test_columns_sort_within_their_pool_and_hold_still_under_the_pointer(show: ShowProxy) -> None:
    screen, api = opened(show)
    head = screen.page.locator("#tree th", has_text="down")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"

    def busier(name: str, busy: int) -> None:
        """Have it be the busiest by far, however the rates swing, and the page know it."""
        api.proxy.upstream(name).busy = busy
        known = api.proxy.round
        screen.wait(lambda: api.proxy.round > known + 1, "two rounds")

    busier("10.1.40.7:9000", 100)
    screen.wait(lambda: screen.names()[0] == "10.1.40.7:9000", "the busiest first")
    screen.page.locator("#tree tr.upstream").first.hover()
    held = screen.names()
    busier("10.1.70.7:9000", 1000)
    assert screen.names() == held
    screen.page.mouse.move(5, 5)
    screen.wait(lambda: screen.names()[0] == "10.1.70.7:9000", "the new order")


def test_many_upstreams_are_grouped_in_who_talks_to_whom(show: ShowProxy) -> None:
    screen, api = show(many_upstreams())
    screen.stand_still()
    labels = screen.page.locator(".node-label").all_text_contents()
    assert "493 others" in labels
    assert len(labels) < 20
    numbers = api.answers["traffic"]["upstreams"]["large"]
    busiest = max(numbers, key=lambda one: sum(numbers[one]["rates"].values()))
    assert busiest in labels


def test_a_click_on_a_name_there_shows_it_in_the_table(show: ShowProxy) -> None:
    screen, _ = show(many_upstreams())
    screen.page.locator("#tree-filter").fill("small")
    label = screen.page.locator(".node.right .node-label").first
    name = label.text_content()
    label.click()
    screen.wait(lambda: name in screen.names(), "its row")
    marked = screen.page.locator("#tree .revealed .name")
    assert marked.text_content() == name
    assert screen.page.locator("#tree-filter").input_value() == ""
    screen.wait(lambda: marked.count() == 0, "the mark to go")


def test_a_row_that_goes_out_of_sight_leaves_the_focus_with_the_table(show: ShowProxy) -> None:
    screen, _ = opened(show)
    screen.button("drain upstream 10.0.1.7:9000").focus()
    screen.page.locator("#tree-scroller").evaluate("(node) => { node.scrollTop = 6000 }")
    screen.wait(lambda: "10.0.1.7:9000" not in screen.names(), "the row to be gone")
    assert screen.page.evaluate("document.activeElement.id") == "tree-scroller"
