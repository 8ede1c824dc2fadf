"""curl and wrk through the proxy, with nginx as origin."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import pytest
from harness.load import blocks
from harness.proxy import Proxy, running_proxy
from harness.serving import FAMILIES
from harness.wait import wait_until
from real_programs import bind_text, need, nginx, run

FILE_SIZE = 20_000_000
CONNECTIONS = 256


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, Path]]:
    """A listener of every family in front of nginx at every family, and nginx's files."""
    directory = tmp_path_factory.mktemp("origin")
    with (directory / "file").open("wb") as file:
        for block in blocks(FILE_SIZE, 1):
            file.write(block)
    with ExitStack() as stack:
        addresses = stack.enter_context(nginx(directory))
        lines = ["listeners:"]
        for near, far in product(FAMILIES, FAMILIES):
            bind = bind_text(near, directory, f"{near}_{far}")
            lines.append(f'  {near}_{far}: {{bind: "{bind}", pool: {far}}}')
        lines.append("pools:")
        lines += [f'  {far}: {{upstreams: "{text}"}}' for far, text in addresses.items()]
        proxy = stack.enter_context(running_proxy("\n".join(lines), workers=2))
        yield proxy, directory


def url(proxy: Proxy, listener: str, path: str) -> str:
    host = "[::1]" if listener.startswith("v6") else "127.0.0.1"
    return f"http://{host}:{proxy.port(listener)}{path}"


@pytest.mark.parametrize("far", FAMILIES)
@pytest.mark.parametrize("near", FAMILIES)
def test_curl_gets_a_file_whole(
    origin: tuple[Proxy, Path], near: str, far: str, tmp_path: Path
) -> None:
    proxy, files = origin
    listener = f"{near}_{far}"
    got = tmp_path / "got"
    curl = [need("curl"), "-sS", "--fail", "--max-time", 30, "-o", got]
    if near == "unix":
        run([*curl, "--unix-socket", str(proxy.address(listener)), "http://localhost/file"])
    else:
        run([*curl, url(proxy, listener, "/file")])
    with got.open("rb") as file, (files / "file").open("rb") as sent:
        assert (
            hashlib.file_digest(file, "sha256").digest()
            == hashlib.file_digest(sent, "sha256").digest()
        )


def test_curl_sends_many_requests_over_one_session(origin: tuple[Proxy, Path]) -> None:
    proxy, _files = origin
    before = _records(proxy, "v4_v4")
    answers = run([need("curl"), "-sS", "--fail", url(proxy, "v4_v4", "/fine?[1-50]")])
    assert answers == "fine\n" * 50
    wait_until(lambda: len(_records(proxy, "v4_v4")) == len(before) + 1, 5, "one more record")


def _records(proxy: Proxy, listener: str) -> list[dict[str, object]]:
    return [record for record in proxy.records() if record["listener"] == listener]


def wrk(proxy: Proxy, listener: str, *options: str) -> int:
    """wrk for two seconds with 256 connections; how many requests were answered."""
    command = [need("wrk"), "-c", CONNECTIONS, "-t", 2, "-d", "2s", *options]
    said = run([*command, url(proxy, listener, "/fine")])
    print(said)
    assert "Socket errors" not in said
    assert "Non-2xx" not in said
    found = re.search(r"(\d+) requests in", said)
    assert found
    return int(found[1])


@pytest.mark.parametrize("listener", ["v4_v4", "v4_unix", "v6_v6"])
def test_wrk_with_256_connections_and_no_error(origin: tuple[Proxy, Path], listener: str) -> None:
    proxy, files = origin
    log = files / "access.log"
    start = log.stat().st_size
    before = len(_records(proxy, listener))
    answered = wrk(proxy, listener)
    wait_until(
        lambda: len(_records(proxy, listener)) >= before + CONNECTIONS, 10, "a record for each"
    )
    with log.open("rb") as file:
        file.seek(start)
        served = file.read().count(b"GET /fine")
    # When its time is up, wrk leaves without the answers to its last requests.
    assert answered <= served <= answered + CONNECTIONS
    whys = Counter(str(record["why"]) for record in _records(proxy, listener)[before:])
    print(f"{answered} answered, {served} served, ends: {dict(whys)}")
    assert set(whys) <= {"done", "client_reset"}  # leaving with bytes unread is a reset


@pytest.mark.parametrize("listener", ["v4_v4", "v6_unix"])
def test_wrk_with_a_session_for_each_request_and_no_error(
    origin: tuple[Proxy, Path], listener: str
) -> None:
    proxy, _files = origin
    before = len(_records(proxy, listener))
    answered = wrk(proxy, listener, "-H", "Connection: close")
    wait_until(lambda: len(_records(proxy, listener)) >= before + answered, 10, "all records")
    # Connections that wrk opened and left at its end are sessions too.
    assert answered <= len(_records(proxy, listener)) - before <= answered + 2 * CONNECTIONS
