"""What a page that is open all day asks of the browser: little, and nothing between two rounds."""

from __future__ import annotations

import time

from fake_api import FakeApi
from scenarios import empty
from screen import Screen, ShowProxy

_WATCH = """() => {
  window.shown = [];
  const table = (change) => {
    const node = change.target.nodeType === 1 ? change.target : change.target.parentElement;
    return node?.closest("#tree, #sessions")?.id;
  };
  new MutationObserver((changes) => {
    window.shown.push([...new Set(changes.map(table).filter(Boolean))].sort());
  }).observe(document.querySelector(".column.first"), {
    subtree: true, childList: true, attributes: true, characterData: true,
  });
}"""
_WATCH_MOVING = """() => {
  window.moving = 0;
  const look = () => {
    window.moving = Math.max(window.moving, document.getAnimations().length);
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}"""


def rounds(screen: Screen, api: FakeApi, number: int) -> None:
    """Wait until so many more rounds were asked for, and all but the last one are shown."""
    begin = api.proxy.round
    screen.wait(lambda: api.proxy.round >= begin + number, f"{number} rounds", timeout=30)


def test_a_round_is_painted_once(show: ShowProxy) -> None:
    screen, api = show()
    screen.page.evaluate(_WATCH)
    rounds(screen, api, 4)
    shown = screen.page.evaluate("window.shown.filter((tables) => tables.length)")
    assert len(shown) >= 3
    # The sessions move with each round, as the numbers of all upstreams do.
    assert shown == [["sessions", "tree"]] * len(shown)


def test_nothing_moves_by_itself(show: ShowProxy) -> None:
    proxy = empty()
    screen, api = show(proxy)
    screen.page.evaluate(_WATCH_MOVING)
    proxy.workers = 3  # bars that change: of workers, and of ends
    proxy.ends = [
        {"closed_by": "client", "how": "fin", "why": why, "error": False, "count": 1, "rate": 0.0}
        for why in ("done", "operator")
    ]
    rounds(screen, api, 2)
    proxy.ends[0]["count"] = 20
    rounds(screen, api, 3)
    assert screen.page.evaluate("window.moving") == 0


def test_a_title_stands_for_a_while(show: ShowProxy) -> None:
    screen, api = show()
    screen.page.clock.set_fixed_time(time.time())
    rounds(screen, api, 2)
    title = screen.page.title()
    assert title.endswith(" sessions · spliceproxy")
    told = int(title.split()[0])
    screen.wait(lambda: api.answers["status"]["sessions"] != told, "another number")
    rounds(screen, api, 2)
    assert screen.page.title() == title
    screen.page.clock.set_fixed_time(time.time() + 60)
    screen.wait(lambda: screen.page.title() != title, "another title")
    screen.page.clock.set_fixed_time(time.time() + 60)
    api.proxy.not_ready = ["no worker is ready"]
    screen.wait(lambda: screen.page.title().startswith("not ready · "), "what is wrong, at once")
