"""A Chromium for the tests of one file, and pages whose console has to stay clean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from fake_api import FakeApi, fake_api
from fake_proxy import FakeProxy
from playwright.sync_api import Browser, sync_playwright
from scenarios import usual
from screen import Screen, ShowProxy, new_screen

CHROMIUM = "/usr/bin/chromium"
SWITCHES = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Closed with the file's last test: Playwright's event loop is in nobody's way afterwards."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture
def screens(chromium: Browser) -> Iterator[Callable[..., Screen]]:
    """Makes pages. Afterwards nothing may have been complained of, nor asked for elsewhere."""
    made = []

    def make(url: str, **context: object) -> Screen:
        made.append(new_screen(chromium, url, **context))
        return made[-1]

    yield make
    for screen in made:
        screen.close()
    assert [screen.complaints for screen in made] == [[] for _ in made]
    assert [screen.elsewhere for screen in made] == [[] for _ in made]


@pytest.fixture
def show(screens: Callable[..., Screen]) -> Iterator[ShowProxy]:
    """Opens the page of a proxy, by default the usual one: the screen, and the fake behind it."""
    with ExitStack() as stack:

        def make(proxy: FakeProxy | None = None, **context: object) -> tuple[Screen, FakeApi]:
            api = stack.enter_context(fake_api(proxy or usual()))
            screen = screens(api.url, **context)
            stack.callback(screen.close)  # before the API is gone
            screen.open()
            return screen, api

        yield make
