"""The page in a Chromium, as somebody in front of it sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from fake_api import FakeApi
from harness.wait import wait_until
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request

Row = dict[str, str]

_ROWS = """() => [...document.querySelectorAll("#tree tbody tr")]
  .filter((row) => !row.matches(".spacer, .group"))
  .map((row) => ({
    kind: row.className.split(" ")[0],
    name: row.querySelector(".name").textContent,
    about: row.querySelector(".about").textContent,
    state: row.querySelector(".state-word").textContent,
    shape: row.querySelector(".col-state use").getAttribute("href"),
    sessions: row.children[2].textContent,
    up: row.querySelector(".col-up").textContent,
    down: row.querySelector(".col-down").textContent,
    p50: row.querySelector(".col-p50").textContent,
    p99: row.querySelector(".col-p99").textContent,
    errors: row.querySelector(".col-errors").textContent,
    weight: row.querySelector(".col-weight button").textContent,
    order: row.querySelector(".col-order").textContent,
  }))"""

_SESSIONS = """() => [...document.querySelectorAll("#sessions tbody tr")]
  .map((row) => Object.fromEntries([...row.children]
    .map((cell) => [cell.className.match(/col-([a-z-]+)/)[1], cell.textContent])))"""


class Screen:
    """One page, and whatever went wrong on it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        """What the console and the page said of errors; a test that expects some takes them out."""
        self.elsewhere: list[str] = []
        """Requests that went to another place than `url`."""
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith("data:") and urlsplit(request.url).netloc != self.place:
            self.elsewhere.append(request.url)

    @property
    def place(self) -> str:
        return urlsplit(self.url).netloc

    def open(self, fragment: str = "") -> None:
        """Open the page, and wait for the first round."""
        self.page.goto(self.url + fragment)
        self.wait_connection("live")

    def close(self, forgive: str = "") -> None:
        """Close it before the test ends. Chromium itself complains of each request that fails; a
        test in which some do forgives complaints with this text."""
        self.page.context.close()
        if forgive:
            self.complaints = [one for one in self.complaints if forgive not in one]

    def wait_connection(self, word: str, timeout: float = 15.0) -> None:
        """Until the page says `live`, `reconnecting` and so on."""
        node = self.page.locator("#connection-word")
        wait_until(lambda: node.text_content() == word, timeout, f"the page to say {word}")

    def wait(self, found: Callable[[], Any], what: str, timeout: float = 10.0) -> Any:
        """The first true value of `found()`; what the browser tells meanwhile is heard."""

        def heard() -> Any:
            self.page.evaluate("0")
            return found()

        return wait_until(heard, timeout, what)

    def wait_text(self, selector: str, text: str) -> None:
        """Until the element has this text in it."""
        node = self.page.locator(selector).first
        self.wait(lambda: text in (node.text_content() or ""), f"{text!r} in {selector}")

    def rows(self) -> list[Row]:
        """The rows of the tree that exist, in their order, as text."""
        return self.page.evaluate(_ROWS)

    def row(self, name: str, kind: str = "upstream") -> Row:
        """The row of that name, as text."""
        return next(row for row in self.rows() if (row["kind"], row["name"]) == (kind, name))

    def names(self, kind: str = "upstream") -> list[str]:
        """The names of all rows of that kind."""
        return [row["name"] for row in self.rows() if row["kind"] == kind]

    def sessions(self) -> list[Row]:
        """The rows of the live sessions, as text by column."""
        return self.page.evaluate(_SESSIONS)

    def button(self, name: str) -> Locator:
        """The button with this accessible name."""
        return self.page.get_by_role("button", name=name, exact=True)

    @property
    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog")

    def notice(self) -> str:
        """What the line at the foot of the page says."""
        return self.page.locator("#notice-text").text_content() or ""

    def confirm(self, action: str) -> None:
        """Press the dialog's button, and wait until the dialog is gone."""
        self.dialog.get_by_role("button", name=action, exact=True).click()
        self.dialog.wait_for(state="hidden")

    def say(self, function: str, values: Sequence[Any]) -> list[str]:
        """Values as the page's own `format.js` writes them."""
        return self.page.evaluate(
            "([name, values]) => import('./format.js').then((m) => values.map((v) => m[name](v)))",
            [function, list(values)],
        )

    def stand_still(self) -> None:
        """Pause the page, once what it shows is what it was told last."""
        self.button("pause").click()
        self.wait_connection("paused")


def new_screen(browser: Browser, url: str, **context: Any) -> Screen:
    """A page of a browser context of its own, with the settings of `new_context`."""
    settings = {"viewport": {"width": 1400, "height": 900}, **context}
    made = browser.new_context(**settings)
    made.set_default_timeout(10_000)
    return Screen(made.new_page(), url)


ShowProxy = Callable[..., tuple[Screen, FakeApi]]
"""Opens the page of a proxy: the screen, and the fake behind it."""
