"""Redis through the proxy: small messages, pipelined messages, large values."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import pytest
from harness.proxy import Proxy, running_proxy
from harness.serving import FAMILIES
from real_programs import bind_text, free_port, need, program, run

REQUESTS = 10_000


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A listener of every family in front of one Redis at every family."""
    directory = tmp_path_factory.mktemp("redis")
    port = free_port()
    command = [need("redis-server"), "--port", port, "--bind", "127.0.0.1", "::1"]
    command += ["--unixsocket", directory / "redis.sock", "--save", "", "--dir", directory]
    upstreams = {
        "v4": f"127.0.0.1:{port}",
        "v6": f"[::1]:{port}",
        "unix": f"unix:{directory}/redis.sock",
    }
    with ExitStack() as stack:
        stack.enter_context(program(command, directory / "log", ("127.0.0.1", port)))
        lines = ["listeners:"]
        for near, far in product(FAMILIES, FAMILIES):
            bind = bind_text(near, directory, f"{near}_{far}")
            lines.append(f'  {near}_{far}: {{bind: "{bind}", pool: {far}}}')
        lines.append("pools:")
        lines += [f'  {far}: {{upstreams: "{text}"}}' for far, text in upstreams.items()]
        yield stack.enter_context(running_proxy("\n".join(lines)))


def where(proxy: Proxy, near: str, far: str) -> list[str]:
    """The options by which Redis's programs find the listener."""
    name = proxy.address(f"{near}_{far}")
    return ["-s", name] if isinstance(name, str) else ["-h", name[0], "-p", str(name[1])]


@pytest.mark.parametrize(("near", "far"), [("v4", "v4"), ("v6", "unix"), ("unix", "v6")])
@pytest.mark.parametrize("pipeline", [1, 16])
def test_redis_benchmark(redis: Proxy, near: str, far: str, pipeline: int) -> None:
    command = [need("redis-benchmark"), *where(redis, near, far), "-n", REQUESTS, "-c", 50]
    tests = "ping_inline,set,get,lpush,lrange_100"
    said = run([*command, "-P", pipeline, "-d", 512, "-t", tests, "--csv"])
    rows = [line.split(",") for line in said.splitlines() if line.startswith('"')][1:]
    print("\n".join(f"{row[0]}: {row[1]} a second" for row in rows))
    assert {row[0].strip('"').split()[0] for row in rows} >= {"PING_INLINE", "SET", "GET"}
    assert "rror" not in said


@pytest.mark.parametrize("far", FAMILIES)
@pytest.mark.parametrize("near", FAMILIES)
def test_a_large_value_comes_back_as_it_went(
    redis: Proxy, near: str, far: str, tmp_path: Path
) -> None:
    value = os.urandom(3_000_000).hex().encode()
    (tmp_path / "value").write_bytes(value)
    cli = [need("redis-cli"), *where(redis, near, far)]
    with (tmp_path / "value").open("rb") as file:
        assert run([*cli, "-x", "set", "large"], stdin=file).strip() == "OK"
    back = run([*cli, "get", "large"]).strip().encode()
    assert hashlib.sha256(back).digest() == hashlib.sha256(value).digest()
