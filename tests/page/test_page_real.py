"""The page of a real proxy: real sessions, real numbers, orders that are obeyed."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness.door import request
from harness.proxy import Proxy, running_proxy
from harness.upstreams import Upstream, echo
from screen import Screen

YAML = """
admin: {{bind: ["unix:{door}", "127.0.0.1:0"]}}
listeners:
  web: {{bind: "127.0.0.1:0", pool: app}}
  other: {{bind: "127.0.0.1:0", pool: none}}
pools:
  app: {{balance: least_sessions, upstreams: ["{one}", "{other}"]}}
  none: {{upstreams: "127.0.0.1:1"}}
"""
SESSIONS = 6
SAID = b"x" * 4096


class House:
    """A running proxy, its upstreams, and its page."""

    def __init__(self, proxy: Proxy, door: Path, upstreams: list[Upstream]) -> None:
        self.proxy, self.door = proxy, door
        self.names = [one.address for one in upstreams]
        self.clients: list[socket.socket] = []

    def link(self) -> str:
        """What `spliceproxy dashboard` prints."""
        command = [sys.executable, "-m", "spliceproxy", "dashboard", "--admin", str(self.door)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def get(self, path: str) -> dict[str, Any]:
        code, answer = request(self.door, "GET", f"/api/v1/{path}")
        assert code == 200
        return answer

    def come(self, number: int) -> None:
        """So many clients, each of which says something and hears it again."""
        for _ in range(number):
            client = self.proxy.connect("web")
            self.clients.append(client)
            client.sendall(SAID)
            assert client.recv(len(SAID), socket.MSG_WAITALL) == SAID


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    door = tmp_path / "admin.sock"
    with ExitStack() as stack:
        upstreams = [stack.enter_context(echo()) for _ in range(2)]
        text = YAML.format(door=door, one=upstreams[0].address, other=upstreams[1].address)
        made = House(stack.enter_context(running_proxy(text)), door, upstreams)
        stack.callback(lambda: [client.close() for client in made.clients])
        made.come(SESSIONS)
        yield made


@pytest.fixture
def screen(house: House, screens: Callable[..., Screen]) -> Iterator[Screen]:
    """Opened by the link that the command prints, so orders can be given."""
    url, _, fragment = house.link().partition("#")
    screen = screens(url)
    screen.open(f"#{fragment}")
    screen.wait_text("#lock-word", "writable")
    yield screen
    screen.close()


def test_it_shows_the_sessions_and_bytes_that_were(house: House, screen: Screen) -> None:
    told: dict[str, Any] = {}
    screen.page.on(
        "response",
        lambda response: told.update({response.url.rsplit("/", 1)[1].split("?")[0]: response}),
    )
    screen.wait(lambda: {"traffic", "status", "sessions"} <= told.keys(), "a round")
    screen.stand_still()
    traffic = told["traffic"].json()
    assert screen.row("web", "listener")["sessions"] == str(SESSIONS)
    assert [screen.row(name)["sessions"] for name in house.names] == ["3", "3"]
    assert traffic["total"]["bytes_up"] == traffic["total"]["bytes_down"] == 6 * len(SAID)
    for name in house.names:
        numbers = traffic["upstreams"]["app"][name]
        row = screen.row(name)
        assert [row["up"], row["down"]] == screen.say(
            "rate", [numbers["rates"]["bytes_up"], numbers["rates"]["bytes_down"]]
        )
        assert [row["p50"]] == screen.say("milliseconds", [numbers["connect_ms"]["p50"]])
    peers = {f"127.0.0.1:{client.getsockname()[1]}" for client in house.clients}
    rows = screen.sessions()
    assert {row["client"] for row in rows} == peers
    assert {row["bytes"] for row in rows} == set(screen.say("bytes", [2 * len(SAID)]))


def test_a_drained_upstream_gets_no_more_and_is_drained_when_its_sessions_end(
    house: House, screen: Screen
) -> None:
    drained, other = house.names
    screen.button(f"drain upstream {drained}").click()
    assert f"It takes no new sessions; {other} takes them." in screen.dialog.inner_text()
    screen.confirm("Drain")
    screen.wait(lambda: screen.row(drained)["state"] == "draining", "its state")
    screen.wait_text("#events li", f"draining target pool/app/{drained}")
    house.come(4)
    screen.wait(lambda: screen.row(other)["sessions"] == "7", "the new ones at the other")
    assert screen.row(drained)["sessions"] == "3"
    [pool] = [one for one in house.get("status")["pools"] if one["name"] == "app"]
    assert [one["states"] for one in pool["upstreams"]] == [["draining"], ["up"]]
    for client in house.clients[:SESSIONS]:
        client.close()
    screen.wait(lambda: screen.row(drained)["state"] == "drained", "their end")
    screen.button(f"undrain upstream {drained}").click()
    screen.confirm("Undrain")
    screen.wait(lambda: screen.row(drained)["state"] == "up", "its state")
    # Ends are counted by reason, and records of errors would stand in the list.
    screen.wait_text("#ends-normal tr:not(.group)", "done")
    assert screen.page.locator("#ends-errors").is_hidden()


def test_a_weight_that_is_set_is_obeyed(house: House, screen: Screen) -> None:
    light, heavy = house.names
    screen.button(f"weight of {light}: 1, change").click()
    screen.dialog.get_by_label("Weight").fill("0")
    screen.confirm("Set weight")
    assert screen.notice() == f"pool/app/{light} has weight 0; the configuration says 1."
    screen.wait(lambda: screen.row(light)["weight"] == "0 (1)", "the weight")
    house.come(4)
    screen.wait(lambda: screen.row(heavy)["sessions"] == "7", "the new ones at the other")
    assert screen.row(light)["sessions"] == "3"


def test_a_session_that_is_reset_ends_in_a_reset(house: House, screen: Screen) -> None:
    victim = house.clients[2]
    name = f"127.0.0.1:{victim.getsockname()[1]}"
    screen.button(f"reset the session of {name}").click()
    screen.confirm("Reset")
    assert screen.notice() == "1 session was reset."
    with pytest.raises(ConnectionResetError):
        victim.recv(1)
    screen.wait(lambda: name not in {row["client"] for row in screen.sessions()}, "its row to go")
    [record] = house.proxy.wait_records(1)
    assert (record["why"], record["client"]) == ("operator", name)


def test_a_reload_puts_the_file_in_force_and_tells_its_mistakes(
    house: House, screen: Screen
) -> None:
    good = house.proxy.config.read_text()
    house.proxy.config.write_text(good.replace("balance:", "balence:"))
    screen.button("reload").click()
    screen.dialog.get_by_role("button", name="Reload", exact=True).click()
    screen.wait_text("#ask-error", "app.yaml:9:9: pools.app.balence: unknown key")
    assert screen.page.locator("#ask-error").inner_text().splitlines()[-1].strip() == "^"
    house.proxy.config.write_text(good.replace("least_sessions", "round_robin"))
    screen.dialog.get_by_role("button", name="Reload", exact=True).click()
    screen.wait_text("#ask-told", "~ pool app: balance least_sessions → round_robin")
    screen.dialog.get_by_role("button", name="Close").click()
    screen.wait(lambda: "round_robin" in screen.row("app", "pool")["about"], "the new policy")
    screen.close(forgive="409 (Conflict)")


def test_errors_appear_as_they_happen(house: House, screen: Screen) -> None:
    screen.page.locator("#records-nothing").wait_for()
    with pytest.raises(ConnectionResetError), house.proxy.connect("other") as client:
        client.recv(1)
    screen.wait_text("#records li", "connect_refused by proxy 127.0.0.1:")
    screen.wait_text("#ends-errors tr:not(.group)", "connect_refused")
    screen.wait_text("#tile-errors", "1 since the start")


def test_it_says_that_the_proxy_has_ended(house: House, screen: Screen) -> None:
    house.proxy.terminate()
    for client in house.clients:
        client.close()
    assert house.proxy.wait() == 0
    screen.wait_connection("reconnecting")
    screen.wait_text("#lost", "No answer from 127.0.0.1")
    screen.close(forgive="Failed to load")
