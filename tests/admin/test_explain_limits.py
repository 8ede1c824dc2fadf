"""What `explain --live` says of a client that is over a limit is what becomes of it."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness.door import request
from harness.fds import same_fds
from harness.proxy import Proxy, running_proxy
from harness.upstreams import echo
from harness.wait import wait_until

YAML = """\
admin: {{bind: "unix:{door}"}}
listeners: {{web: {{bind: "127.0.0.1:0", pool: app, limits: {limits}}}}}
pools: {{app: {{upstreams: ["{upstream}"]}}}}
"""


def refused(door: Path, source: str) -> dict[str, Any] | None:
    code, said = request(door, "GET", f"/api/v1/explain?listener=web&source={source}")
    assert code == 200, said
    assert said["limits"]
    found: dict[str, Any] | None = said["refused"]
    assert (found is None) == bool(said["pools"])
    return found


def come_until_refused(proxy: Proxy, ip: str, stack: ExitStack) -> None:
    """Clients with this address, that stay, until one is not served."""
    for _ in range(BURST + 2):
        try:
            client = socket.create_connection(proxy.address("web"), 10, source_address=(ip, 0))
            stack.enter_context(client)
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        except ConnectionError:
            return
    raise AssertionError("all of them were served")


BURST = 100
RATE = f"{{per_second: 1, burst: {BURST}}}"
CASES = {
    "client_limit": ("{per_client: {max_sessions: 2}}", None),
    "client_rate_limit": (f"{{per_client: {{rate: {RATE}}}}}", None),
    "rate_limit": (f"{{rate: {RATE}}}", "rate_limit"),
}


@pytest.mark.parametrize("why", CASES)
def test_a_source_over_a_limit_is_refused_and_others_where_it_is_everybodys(
    why: str, tmp_path: Path
) -> None:
    limits, others = CASES[why]
    door = tmp_path / "admin.sock"
    with echo() as up, ExitStack() as stack:
        text = YAML.format(door=door, limits=limits, upstream=up.address)
        proxy = stack.enter_context(running_proxy(text, workers=2))

        def said(source: str) -> str | None:
            found = refused(door, source)
            assert found is None or found["how"] == "reset"
            return None if found is None else str(found["why"])

        assert said("127.0.0.2") is None

        def told() -> bool:
            # A second later one more may come, where it is a rate.
            come_until_refused(proxy, "127.0.0.2", stack)
            return (said("127.0.0.2"), said("127.0.0.3")) == (why, others)

        wait_until(told, 20, "what explain says")
        assert proxy.wait_records(1)[-1]["why"] == why


def test_to_ask_costs_no_fds(tmp_path: Path) -> None:
    door = tmp_path / "admin.sock"
    with echo() as up, ExitStack() as stack:
        text = YAML.format(door=door, limits=CASES["client_limit"][0], upstream=up.address)
        proxy = stack.enter_context(running_proxy(text))
        come_until_refused(proxy, "127.0.0.2", stack)
        with same_fds(proxy.pid):
            for _ in range(20):
                assert refused(door, "127.0.0.2")
